"""The derivatives of roots and inverse roots, by one equation in the p-th root."""

from functools import partial

import torch
from torch import Tensor

from ..errors import SpectrumError
from ..iteration.target import Target
from .equation import RootEquation
from .implicit import Gradients, Implicit

__all__ = ["root_adjoint", "symmetrised"]


def root_adjoint(target: Target, ridge: float, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """The gradient of (A + ridge I)^(1/p) or of its inverse, symmetrised.

    With R the root and X the solution of sum_{i+j=p-1} R^i X R^j = C, the gradient is X: for C = G if G belongs to R,
    for C = -R^-1 G R^-1 if it belongs to R^-1. The functions take symmetric matrices, so that only the symmetric part
    of G counts and only symmetric changes of A have a meaning; of all gradients that say so, this is the symmetric one.

    Raises:
        SpectrumError: If A + ridge I is singular to the precision of its dtype, where roots have no derivative.
    """
    (G,) = gradients
    shift = ridge * torch.eye(A.shape[-1], dtype=torch.float64, device=A.device)
    A64 = symmetrised(A.to(torch.float64)) + shift
    compute = partial(_roots, target, torch.finfo(torch.promote_types(A.dtype, torch.float32)).eps)
    outputs = Implicit.apply(A64, compute, partial(_pulled, target.p), 2)
    both = (G.to(torch.float64), None) if target.homogeneity > 0 else (None, G.to(torch.float64))
    return symmetrised(_pulled(target.p, A64, outputs, both)).to(A.dtype)


def symmetrised(A: Tensor) -> Tensor:
    """The symmetric part, without overflow."""
    return A / 2 + A.mT / 2


def _roots(target: Target, eps: float, A: Tensor) -> tuple[Tensor, ...]:
    """R, its inverse, and the spectrum of R: four outputs, of which two are handed on as constants."""
    values, V = torch.linalg.eigh(A)
    ratios = values[..., 0] / values[..., -1].abs()
    if not bool((ratios > eps).all()):
        raise SpectrumError(
            f"{target} has no derivative at a singular matrix, and the smallest eigenvalue of this one is "
            f"{ratios.nan_to_num().min().item():.3g} of the largest: add ridge=..."
        )
    r = values ** (1 / target.p)
    return (V * r.unsqueeze(-2)) @ V.mT, (V / r.unsqueeze(-2)) @ V.mT, r, V


def _pulled(p: int, _: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (R, B, r, V), (grad_R, grad_B) = outputs, gradients[:2]
    C = torch.zeros_like(R) if grad_R is None else symmetrised(grad_R)
    if grad_B is not None:
        C = C - B @ symmetrised(grad_B) @ B
    return RootEquation.apply(R, C, p, r, V, 1)
