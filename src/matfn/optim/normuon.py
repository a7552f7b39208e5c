"""NorMuon: Muon whose output rows are brought to one size, measured over many steps, at the norm the update had."""

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
from .rules.row_norm import RowNorm
from .scale import Scale

__all__ = ["NorMuon"]


class NorMuon(MatrixOptimizer):
    r"""NorMuon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    A polar factor has singular values of one size, but the rows of a tall one do not have: some neurons move much more
    than others. With the momentum N and its polar factor U as in `Muon`, and v of one entry per output row::

        v  <- beta2 v + (1 - beta2) mean over the row of U * U
        V  = U / (sqrt(v) + eps), row by row
        W <- (1 - lr wd) W - lr scale(m, n) V ||U||_F / ||V||_F

    The norm is that of Muon's update, so learning rates carry over. There is no bias correction: a factor common to all
    rows drops out with the norm. State beside the momentum: v, one number per row.

    Args:
        params: as in `Muon`.
        lr: as in `Muon`.
        momentum: in [0, 1).
        beta2: in [0, 1), of v. 0.95 is the authors' choice; 0 makes all rows equal in every step.
        nesterov: as in `Muon`.
        eps: >= 0, added to sqrt(v), which is about 1 / sqrt(n): it keeps rows of nothing but rounding small.
        weight_decay: as in `Muon`.
        cautious: as in `Muon`.
        scale: as in `Muon`. "moonlight" is the authors' 0.2 sqrt(m n) / ||V||_F, for an exact U.
        method: as in `Muon`.
        precision: as in `Muon`.
        engine: as in `Muon`.
        products: as in `Muon`.
        rest: as in `Muon`.

    Raises:
        ValueError: as `Muon`.
        TypeError: as `Muon`.

    References:
        Li et al., "NorMuon: making Muon more efficient and scalable", arXiv:2510.05491.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 0.02,
        *,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-8,
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
            "beta2": beta2,
            "nesterov": nesterov,
            "eps": eps,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": scale,
        }
        chain = (Ema(), Polar(method, precision, engine, products), RowNorm())
        super().__init__(params, defaults, chain, rules=rules, rest=rest)
