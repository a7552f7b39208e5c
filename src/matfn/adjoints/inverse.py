"""Inverse: the derivative of (A + ridge I)^-1."""

import torch
from torch import Tensor

from ..linalg.lu import inv_ex
from .implicit import Gradients

__all__ = ["inverse_adjoint"]


def inverse_adjoint(ridge: float, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Return the gradient -B^T G B^T for B = (A + ridge I)^-1, by LU in float64."""
    (G,) = gradients
    shift = ridge * torch.eye(A.shape[-1], dtype=torch.float64, device=A.device)
    B = inv_ex(A.to(torch.float64) + shift)[0].mT
    return (-B @ G.to(torch.float64) @ B).to(A.dtype)
