"""PolarGrad: the polar factor times the nuclear norm of what was decomposed, so the step shrinks with the gradient.

Steepest descent under the spectral norm, with the dual norm that Muon drops. The update is homogeneous of degree 1 in
the gradient, like gradient descent's: it goes to zero with it, and the learning rate has the units of 1 / curvature.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..engines import Engine
from ..iteration.protocols import Method
from ..kernels import Products
from ..methods import QDWH
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

    "heavy-ball" at lr is "momentum-first" at lr / (1 - mu); all are "vanilla" for mu = 0. There is no bias correction:
    the first step is 1 - mu of a vanilla one, a warm-up of its own, and rates are 5 to 10 times vanilla's.

    **nu and the oracle.** nu is taken with the very U that makes the step, in float32 (float64 for float64 weights),
    whatever precision U was computed in. So D is a descent direction, <A, D> = nu^2, for every oracle, and the error of
    nu is what `certify` calls the direction. An oracle whose U is c times too short makes the step c^2 times shorter:
    `lr` refers to the exact factor, and with the default method nu is exact to the dtype. ``scale="rank"`` removes the
    dependence: nu U / ||U||_F^2 is the projection of A on the line of U, the same for every multiple of U.

    **Learning rates.** There is no default, because lr has the units of 1 / (L r): L the curvature (Lipschitz constant
    of the gradient), r the rank. Sums instead of means in the loss, loss scales that were not removed, accumulation
    without division and clipping all change it. The step is safe for lr < 2 / (L r), and diverges beyond where singular
    values are equal; with ``scale="rank"`` the bound is 2 / L, as for gradient descent. Published rates belong to the
    authors' code with two steps of QDWH, whose U is too short: in float32 (nu 0.90 of the nuclear norm on a Gaussian
    matrix) multiply them by 0.6 to 0.7, in float64 (nu 0.18) by 0.03. Taken over as they are, they diverge here: 4e-8
    of the paper's quadratic, where the edge is at 3.3e-8, and 50 of its matrix completion, where 30 converges.

    **Embeddings and heads** may be given, ``plan(model, overrides={"embed.weight": "matrix"}, allow=("embedding",))``:
    rows of tokens that no gradient has reached stay exactly where they are (but for weight decay), since the factor is
    taken on the range, where zero rows and columns are zero.

    Args:
        params: ``plan(model)``, or an iterable of 2-D tensors, of (name, tensor) pairs, or of dict groups. A group
            may set any option below that is not an object, ``"rule": "adamw"``, or ``"layout"``
            (`matfn.optim.layout`) for tensors that are not 2-D.
        lr: learning rate, >= 0, with respect to the exact polar factor; see above.
        variant: one of the four. "polar-first" multiplies an average of directions by the nuclear norm of the moment,
            so one outlier scales the whole step; "momentum-first" averages both.
        momentum: in [0, 1); None is 0.95, the authors' choice. "vanilla" has none.
        power: of nu, in [0, 1]. 1 is PolarGrad, 0 is Muon without Nesterov momentum and shape factor.
        scale: "unit" 1, as in the paper; "rank" 1 / ||U||_F^2, which for an accurate U is 1 / r with the numerical rank
            r of A; one of Muon's; or a function of (m, n), such as ``lambda m, n: 1 / min(m, n)``.
        growth: a safeguard, > 1: nu is cut to so many times its running average (over about ten steps, of cut
            values; per matrix). None cuts nothing. 10 stops spikes alone; below 4 it also slows the first steps, in
            which the momentum fills.
        weight_decay: decoupled, >= 0, by lr wd, whatever nu and scale are.
        cautious: decay only entries on which update and weight agree in sign (there both shrink the weight).
        method: how the polar factor is computed, a value of `matfn.METHODS`; None is `QDWH()`, accurate at every
            condition number and usable at every rank, nothing read back.
        precision: dtype in which the iteration runs. None is that of the momentum: float32, float64 for float64
            weights. In bfloat16, U is 1 % off and so is nu.
        engine: as in `Muon`; for a method of polynomials.
        products: as in `Muon`.
        rules: as in `Muon`.
        rest: options of torch.optim.AdamW for the rest, as in `Muon`.

    Raises:
        ValueError: an option out of range, misspelt or unused (momentum for "vanilla"); see `Muon`.
        TypeError: see `Muon`.

    References:
        Lau, Long, Su, "PolarGrad: a class of matrix-gradient optimizers from a unifying preconditioning perspective",
        arXiv:2505.21799.
        Carlson et al., "Preconditioned spectral descent for deep learning", NeurIPS 2015 (vanilla, randomized SVD).
    """

    named_scales: Mapping[str, Scale] = {**SCALES, "rank": unit}  # "rank" divides in `Nuclear`, which knows U

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
        rules: Mapping[str, Callable[[Any], MatrixOptimizer]] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        if variant == "vanilla" and momentum:
            raise ValueError(f'PolarGrad: variant="vanilla" has no momentum, got {momentum}; leave it out.')
        defaults = {
            "lr": lr,
            "variant": variant,
            "momentum": (0.0 if variant == "vanilla" else 0.95) if momentum is None else momentum,
            "power": power,
            "scale": scale,
            "growth": growth,
            "weight_decay": weight_decay,
            "cautious": cautious,
        }
        method = QDWH() if method is None else method
        polar = Polar(method, precision, engine, products, purpose=Purpose.FACTOR)
        chain = (VariantEma(), Nuclear(polar))
        super().__init__(params, defaults, chain, rules=rules, rest=rest)
