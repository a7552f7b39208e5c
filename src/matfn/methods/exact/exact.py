"""Exact: the function by a decomposition - SVD, eigh, or Newton's iteration for a non-symmetric sign."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import SpectrumError
from ...iteration.target import Target
from ...linalg.lu import inv_ex
from .newton_sign import newton_sign, peak_of
from .powers import power, pseudo_power

__all__ = ["Exact"]


@dataclass(frozen=True)
class Exact:
    """Backward stable decompositions in float64, whatever the dtype; the default of the accurate functions.

    In float64 the result is as accurate as the dtype of the input can hold, even for an ill-conditioned float32 matrix
    (an eigh in float32 loses the small eigenvalues), at about twice the time.

    polar: SVD, on the range: singular values up to max(m, n) eps sigma_1 count as zero, with the eps of the input, and
    rows and columns of exact zeros stay exactly zero. Roots: eigh. Inverse: LU. sign: eigh, or for a non-symmetric
    matrix Newton's iteration with norm scaling, which unlike an eigendecomposition also copes with defective matrices.

    Attributes:
        singular: What an inverse or an inverse root of a singular matrix is. "refuse": an error; an eigenvalue up to
            eps times the largest counts as zero. "pseudo-inverse": zero on the null space (the Moore-Penrose inverse
            and its roots); n eps times the largest counts as zero. It has no derivative at a singular matrix.
    """

    singular: str = "refuse"

    def __post_init__(self) -> None:
        """Refuse another word."""
        if self.singular not in ("refuse", "pseudo-inverse"):
            raise ValueError(f'singular must be "refuse" or "pseudo-inverse", got {self.singular!r}')

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """The function `target` of each matrix of A, (b, m, n).

        Raises:
            SpectrumError: If the spectrum lies where the function is not defined.
        """
        eps = torch.finfo(A.dtype).eps
        A = A.to(torch.float64)
        match target.name, self.singular:
            case "polar", _:
                return _polar(A, eps)
            case "sign", _:
                return _sign(A, eps)
            case "inv", "refuse":
                return _inverse(A)
            case "inv", _:
                return torch.linalg.pinv(A / peak_of(A), rtol=A.shape[-1] * eps) / peak_of(A)
            case _, "refuse":
                return power(A, eps, target)
        return pseudo_power(A, A.shape[-1] * eps, target)


def _polar(A: Tensor, eps: float) -> Tensor:
    if not bool(torch.isfinite(A).all()):
        raise ValueError("Exact() takes finite matrices, and this one has NaN or infinite entries")
    W, sigma, Vh = torch.linalg.svd(A / peak_of(A), full_matrices=False)
    tolerance = max(A.shape[-2:]) * eps * sigma[..., :1]
    U = (W * (sigma > tolerance).unsqueeze(-2)) @ Vh
    live = A != 0
    return U * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)


def _inverse(A: Tensor) -> Tensor:
    peak = peak_of(A)
    A = A / peak
    inverse, info = inv_ex(A)
    # LU of a singular matrix may end in a tiny pivot instead of a zero one, and an inverse of nothing but rounding.
    condition = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(inverse)
    if bool((info != 0).any()) or not bool((condition * torch.finfo(A.dtype).eps < 1).all()):
        raise SpectrumError(
            "inv needs an invertible matrix, and this one is singular to working precision: for a symmetric one add "
            "ridge=..."
        )
    return inverse / peak


def _sign(A: Tensor, eps: float) -> Tensor:
    if bool((A.mT == A).all()):
        values, V = torch.linalg.eigh(A / peak_of(A))
        floor = eps * values.abs().amax(-1, keepdim=True)
        if bool((values.abs() <= floor).any()):
            raise SpectrumError("signm needs a spectrum off zero, but the matrix is singular to working precision")
        return (V * values.sign().unsqueeze(-2)) @ V.mT
    return newton_sign(A)
