"""Shampoo: the gradient between the inverse roots of its own second moments, one for each side of each block."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..run.plan import RunPlan
from .matrices.buckets import working_dtype
from .optimizer import MatrixOptimizer
from .rules.blocks import Cutting, blocks_of
from .rules.ema import Ema
from .rules.inverse_roots import InverseRoots
from .rules.roots import RootMethod, root_plan

__all__ = ["Shampoo"]


class Shampoo(MatrixOptimizer):
    r"""Shampoo for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For a block G (`cutting`) of the gradient of a matrix, of order k (2, or more for a convolution), unfolded along its
    sides to G_1, ..., G_k, with momentum mu, EMA factor beta2 and decay wd::

        B   <- mu B + (1 - mu) G                                     float32 (float64 for float64 weights)
        A_j <- beta2 A_j + (1 - beta2) G_j G_j^T                     at every `factor_every`-th step
        R_j  = (A_j / c + ridge ||A_j / c||_F I)^(-1/p)              at every `root_every`-th step, from `start` on
        D    = (B / c') multiplied by R_j along each side j          for a matrix R_1 (B / c') R_2
        W   <- (1 - lr wd) W - lr (size of the graft / ||D||_F) D    D as it is for graft "none"

    with p = 2 k (1/4 on each side of a matrix) and c, c' the bias corrections. Momentum is that of the gradient, as in
    Distributed Shampoo, not of the preconditioned update. Without averages, D is the polar factor of G, as for Muon.

    The graft lends its size to the direction of each whole matrix (not of each block): "sgd" the norm of B / c',
    "adam" that of Adam's step from B and a second moment with the same beta2. Before `start` it lends its direction.

    The factors are second moments: gradients with entries within 1e-18 and 1e18 in float32 (as for Adam). One that is
    not finite, or too large to be squared, is left out of the factors of its block; but NaN and infinity pass through
    the momentum to the weights, and an infinite square stops its entry of the graft "adam", both as for Adam. A
    RuntimeWarning names a block all of whose squares are lost: its root is the identity.

    A root is checked (`certify`) at the steps at which it is computed, which is where the host waits for the device,
    and nowhere else. What fails is computed again in float64 by `Exact`; what fails again, and a factor that is not
    finite, keeps its last root (the identity, if it never had one). Either way a RuntimeWarning says which parameter
    and block. No method of this library can start from the last roots: they do not commute with the new factor, and
    the coupled iteration is unstable from a start that does not. They are not used, then.

    Args:
        params: as for `Muon`.
        lr: learning rate, >= 0. Under the graft "adam" the one tuned for AdamW.
        momentum: in [0, 1).
        nesterov: mix the gradient into the momentum once more.
        weight_decay: decoupled, >= 0.
        cautious: decay only entries on which update and weight agree in sign.
        beta2: of the factors and of the graft "adam", in [0, 1). With `factor_every` k it spans k times as many steps.
        ridge: relative to ||A||_F, which is at least the largest eigenvalue of A, at most sqrt(n) times it, and close
            to it where a ridge matters; so it bounds the condition number by 1 + 1/ridge without an eigenvalue being
            computed. 1e-6 is usual, and about as low as float32 can see. 0 needs ``Exact(singular="pseudo-inverse")``.
        eps: of the graft "adam", as for AdamW.
        factor_every: steps from one update of the factors to the next.
        root_every: steps from one computation of the roots to the next. 10 to 100 is usual.
        start: step of the first roots, from 1.
        graft: "adam", "sgd" or "none".
        root: p of the inverse p-th roots: None for 2 k at order k, one number for every order (2 for 1/2 on each
            side), or a mapping from some orders to p.
        method: how a root is computed: a value of `matfn.METHODS`, or a function of p and of the bound that the ridge
            gives, such as `matfn.optim.resolvents` or `minimax`. None is the run plan's: in float32 on a CPU, from 96
            rows on, a sum of `Resolvents` within 1e-2, which is below what rounding and the age of the roots change, in
            two thirds to a third of the time; else `Exact()`. `root_choices` shows it. On a GPU try `minimax`.
        tolerance: of the "balanced" residual of a root (`certify`), about p times its relative error. An eigenvalue
            that was not lifted at all counts as 1; rounding in float32 leaves 0.1 at most at ridge 1e-6.
        cutting: block size, merging of small dimensions.
        rules: as in `Muon`.
        rest: as for `Muon`.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix.
        TypeError: as for `Muon`.

    References:
        Gupta, Koren, Singer, "Shampoo: Preconditioned stochastic tensor optimization", arXiv:1802.09568.
        Anil et al., "Scalable second order optimization for deep learning", arXiv:2002.09018 (blocks, delays).
        Agarwal et al., "Disentangling adaptive gradient methods from learning rates", arXiv:2002.11803 (grafting).
        Shi et al., "A distributed data-parallel PyTorch implementation of Distributed Shampoo", arXiv:2309.06497.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        cautious: bool = False,
        beta2: float = 0.99,
        ridge: float = 1e-6,
        eps: float = 1e-8,
        factor_every: int = 1,
        root_every: int = 10,
        start: int = 1,
        graft: str = "adam",
        root: int | Mapping[int, int] | None = None,
        method: RootMethod | None = None,
        tolerance: float = 0.2,
        cutting: Cutting | None = None,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": "unit",
            **{"beta2": beta2, "ridge": ridge, "eps": eps},
            **{"factor_every": factor_every, "root_every": root_every, "start": start},
        }
        rule = InverseRoots(Cutting() if cutting is None else cutting, graft, root, method, tolerance)
        super().__init__(params, defaults, (Ema(), rule), rules=rules, rest=rest)

    def root_choices(self) -> dict[tuple[int, int, float], RunPlan]:
        """The plan of each root without a `method`, by rows, p and ridge, with reasons; empty with a `method`."""
        found: dict[tuple[int, int, float], RunPlan] = {}
        rule = self.chain[1]
        assert isinstance(rule, InverseRoots)
        groups = [group for group in self.param_groups if group["rule"] == "matrix" and rule.method is None]
        for group, param in [(each, param) for each in groups for param in each["params"]]:
            for block in (block for shape in self.layouts[param].shapes for block in blocks_of(shape, rule.cutting)):
                for n in (n for n, factor in zip(block.shape, block.factors, strict=True) if factor is not None):
                    p, ridge = rule.p(len(block.shape)), float(group["ridge"])
                    found[n, p, ridge] = root_plan(n, p, ridge, working_dtype(param), param.device)
        return found
