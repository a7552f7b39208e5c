"""Muon: momentum, orthogonalized. The update of a matrix is the polar factor of its momentum.

Steepest descent under the spectral norm: of all updates with singular values at most 1, the polar factor U of the
momentum is the one most aligned with it. The rest of the model follows torch's AdamW (rest.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .optimizer import MatrixOptimizer
from .rules.ema import Ema
from .rules.polar import Polar
from .scale import Scale

__all__ = ["Muon"]


class Muon(MatrixOptimizer):
    r"""Muon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For the gradient G of a matrix W of m outputs and n inputs, with momentum mu and decay wd::

        B <- mu B + (1 - mu) G                      float32 (float64 for float64 weights), never in .grad
        N  = mu B + (1 - mu) G  if nesterov else B
        U  = polar factor of N, by `method`
        W <- (1 - lr wd) W - lr scale(m, n) U

    No epsilon enters: the update is the same for gradients of norm 1e-30 and 1e30, and zero for a zero gradient. NaN
    and infinite gradients pass through (a check would cost a synchronisation); use a GradScaler or test the loss.

    Args:
        params: ``plan(model)``, or an iterable of 2-D tensors, of (name, tensor) pairs, or of dict groups. A group
            may set any option below that is not an object, ``"rule": "adamw"``, or ``"layout"``
            (`matfn.optim.layout`) for tensors that are not 2-D.
        lr: learning rate, >= 0, with respect to the exact polar factor times the scale. 0.02 suits hidden matrices
            under the "jordan" scale; with "moonlight" take the one tuned for AdamW.
        momentum: in [0, 1). 0.95 is the field's default.
        nesterov: look one step ahead: mix the gradient into the momentum once more.
        weight_decay: decoupled, >= 0. 0 by default; 0.01 to 0.1 is usual in long runs.
        cautious: decay only entries on which update and weight agree in sign (there both shrink the weight).
        scale: "jordan" sqrt(max(1, m/n)), "spectral" sqrt(m/n), "moonlight" 0.2 sqrt(max(m, n)), or a function of (m,
            n). Of each block where a parameter is cut.
        method: how the polar factor is computed, a value of `matfn.METHODS`. None is three to five minimax
            steps, by size and device, and the Gram matrix from 2 : 3 on (`matfn.optim.rules.polar.usual`): the error of
            torch's Muon on momenta of training runs, in half the products. `PolarExpress()` has less error still;
            `Tuned("jordan")` is the classical one.
        precision: dtype in which the iteration runs. None is bfloat16, as in every Muon (1 % of the update's norm is
            rounding then, where five steps leave 10 %), but float32 for `QDWH` and the like, which are more than
            products, and float64 for float64 weights; torch.float32 costs 4 times
            the time on a CPU with bfloat16 arithmetic, and is faster on one without.
        engine: how the polynomials are applied, `Direct()` or `Gram(...)`; None is the choice of the default method, or
            of `matfn.engines.choose` for another one.
        products: the matrix products of the engine, such as `matfn.kernels.EAGER`; None for the choice by device, dtype
            and size (`matfn.kernels.choice_for`).
        rest: options of torch.optim.AdamW for the rest, e.g. ``dict(lr=3e-4, weight_decay=0.1)``; None takes AdamW's
            own defaults (lr 1e-3, weight_decay 1e-2). Under a plan, norms, biases and other vectors are not decayed.

    Keys of a group that are no option are kept, as torch keeps them (a scheduler's "initial_lr", a logger's "name"),
    unless they look like a misspelt one ("wd", "lrr", "learning_rate"): those are refused (`matfn.optim.options`).

    torch's OneCycleLR and CyclicLR cycle `momentum` of the matrices and, as with AdamW alone, beta1 of the rest, both
    between their ``base_momentum`` (0.85, or 0.8) and ``max_momentum`` (0.95, or 0.9): pass ``cycle_momentum=False`` to
    keep yours. They write one "momentum" into every group; in AdamW groups the next step or checkpoint makes it beta1.

    Raises:
        ValueError: an option out of range, misspelt or unused (`precision` under `Exact()` too); a matrix parameter
            that is no matrix.
        TypeError: `params` is a module, one tensor or a set; `method` is not a method object; an option is of another
            type (text for a number, a number for a flag).

    References:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
        Amsel et al., "The Polar Express", arXiv:2505.16932.
        Chen et al., "Cautious weight decay", arXiv:2510.12402 (`cautious`).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        cautious: bool = False,
        scale: str | Scale = "jordan",
        method: Method | None = None,
        precision: torch.dtype | None = None,
        engine: Engine | None = None,
        products: Products | None = None,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": scale,
        }
        chain = (Ema(), Polar(method, precision, engine, products))
        super().__init__(params, defaults, chain, rules=rules, rest=rest)
