"""NorMuon: Muon whose output rows get equal size over many steps, without changing the norm of the update."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .optimizer import MatrixOptimizer
from .rules.ema import Ema
from .rules.norms import RowNorm
from .rules.polar import Polar
from .scale import Scale

__all__ = ["NorMuon"]


class NorMuon(MatrixOptimizer):
    r"""NorMuon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    A polar factor has equal singular values, but the rows of a tall one differ: some neurons move much more than
    others. With the momentum N and its polar factor U as in `Muon`, and v of one entry per output row::

        v  <- beta2 v + (1 - beta2) mean over the row of U * U
        V  = U / (sqrt(v) + eps), row by row
        W <- (1 - lr wd) W - lr scale(m, n) V ||U||_F / ||V||_F

    The update has the norm of Muon's, so learning rates carry over. Bias correction is not needed: a factor common to
    all rows cancels. The state is the momentum and v, one number per row.

    Args not listed, and errors, are as in `Muon`.

    Args:
        beta2: Of v, in [0, 1). 0.95 is the authors' choice; 0 makes all rows equal in every step.
        eps: Added to sqrt(v), which is about 1 / sqrt(n); >= 0. It keeps rows of mere rounding errors small.
        scale: As in `Muon`. "moonlight" is the authors' 0.2 sqrt(m n) / ||V||_F, for an exact U.

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
        rounding: str = "nearest",
        seed: int = 0,
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
        graph: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "beta2": beta2, "nesterov": nesterov, "eps": eps}
        options |= {"weight_decay": weight_decay, "cautious": cautious, "scale": scale}
        options |= {"rounding": rounding, "seed": seed}
        polar = Polar(method, precision, engine, products, owner=type(self).__name__)
        super().__init__(params, options, (Ema(), polar, RowNorm()), rules=rules, rest=rest, graph=graph)
