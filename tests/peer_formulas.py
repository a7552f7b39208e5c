"""Other packages' optimizers by their documented names and formulas, for packages that no index has.

Written from the formulas with decompositions, so that float64 weights move exactly. Only arguments that docs/migration/
uses are here, with the defaults of the packages.
"""

import math
from dataclasses import dataclass

import torch

JORDAN = ((3.4445, -4.7750, 2.0315),) * 5
YOU = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def quintics(matrix, rows, eps):
    """a x + b x^3 + c x^5 on the singular values, after a division by the Frobenius norm plus eps."""
    U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.norm() + eps)
    for a, b, c in rows:
        s = a * s + b * s**3 + c * s**5
    return U @ torch.diag(s) @ Vh


class Stepping(torch.optim.Optimizer):
    """Calls `move` for each parameter with a gradient, with its state, which counts the steps."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["t"] = state.get("t", 0) + 1
                self.move(p, p.grad.clone(), state, group)


def averaged(state, key, new, beta):
    state[key] = state.get(key, torch.zeros_like(new)) * beta + (1 - beta) * new
    return state[key]


def adam(state, g, betas, eps):
    """Adam's direction."""
    one, two = averaged(state, "one", g, betas[0]), averaged(state, "two", g.square(), betas[1])
    return one / (1 - betas[0] ** state["t"]) / ((two / (1 - betas[1] ** state["t"])).sqrt() + eps)


class SingleDeviceMuonWithAuxAdam(Stepping):
    """Keller Jordan's: groups with use_muon."""

    def __init__(self, param_groups):
        muon = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0}
        rest = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0}
        super().__init__([{**(muon if group["use_muon"] else rest), **group} for group in param_groups], {})

    def move(self, p, g, state, group):
        if group["use_muon"]:
            buffer = averaged(state, "momentum_buffer", g, group["momentum"])
            mixed = g.lerp(buffer, group["momentum"]).flatten(1)
            update = quintics(mixed, JORDAN, 1e-7) * max(1, g.shape[-2] / g.shape[-1]) ** 0.5
        else:
            update = adam(state, g, group["betas"], group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update.view_as(p))


class DionMuon(Stepping):
    """Microsoft's: groups with algorithm, momentum that sums."""

    def __init__(
        self,
        params,
        lr=0.01,
        mu=0.95,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        epsilon=1e-8,
        nesterov=False,
        adjust_lr="spectral_norm",
        use_polar_express=True,
    ):
        assert not use_polar_express, "the five steps of use_polar_express=True are not written out here"
        defaults = {"lr": lr, "mu": mu, "betas": betas, "weight_decay": weight_decay, "epsilon": epsilon}
        super().__init__(params, {**defaults, "nesterov": nesterov, "adjust_lr": adjust_lr, "algorithm": "muon"})

    def move(self, p, g, state, group):
        if group["algorithm"] == "adamw":
            update, lr = adam(state, g, group["betas"], group["epsilon"]), group["lr"]
        else:
            state["momentum"] = state.get("momentum", 0) * group["mu"] + g
            mixed = g + group["mu"] * state["momentum"] if group["nesterov"] else state["momentum"]
            m, n = p.shape
            scales = {None: 1.0, "spectral_norm": math.sqrt(m / n), "rms_norm": 0.2 * math.sqrt(max(m, n))}
            update, lr = quintics(mixed, YOU, group["epsilon"]), group["lr"] * scales[group["adjust_lr"]]
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(lr * update)


class MoonlightMuon(Stepping):
    """Moonlight's: two lists of parameters, one lr and one wd, momentum that sums."""

    def __init__(
        self,
        lr=1e-3,
        wd=0.1,
        muon_params=None,
        momentum=0.95,
        nesterov=True,
        ns_steps=5,
        adamw_params=None,
        adamw_betas=(0.9, 0.95),
        adamw_eps=1e-8,
    ):
        assert ns_steps == 5
        self.options = lr, wd, momentum, nesterov, adamw_betas, adamw_eps
        self.muon = {id(p) for p in muon_params}
        super().__init__([*muon_params, *(adamw_params or ())], {})

    def move(self, p, g, state, group):
        lr, wd, momentum, nesterov, betas, eps = self.options
        if id(p) in self.muon:
            state["momentum_buffer"] = state.get("momentum_buffer", 0) * momentum + g
            mixed = g + momentum * state["momentum_buffer"] if nesterov else state["momentum_buffer"]
            update = 0.2 * math.sqrt(max(p.shape)) * quintics(mixed, JORDAN, 1e-7)
        else:  # eps is added before the bias correction
            one, two = averaged(state, "one", g, betas[0]), averaged(state, "two", g.square(), betas[1])
            corrections = 1 - betas[0] ** state["t"], math.sqrt(1 - betas[1] ** state["t"])
            update = one / (two.sqrt() + eps) * corrections[1] / corrections[0]
        p.mul_(1 - lr * wd).sub_(lr * update)


@dataclass
class AdamPreconditionerConfig:
    beta2: float = 0.999
    epsilon: float = 1e-8


class DistributedShampoo(Stepping):
    """Meta's, for matrices of one block and graft Adam: absolute epsilon, roots by eigenvalues."""

    def __init__(
        self,
        params,
        lr=1e-2,
        betas=(0.9, 1.0),
        epsilon=1e-12,
        weight_decay=0.0,
        max_preconditioner_dim=1024,
        precondition_frequency=1,
        grafting_config=None,
    ):
        assert precondition_frequency == 1
        assert betas[1] < 1
        self.options = lr, betas, epsilon, weight_decay, max_preconditioner_dim, grafting_config
        super().__init__(params, {})

    def move(self, p, g, state, group):
        lr, betas, epsilon, weight_decay, largest, graft = self.options
        assert max(p.shape) <= largest
        corrections = [1 - beta ** state["t"] for beta in betas]
        filtered = averaged(state, "filtered", g, betas[0]) / corrections[0]
        second = averaged(state, "graft", g.square(), graft.beta2) / (1 - graft.beta2 ** state["t"])
        grafted = filtered / (second.sqrt() + graft.epsilon)
        update = filtered
        for axis in range(g.ndim):
            unfolded = g.movedim(axis, 0).flatten(1)
            factor = averaged(state, axis, unfolded @ unfolded.mT, betas[1]) / corrections[1]
            values, vectors = torch.linalg.eigh(factor + epsilon * torch.eye(len(factor), dtype=factor.dtype))
            root = vectors @ torch.diag(values ** (-1 / (2 * g.ndim))) @ vectors.mT
            update = torch.tensordot(root, update, ([1], [axis])).movedim(0, axis)
        update = update * grafted.norm() / update.norm()
        p.mul_(1 - lr * weight_decay).sub_(lr * update)
