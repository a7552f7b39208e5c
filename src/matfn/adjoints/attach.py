"""Attach: give a computed value the closed-form derivative of its function."""

from functools import partial

from torch import Tensor

from ..iteration.target import Target
from ..kernels.products import without_autocast
from .implicit import Compute, Implicit, Pullback
from .inverse import inverse_adjoint
from .roots import root_adjoint
from .sign import sign_adjoint

__all__ = ["adjoint", "attach"]


def attach(A: Tensor, compute: Compute, pullback: Pullback) -> tuple[Tensor, ...]:
    """Evaluate compute(A) without a graph, with `pullback` as its derivative.

    Args:
        A: (..., m, n), any supported dtype.
        compute: Maps A to the outputs.
        pullback: Maps A, the outputs and their gradients to the gradient of A; see `adjoint`, `polar_adjoint`.
    """
    with without_autocast(A):
        return Implicit.apply(A, compute, pullback, None) if A.numel() else compute(A)


def adjoint(target: Target, ridge: float) -> Pullback:
    """Return the pullback of A -> f(A + ridge I), for every target except the polar factor.

    The pullback works in float64 and uses A alone, not the computed value. So it is the gradient of the exact function,
    equally accurate for every method.
    """
    match target.name:
        case "sign":
            return sign_adjoint
        case "inv":
            return partial(inverse_adjoint, ridge)
    return partial(root_adjoint, target, ridge)
