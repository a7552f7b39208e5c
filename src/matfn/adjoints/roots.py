"""Roots: the derivatives of roots and inverse roots, by the root equation."""

from functools import partial

import torch
from torch import Tensor

from ..errors import SpectrumError
from ..iteration.target import Target
from .equation import RootEquation
from .implicit import Gradients, Implicit

__all__ = ["root_adjoint", "symmetrised"]


def root_adjoint(target: Target, ridge: float, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Compute the symmetric gradient of R = (A + ridge I)^(1/p) or of R^-1.

    The gradient is the solution X of sum_{i+j=p-1} R^i X R^j = C, with C = G for a gradient G of R and
    C = -R^-1 G R^-1 for a gradient G of R^-1. A is symmetric, so only the symmetric parts of G and of the result count.

    Raises:
        SpectrumError: If A + ridge I is singular to the precision of its dtype; roots have no derivative there.
    """
    (G,) = gradients
    shift = ridge * torch.eye(A.shape[-1], dtype=torch.float64, device=A.device)
    A64 = symmetrised(A.to(torch.float64)) + shift
    compute = partial(_roots, target, torch.finfo(torch.promote_types(A.dtype, torch.float32)).eps)
    outputs = Implicit.apply(A64, compute, partial(_pulled, target.p), 2)
    both = (G.to(torch.float64), None) if target.homogeneity > 0 else (None, G.to(torch.float64))
    return symmetrised(_pulled(target.p, A64, outputs, both)).to(A.dtype)


def symmetrised(A: Tensor) -> Tensor:
    """Return the symmetric part; halving first avoids overflow."""
    return A / 2 + A.mT / 2


def _roots(target: Target, eps: float, A: Tensor) -> tuple[Tensor, ...]:
    """Return R, R^-1 and, as constants for autograd, the eigenvalues and eigenvectors of R."""
    values, V = torch.linalg.eigh(A)
    ratios = values[..., 0] / values[..., -1].abs()
    if not bool((ratios > eps).all()):
        raise SpectrumError(
            f"{target} has no derivative at a singular matrix: the smallest eigenvalue is "
            f"{ratios.nan_to_num().min().item():.3g} of the largest; add ridge=..."
        )
    r = values ** (1 / target.p)
    return (V * r.unsqueeze(-2)) @ V.mT, (V / r.unsqueeze(-2)) @ V.mT, r, V


def _pulled(p: int, _: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (R, B, r, V), (grad_R, grad_B) = outputs, gradients[:2]
    C = torch.zeros_like(R) if grad_R is None else symmetrised(grad_R)
    if grad_B is not None:
        C = C - B @ symmetrised(grad_B) @ B
    return RootEquation.apply(R, C, p, r, V, 1)
