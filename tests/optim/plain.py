"""Shampoo and SOAP once more, for tests: plain float64 loops over blocks of one tensor, eigh, nothing shared."""

import itertools

import torch
from torch import nn

from matfn.optim.matrices.layout import convolution, linear, stack
from matfn.optim.rules.blocks import Cutting

# Each case: layout, cutting, how to see the parameter as tensors of merged dimensions, and where those are cut.
CASES = {
    "matrix": (linear((9, 7)), Cutting(), lambda w: [w], [[0, 9], [0, 7]]),
    "row": (linear((1, 7)), Cutting(), lambda w: [w[0]], [[0, 7]]),
    "blocks": (linear((9, 7)), Cutting(block=4), lambda w: [w], [[0, 3, 6, 9], [0, 3, 7]]),
    "fused": (linear((9, 4)).cut(3), Cutting(), lambda w: [w[:3], w[3:6], w[6:]], [[0, 3], [0, 4]]),
    "experts": (stack((3, 4, 6)), Cutting(block=3), lambda w: [w[0], w[1], w[2]], [[0, 2, 4], [0, 3, 6]]),
    "conv": (linear((6, 4, 3, 2)), Cutting(), lambda w: [w.reshape(6, 24)], [[0, 6], [0, 24]]),
    "conv, order 3": (
        linear((6, 4, 3, 2)),
        Cutting(merge=6, block=4),
        lambda w: [w.reshape(6, 4, 6)],
        [[0, 3, 6], [0, 4], [0, 3, 6]],
    ),
    "conv, order 4": (linear((6, 4, 3, 2)), Cutting(merge=1), lambda w: [w], [[0, 6], [0, 4], [0, 3], [0, 2]]),
    "groups": (
        convolution((6, 4, 3, 1), groups=2),
        Cutting(merge=3),
        lambda w: [w[:3].reshape(3, 4, 3), w[3:].reshape(3, 4, 3)],
        [[0, 3], [0, 4], [0, 3]],
    ),
}


def gradient(w, step):
    """Depends on the weights, so that an error at one step shows at the next; unequal directions, noise."""
    noise = torch.randn(w.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    scale = torch.linspace(0.2, 2.0, w.shape[-1], dtype=torch.float64)
    return 0.3 * (w.double() - 1) * scale + noise * scale


def parameter(layout, dtype=torch.float64):
    start = torch.randn(layout.shape, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return nn.Parameter(start.to(dtype))


def run(optimizer, param, steps):
    """So many steps of an optimizer on `gradient`."""
    for t in range(1, steps + 1):
        param.grad = gradient(param.detach(), t).to(param.dtype)
        optimizer.step()
    return param.detach()


def unfolded(x, side):
    return x.transpose(0, side).reshape(x.shape[side], -1)


def times(x, matrix, side):
    """Multiply along one side, by the definition."""
    return torch.tensordot(matrix, x, dims=([1], [side])).movedim(0, side)


def inverse_root(a, p, ridge):
    a = a + ridge * a.square().sum().sqrt() * torch.eye(len(a), dtype=a.dtype)
    values, vectors = torch.linalg.eigh(a)
    return vectors @ torch.diag(values ** (-1 / p)) @ vectors.T


class Plain:
    """One parameter, all in float64; a subclass gives `blockwise`, from one block's gradients to its update."""

    def __init__(self, case, param, **options):
        _, _, self.tensors, self.bounds = CASES[case]
        self.w = param.detach().double().clone()
        self.o = options
        self.t = 0
        self.state = {}

    def where(self):
        return [
            (k, tuple(slice(a, b) for a, b in w))
            for k, w in enumerate(itertools.product(*(itertools.pairwise(b) for b in self.bounds)))
        ]

    def run(self, steps):
        for _ in range(steps):
            self.t += 1
            g = gradient(self.w, self.t)
            directions = [self.tensor(i, x.clone()) for i, x in enumerate(self.tensors(g))]
            new = self.w.clone()
            lr, wd = self.o["lr"], self.o["weight_decay"]
            for target, d in zip(self.tensors(new), directions, strict=True):
                target.mul_(1 - lr * wd).sub_(lr * d)
            self.w = new
        return self.w


class PlainShampoo(Plain):
    def tensor(self, i, g):
        o, t = self.o, self.t
        s = self.state.setdefault(i, {"m": torch.zeros_like(g), "v": torch.zeros_like(g), "a": {}, "r": {}, "n": 0})
        s["m"] = o["momentum"] * s["m"] + (1 - o["momentum"]) * g
        s["v"] = o["beta2"] * s["v"] + (1 - o["beta2"]) * g * g
        m = s["m"] / (1 - o["momentum"] ** t)
        adam = m / ((s["v"] / (1 - o["beta2"] ** t)).sqrt() + o["eps"])
        lent = adam if o["graft"] == "adam" else m
        if (t - 1) % o["factor_every"] == 0:
            s["n"] += 1
            for k, where in self.where():
                for side in range(g.ndim):
                    u = unfolded(g[where], side)
                    old = s["a"].get((k, side), torch.zeros(len(u), len(u), dtype=u.dtype))
                    s["a"][k, side] = o["beta2"] * old + (1 - o["beta2"]) * (u @ u.T)
        if t < o["start"]:
            return lent
        early = o["graft"] == "none" and t - o["start"] in (1, 2, 4, 8, 16, 32) and t - o["start"] < o["root_every"]
        if early or (t - o["start"]) % o["root_every"] == 0:
            p = o["root"].get(g.ndim, 2 * g.ndim)
            for place, a in s["a"].items():
                s["r"][place] = inverse_root(a / (1 - o["beta2"] ** s["n"]), p, o["ridge"])
        d = torch.zeros_like(g)
        for k, where in self.where():
            block = m[where]
            for side in range(g.ndim):
                block = times(block, s["r"][k, side], side)
            d[where] = block
        return d if o["graft"] == "none" else d * (lent.square().sum() / d.square().sum()).sqrt()


class PlainSOAP(Plain):
    """`first(a)` gives the first eigenbasis of a: that of a singular matrix is one of many."""

    def tensor(self, i, g):
        o, t = self.o, self.t
        s = self.state.setdefault(i, {"m": torch.zeros_like(g), "v": {}, "a": {}, "q": {}})
        if t == 2:
            s["m"] = torch.zeros_like(g)  # the first gradient counts in the factors alone
        s["m"] = o["momentum"] * s["m"] + (1 - o["momentum"]) * g
        d = torch.zeros_like(g)
        for k, where in self.where():
            sides = [j for j in range(g.ndim) if g[where].shape[j] <= o["largest"]]
            if t > 1:
                v = s["v"].get(k, torch.zeros_like(g[where]))
                for side in sides:
                    if t == 2:
                        s["q"][k, side] = o["first"](s["a"][k, side], g.ndim)
                    elif (t - 2) % o["basis_every"] == 0:
                        a, q = s["a"][k, side], s["q"][k, side]
                        order = sorted(range(len(a)), key=lambda c: -float(q[:, c] @ a @ q[:, c]))
                        s["q"][k, side] = torch.linalg.qr(a @ q[:, order])[0]
                        v = v.index_select(side, torch.tensor(order))
                seen, moved = g[where], s["m"][where] / (1 - o["momentum"] ** (t - 1))
                for side in sides:
                    seen = times(seen, s["q"][k, side].T, side)
                    moved = times(moved, s["q"][k, side].T, side)
                s["v"][k] = v = o["beta2"] * v + (1 - o["beta2"]) * seen * seen
                moved = moved / ((v / (1 - o["beta2"] ** (t - 1))).sqrt() + o["eps"])
                for side in sides:
                    moved = times(moved, s["q"][k, side], side)
                d[where] = moved
            else:
                d[where] = s["m"][where] / (1 - o["momentum"]) / (g[where].abs() + o["eps"])
            for side in sides:
                u = unfolded(g[where], side)
                old = s["a"].get((k, side), torch.zeros(len(u), len(u), dtype=u.dtype))
                s["a"][k, side] = o["beta2"] * old + (1 - o["beta2"]) * (u @ u.T)
        return d
