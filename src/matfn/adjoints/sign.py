"""Sign: the derivative of the matrix sign, by one Sylvester equation."""

import torch
from torch import Tensor

from ..iteration.target import SIGN
from ..methods import Exact
from .equation import RootEquation
from .implicit import Gradients, Implicit

__all__ = ["sign_adjoint"]


def sign_adjoint(A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Return the gradient Y - S^T Y S^T, with A = S N and Y the solution of N^T Y + Y N^T = G.

    The formula follows from N dS + dS N = dA - S dA S. N = (A^2)^(1/2) = S A has its eigenvalues in the right
    half-plane, so Y is unique.

    References:
        N. J. Higham, "Functions of Matrices" (2008), Theorem 5.3 and its proof.
    """
    A64 = A.to(torch.float64)
    (S,) = Implicit.apply(A64, _sign, _pulled, 0)
    return _pulled(A64, (S,), gradients).to(A.dtype)


def _sign(A: Tensor) -> tuple[Tensor, ...]:
    return (Exact().evaluate(SIGN, A.reshape(-1, *A.shape[-2:])).reshape(A.shape),)


def _pulled(A: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (S,), (G,) = outputs, gradients
    Y = RootEquation.apply((S @ A).mT, G.to(torch.float64), 2, None, None, 1)
    return Y - S.mT @ Y @ S.mT
