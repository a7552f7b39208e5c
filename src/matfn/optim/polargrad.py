"""PolarGrad: the polar factor times the nuclear norm of the decomposed matrix, so the step shrinks with the gradient.

This is steepest descent under the spectral norm. Muon drops the nuclear norm (the dual norm) from it. The update is
proportional to the size of the gradient, as in gradient descent, so the learning rate has the units of 1 / curvature.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from ..run.plan import Purpose
from .optimizer import MatrixOptimizer
from .rules.ema import VariantEma
from .rules.nuclear import VARIANTS, Nuclear
from .rules.polar import Polar
from .scale import SCALES, Scale, unit

__all__ = ["VARIANTS", "PolarGrad"]


class PolarGrad(MatrixOptimizer):
    r"""PolarGrad for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For the gradient G of a matrix W, with momentum mu, decay wd and buffer M (zero at first)::

        "momentum-first"   M <- mu M + (1 - mu) G      A = M   U = polar(A)   D = nu^power U
        "heavy-ball"       M <- mu M + G               A = M   U = polar(A)   D = nu^power U
        "vanilla"                                      A = G   U = polar(A)   D = nu^power U
        "polar-first"      M <- mu M + (1 - mu) U      A = G   U = polar(A)   D = nu^power M

        nu = <A, U>                                    ||A||_*, the nuclear norm, for the exact factor
        W <- (1 - lr wd) W - lr scale D

    "heavy-ball" at lr is "momentum-first" at lr / (1 - mu). All are "vanilla" for mu = 0. There is no bias correction:
    the first step is 1 - mu of a vanilla one, and learning rates are 5 to 10 times vanilla's.

    nu is computed from the same U as the step, in float32 (float64 for float64 weights). So D is a descent direction
    for every method. A U that is c times too short makes the step c^2 times shorter, except with ``scale="rank"``.

    There is no default learning rate, because lr has the units of 1 / (L r), where L is the Lipschitz constant of the
    gradient and r the rank. A step is safe for lr < 2 / (L r), or lr < 2 / L with ``scale="rank"``. Published rates
    belong to a U that is too short, and diverge here. docs/optimizers.md has the factors, and measurements of methods.

    Embeddings and heads are allowed: ``plan(model, overrides={"embed.weight": "matrix"}, allow=("embedding",))``. Rows
    of tokens without a gradient do not move, except by weight decay.

    Args not listed, and errors, are as in `Muon`.

    Args:
        lr: Learning rate, >= 0, for the exact polar factor; see above.
        variant: One of the four. "polar-first" multiplies an average of directions by the nuclear norm of one gradient,
            so one outlier scales the whole step. "momentum-first" averages both.
        momentum: In [0, 1). None is 0.95, the authors' choice. "vanilla" has none, and refuses one.
        power: Of nu, in [0, 1]. 1 is PolarGrad, 0 is Muon without Nesterov momentum and shape factor.
        scale: "unit" 1, as in the paper; "rank" 1 / ||U||_F^2, which for an accurate U is 1 / r with the numerical rank
            r of A; one of Muon's; or a function of (m, n), such as ``lambda m, n: 1 / min(m, n)``.
        growth: A safeguard, > 1: nu is cut to this multiple of its running average, for each matrix (over about ten
            steps, of cut values). None cuts nothing. 10 stops only spikes; below 4 it also slows the first steps,
            during which the momentum grows.
        weight_decay: Decoupled, >= 0, by lr wd, whatever nu and scale are.
        method: How the polar factor is computed, a value of `matfn.METHODS`. None is `QDWH()`, accurate at every
            condition number and usable at every rank, without synchronisation. It counts singular values up to max(m,
            n) eps of the largest as zero, in float32 .006 of it for 50,000 rows; `QDWH(lower=1e-5)` keeps them.
        precision: Dtype of the iteration. None is the dtype of the momentum: float32, or float64 for float64 weights.
            In bfloat16, U and nu have errors of 1 %.

    References:
        Lau, Long, Su, "PolarGrad: a class of matrix-gradient optimizers from a unifying preconditioning perspective",
        arXiv:2505.21799.
        Carlson et al., "Preconditioned spectral descent for deep learning", NeurIPS 2015 (vanilla, randomized SVD).
    """

    named_scales: Mapping[str, Scale] = {**SCALES, "rank": unit}  # `Nuclear` applies "rank", since it has U

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        variant: str = "momentum-first",
        momentum: float | None = None,
        power: float = 1.0,
        scale: str | Scale = "unit",
        growth: float | None = None,
        weight_decay: float = 0.0,
        cautious: bool = False,
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
        if variant == "vanilla" and momentum:
            raise ValueError(f'PolarGrad: variant="vanilla" has no momentum, got {momentum}; leave it out.')
        momentum = (0.0 if variant == "vanilla" else 0.95) if momentum is None else momentum
        options = {"lr": lr, "variant": variant, "momentum": momentum, "power": power, "scale": scale}
        options |= {"growth": growth, "weight_decay": weight_decay, "cautious": cautious}
        options |= {"rounding": rounding, "seed": seed}
        polar = Polar(method, precision, engine, products, purpose=Purpose.ORACLE, owner=type(self).__name__)
        super().__init__(params, options, (VariantEma(), Nuclear(polar)), rules=rules, rest=rest, graph=graph)
