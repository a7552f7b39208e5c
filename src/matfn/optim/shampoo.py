"""Shampoo: the gradient between the inverse roots of its own second moments, one for each side of each block."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..run.plan import RunPlan
from .matrices.buckets import working_dtype
from .optimizer import MatrixOptimizer
from .rules.blocks import Cutting, blocks_of
from .rules.ema import Ema
from .rules.roots import InverseRoots, RootMethod, root_plan

__all__ = ["Shampoo"]


class Shampoo(MatrixOptimizer):
    r"""Shampoo for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For a block G (`cutting`) of the gradient of a matrix, with k sides (2, or more for a convolution), unfolded along
    its sides to G_1, ..., G_k, with momentum mu, EMA factor beta2 and decay wd::

        B   <- mu B + (1 - mu) G                                     float32 (float64 for float64 weights)
        A_j <- beta2 A_j + (1 - beta2) G_j G_j^T                     at every `factor_every`-th step
        R_j  = (A_j / c + ridge ||A_j / c||_F I)^(-1/p)              at every `root_every`-th step, from `start` on
        D    = (B / c') multiplied by R_j along each side j          for a matrix R_1 (B / c') R_2
        W   <- (1 - lr wd) W - lr (size of the graft / ||D||_F) D    D alone for graft "none"

    with p = 2 k (1/4 on each side of a matrix) and bias corrections c, c'. Momentum averages gradients, as in
    Distributed Shampoo, not preconditioned updates. Without averages D is the polar factor of G, as in Muon.

    The graft sets the norm of each whole matrix (not of each block): "sgd" to the norm of B / c', "adam" to the norm of
    Adam's step from B and a second moment with the same beta2. Before `start` it also sets the direction.

    As in Adam, entries of gradients must be within 1e-18 and 1e18 in float32. A block whose gradient is not finite, or
    too large to be squared, is left out of the factors, but NaN and infinity reach the weights through the momentum,
    and an infinite square stops its entry of the graft "adam".

    Each new root is checked (`certify`). A root that fails is computed again in float64 by `Exact`. If that fails too,
    or the factor is not finite, the last root stays (the identity at first). If all squares of a block are lost, its
    root is the identity. A RuntimeWarning names the parameter and block in all these cases.

    On a CPU all of this happens at once. On a GPU the host does not wait: a root that fails keeps its last value for
    one step. At the start of the next step, before the factors change, the host reads the verdict, warns, and computes
    the root again. `state_dict`, copies, and processes that share parameters do so at once, so a resumed run equals an
    uninterrupted one. The host waits at the first roots of a parameter, for methods that decompose (`Exact`) or look at
    the matrix beforehand, and for zero factors, whose momentum it reads. In a CUDA graph captured by hand nothing is
    read: a root that fails keeps its last value without a warning.

    Args not listed, and errors, are as in `Muon`.

    Args:
        lr: Learning rate, >= 0. Under the graft "adam" use the one tuned for AdamW.
        beta2: Of the factors and of the graft "adam", in [0, 1). With `factor_every` k it spans k times as many steps.
        ridge: Relative to ||A||_F, >= 0. ||A||_F is at least the largest eigenvalue of A, and close to it where a ridge
            matters, so the condition number is at most 1 + 1/ridge without computing an eigenvalue. 1e-6 is usual, and
            about the least that float32 can resolve. 0 needs ``Exact(singular="pseudo-inverse")``.
        eps: Of the graft "adam", as in AdamW.
        factor_every: Steps from one update of the factors to the next.
        root_every: Steps from one computation of the roots to the next. 10 to 100 is usual. With the graft "none" roots
            are also computed 1, 2, 4, ... steps after the first ones: they set the size of the step, and the roots of a
            small first gradient would make the next steps huge.
        start: Step of the first roots, from 1.
        graft: "adam", "sgd" or "none".
        root: p of the inverse p-th roots: None is 2 k for k sides; one number holds for every k (2 for 1/2 on each
            side); a mapping gives p for some k.
        method: How a root is computed: a value of `matfn.METHODS`, or a function of p and of the lower bound that the
            ridge gives, such as `matfn.optim.resolvents` or `minimax`. None is the choice of the run plan, which
            `root_choices` shows: in float32 on a CPU, from 96 rows on, a sum of `Resolvents` within 1e-2, which is less
            than rounding and the age of the roots change, in two thirds to a third of the time; in float32 on a GPU,
            for a ridge from 5e-7 on, a composition of minimax steps within 1e-4, by products alone; else `Exact()`.
        tolerance: Of the "balanced" residual of a root (`certify`), about p times its relative error. An eigenvalue
            that the iteration has not moved counts as 1. Rounding in float32 leaves 0.1 at most at ridge 1e-6.
        cutting: Block size and merging of small dimensions. None is ``Cutting()``.

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
        rounding: str = "nearest",
        seed: int = 0,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        options |= {"cautious": cautious, "scale": "unit", "beta2": beta2, "ridge": ridge, "eps": eps}
        options |= {"factor_every": factor_every, "root_every": root_every, "start": start}
        options |= {"rounding": rounding, "seed": seed}
        rule = InverseRoots(Cutting() if cutting is None else cutting, graft, root, method, tolerance)
        super().__init__(params, options, (Ema(), rule), rules=rules, rest=rest)

    def root_choices(self) -> dict[tuple[int, int, float], RunPlan]:
        """{(rows, p, ridge): plan of the root, with reasons}. It is empty if a `method` was given."""
        found: dict[tuple[int, int, float], RunPlan] = {}
        rule = self.chain[1]
        assert isinstance(rule, InverseRoots)
        groups = [group for group in self.param_groups if group["rule"] == "matrix" and rule.method is None]
        for group, param in [(each, param) for each in groups for param in each["params"]]:
            for block in (block for shape in self.layouts[param].shapes for block in blocks_of(shape, rule.cutting)):
                for n in (block.shape[side] for side in block.sides):
                    p, ridge = rule.p(len(block.shape)), float(group["ridge"])
                    found[n, p, ridge] = root_plan(n, p, ridge, working_dtype(param), param.device)
        return found
