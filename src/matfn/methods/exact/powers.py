"""Real powers of symmetric matrices by eigh, for `Exact`."""

import torch
from torch import Tensor

from ...iteration.target import Target
from ...linalg.definite import check_spectrum
from .newton_sign import peak_of

__all__ = ["power", "pseudo_power"]


def power(A: Tensor, eps: float, target: Target) -> Tensor:
    """A^h for symmetric positive (semi)definite A by eigh; h is the homogeneity of the target."""
    peak = peak_of(A)
    values, V = torch.linalg.eigh(A / peak)
    check_spectrum(values, str(target), eps if target.homogeneity < 0 else None, A.shape[-1] * eps)
    return (V * values.clamp(min=0).pow(target.homogeneity).unsqueeze(-2)) @ V.mT * peak**target.homogeneity


def pseudo_power(A: Tensor, zero: float, target: Target) -> Tensor:
    """A^h on the range of A, zero on its null space."""
    peak = peak_of(A)
    values, V = torch.linalg.eigh(A / peak)
    check_spectrum(values, str(target), None, zero)  # only negative eigenvalues are refused
    range_ = values > zero * values[..., -1:]
    powers = torch.where(range_, values.where(range_, 1.0).pow(target.homogeneity), 0.0)
    return (V * powers.unsqueeze(-2)) @ V.mT * peak**target.homogeneity
