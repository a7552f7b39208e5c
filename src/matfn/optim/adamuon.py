"""AdaMuon: Muon on the signs of the momentum, each entry of the update brought to one size over many steps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .optimizer import MatrixOptimizer
from .rules.element_norm import ElementNorm, Sign
from .rules.ema import Ema
from .rules.polar import Polar
from .scale import Scale

__all__ = ["AdaMuon"]


class AdaMuon(MatrixOptimizer):
    r"""AdaMuon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For the gradient G of a matrix W of m outputs and n inputs, with momentum mu and decay wd::

        B <- mu B + (1 - mu) G                      float32 (float64 for float64 weights), never in .grad
        N  = mu B + (1 - mu) G  if nesterov else B
        O  = polar factor of sign(N), by `method`
        V <- beta2 V + (1 - beta2) O * O            entry by entry
        D  = O / (sqrt(V) + eps)
        W <- (1 - lr wd) W - lr scale(m, n) sqrt(min(m, n)) D / ||D||_F

    With the default scale the factor before D is lr 0.2 sqrt(m n) / ||D||_F: the entries of the update have root mean
    square 0.2, about what AdamW's have, so that its learning rates and schedules carry over. There is no bias
    correction: a factor common to all entries drops out with the norm. The published algorithm sums gradients,
    B <- mu B + G, which has the same signs. Its first version took the polar factor of N itself.

    The update is the same for gradients of norm 1e-30 and 1e30. An entry whose momentum is zero has sign 0. The
    state is the momentum and V, one number of each for each weight, as for AdamW.

    Args:
        params: as in `Muon`.
        lr: learning rate, >= 0. With the default scale take the one tuned for AdamW.
        momentum: in [0, 1).
        beta2: in [0, 1), of V. The published algorithm has one number, 0.95, for both.
        nesterov: as in `Muon`; the published algorithm has none.
        eps: >= 0, added to sqrt(V), which is about 1 / sqrt(max(m, n)).
        weight_decay: as in `Muon`.
        cautious: as in `Muon`.
        scale: as in `Muon`; the polar factor that it multiplies there has the norm that D is given here.
        method: as in `Muon`.
        precision: as in `Muon`.
        engine: as in `Muon`.
        products: as in `Muon`.
        rules: as in `Muon`.
        rest: as in `Muon`.

    Raises:
        ValueError: as `Muon`.
        TypeError: as `Muon`.

    References:
        Si, Zhang, Shen, "AdaMuon: Adaptive Muon optimizer", arXiv:2507.11005 (version 2 and later).
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        *,
        momentum: float = 0.95,
        beta2: float = 0.95,
        nesterov: bool = False,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        cautious: bool = False,
        scale: str | Scale = "moonlight",
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
        chain = (Ema(), Sign(), Polar(method, precision, engine, products), ElementNorm())
        super().__init__(params, defaults, chain, rules=rules, rest=rest)
