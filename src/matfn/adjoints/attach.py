"""Attach: give a computed value the closed-form derivative of the function it stands for."""

from functools import partial

from torch import Tensor

from ..iteration.target import Target
from ..linalg.autocast import without_autocast
from .implicit import Compute, Implicit, Pullback
from .inverse import inverse_adjoint
from .roots import root_adjoint
from .sign import sign_adjoint

__all__ = ["adjoint", "attach"]


def attach(A: Tensor, compute: Compute, pullback: Pullback) -> tuple[Tensor, ...]:
    """compute(A), evaluated without a graph, with `pullback` as its derivative.

    Args:
        A: (..., m, n), any supported dtype.
        compute: From A to the outputs.
        pullback: From A, the outputs and their gradients to the gradient of A; see `adjoint`, `polar_adjoint`.
    """
    with without_autocast(A):
        return Implicit.apply(A, compute, pullback, None) if A.numel() else compute(A)


def adjoint(target: Target, ridge: float) -> Pullback:
    """The pullback of A -> f(A + ridge I), for every target but the polar factor.

    It works in float64 and looks at A alone: the gradient is that of the function, not of the approximation that a
    method made of it, and as accurate for a quick method as for a slow one.
    """
    match target.name:
        case "sign":
            return sign_adjoint
        case "inv":
            return partial(inverse_adjoint, ridge)
    return partial(root_adjoint, target, ridge)
