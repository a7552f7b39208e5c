"""AdaMuon: Muon on the signs of the momentum, each entry of the update divided by its size over many steps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from .optimizer import MatrixOptimizer
from .rules.ema import Ema
from .rules.norms import ElementNorm, Sign
from .rules.polar import Polar
from .scale import Scale

__all__ = ["AdaMuon"]


class AdaMuon(MatrixOptimizer):
    r"""AdaMuon for the matrices, torch's AdamW for the rest, in one torch optimizer.

    With the momentum N as in `Muon`::

        O  = polar factor of sign(N), by `method`
        V <- beta2 V + (1 - beta2) O * O            entry by entry
        D  = O / (sqrt(V) + eps)
        W <- (1 - lr wd) W - lr scale(m, n) sqrt(min(m, n)) D / ||D||_F

    With the default scale the entries of the update have root mean square 0.2, about as in AdamW, so AdamW's learning
    rates and schedules carry over. Bias correction is not needed: a factor common to all entries cancels. The published
    algorithm sums gradients, B <- mu B + G, which has the same signs. Its first version took the polar factor of N.

    An entry whose momentum is zero has sign 0. The state is the momentum and V, two numbers per weight as in AdamW.

    Args not listed, and errors, are as in `Muon`.

    Args:
        lr: Learning rate, >= 0. With the default scale use the one tuned for AdamW.
        beta2: Of V, in [0, 1). The published algorithm has one number, 0.95, for momentum and beta2.
        nesterov: As in `Muon`. The published algorithm has none.
        eps: Added to sqrt(V), which is about 1 / sqrt(max(m, n)); >= 0.
        scale: As in `Muon`, whose polar factor has the same norm as sqrt(min(m, n)) D / ||D||_F.

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
        super().__init__(params, options, (Ema(), Sign(), polar, ElementNorm()), rules=rules, rest=rest, graph=graph)
