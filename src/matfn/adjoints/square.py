"""Square: the derivatives of the functions of square matrices: sign, inverse, roots and inverse roots."""

from functools import partial

import torch
from torch import Tensor

from ..errors import SpectrumError, which
from ..iteration.target import SIGN, Target
from ..linalg.lu import inv_ex
from ..methods import Exact
from .equation import RootEquation
from .implicit import Gradients, Implicit, Pullback, symmetrised

__all__ = ["adjoint"]


def adjoint(target: Target) -> Pullback:
    """Return the pullback of A -> f(A), for every target except the polar factor.

    The pullback works in float64 and uses A alone, not the computed value. So it is the gradient of the exact function,
    equally accurate for every method.
    """
    match target.name:
        case "sign":
            return _sign_adjoint
        case "inv":
            return _inverse_adjoint
    return partial(_root_adjoint, target)


def _inverse_adjoint(A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Return the gradient -B^T G B^T for B = A^-1, by LU in float64."""
    (G,) = gradients
    B = inv_ex(A.to(torch.float64))[0].mT
    return (-B @ G.to(torch.float64) @ B).to(A.dtype)


def _sign_adjoint(A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Return the gradient Y - S^T Y S^T, with A = S N and Y the solution of N^T Y + Y N^T = G.

    The formula follows from N dS + dS N = dA - S dA S. N = (A^2)^(1/2) = S A has its eigenvalues in the right
    half-plane, so Y is unique.

    References:
        N. J. Higham, "Functions of Matrices" (2008), Theorem 5.3 and its proof.
    """
    A64 = A.to(torch.float64)
    (S,) = Implicit.apply(A64, _sign, _pulled_sign, 0)
    return _pulled_sign(A64, (S,), gradients).to(A.dtype)


def _sign(A: Tensor) -> tuple[Tensor, ...]:
    return (Exact().evaluate(SIGN, A.reshape(-1, *A.shape[-2:])).reshape(A.shape),)


def _pulled_sign(A: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (S,), (G,) = outputs, gradients
    Y = RootEquation.apply((S @ A).mT, G.to(torch.float64), 2, None, None, 1)
    return Y - S.mT @ Y @ S.mT


def _root_adjoint(target: Target, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Compute the symmetric gradient of R = A^(1/p) or of R^-1.

    The gradient is the solution X of sum_{i+j=p-1} R^i X R^j = C, with C = G for a gradient G of R and
    C = -R^-1 G R^-1 for a gradient G of R^-1. A is symmetric, so only the symmetric parts of G and of the result count.

    Raises:
        SpectrumError: If A is singular to the precision of its dtype; roots have no derivative there.
    """
    (G,) = gradients
    A64 = symmetrised(A.to(torch.float64))
    compute = partial(_roots, target, torch.finfo(torch.promote_types(A.dtype, torch.float32)).eps)
    outputs = Implicit.apply(A64, compute, partial(_pulled_root, target.p), 2)
    both = (G.to(torch.float64), None) if target.homogeneity > 0 else (None, G.to(torch.float64))
    return symmetrised(_pulled_root(target.p, A64, outputs, both)).to(A.dtype)


def _roots(target: Target, eps: float, A: Tensor) -> tuple[Tensor, ...]:
    """Return R, R^-1 and, as constants for autograd, the eigenvalues and eigenvectors of R."""
    values, V = torch.linalg.eigh(A)
    ratios = values[..., 0] / values[..., -1].abs()
    singular = ~(ratios > eps)  # also for NaN, from a zero matrix
    if bool(singular.any()):
        raise SpectrumError(
            f"{target} has no derivative at a singular matrix: the smallest eigenvalue of {which(singular)} is "
            f"{ratios[singular][0].nan_to_num().item():.3g} of the largest; add ridge=..."
        )
    r = values ** (1 / target.p)
    return (V * r.unsqueeze(-2)) @ V.mT, (V / r.unsqueeze(-2)) @ V.mT, r, V


def _pulled_root(p: int, _: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (R, B, r, V), (grad_R, grad_B) = outputs, gradients[:2]
    C = torch.zeros_like(R) if grad_R is None else symmetrised(grad_R)
    if grad_B is not None:
        C = C - B @ symmetrised(grad_B) @ B
    return RootEquation.apply(R, C, p, r, V, 1)
