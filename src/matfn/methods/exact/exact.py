"""Exact: functions by SVD, eigh or LU, and by Newton's iteration for the sign of a nonsymmetric matrix."""

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
    """Backward stable decompositions in float64 for every dtype; the default of the accurate functions.

    float32 input is computed in float64, too: eigh in float32 loses the small eigenvalues of an ill-conditioned matrix.
    float64 takes about twice the time and makes the result accurate to the dtype of the input.

    The polar factor is by SVD and zero on the null space: singular values up to max(m, n) eps sigma_1 count as zero,
    with the eps of the input; zero rows and columns stay exactly zero. Roots are by eigh, the inverse by LU. The sign
    is by eigh, or for a nonsymmetric matrix by Newton's iteration with norm scaling, which handles defective matrices.

    Attributes:
        singular: How to treat a singular matrix in an inverse or inverse root. "refuse": raise an error; eigenvalues up
            to eps times the largest count as zero. "pseudo-inverse": return zero on the null space (the Moore-Penrose
            inverse and its roots); eigenvalues up to n eps times the largest count as zero. The pseudo-inverse has no
            derivative at a singular matrix.

    Raises:
        ValueError: `singular` is another word.
    """

    singular: str = "refuse"

    def __post_init__(self) -> None:
        """Check `singular`."""
        if self.singular not in ("refuse", "pseudo-inverse"):
            raise ValueError(f'singular must be "refuse" or "pseudo-inverse", got {self.singular!r}')

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """Compute the function `target` of each matrix of A, (b, m, n).

        Raises:
            SpectrumError: If the function is not defined on the spectrum.
            ValueError: If a matrix for the polar factor has NaN or infinite entries.
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
        raise ValueError("Exact() needs finite matrices, but this one has NaN or infinite entries")
    W, sigma, Vh = torch.linalg.svd(A / peak_of(A), full_matrices=False)
    tolerance = max(A.shape[-2:]) * eps * sigma[..., :1]
    U = (W * (sigma > tolerance).unsqueeze(-2)) @ Vh
    live = A != 0
    return U * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)


def _inverse(A: Tensor) -> Tensor:
    peak = peak_of(A)
    A = A / peak
    inverse, info = inv_ex(A)
    # For a singular matrix LU may find a tiny pivot instead of zero; the inverse is then rounding noise.
    condition = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(inverse)
    if bool((info != 0).any()) or not bool((condition * torch.finfo(A.dtype).eps < 1).all()):
        raise SpectrumError(
            "inv needs an invertible matrix, but this one is singular to working precision: for a symmetric matrix add "
            "ridge=..."
        )
    return inverse / peak


def _sign(A: Tensor, eps: float) -> Tensor:
    if bool((A.mT == A).all()):
        values, V = torch.linalg.eigh(A / peak_of(A))
        floor = eps * values.abs().amax(-1, keepdim=True)
        if bool((values.abs() <= floor).any()):
            raise SpectrumError("signm needs nonzero eigenvalues, but the matrix is singular to working precision")
        return (V * values.sign().unsqueeze(-2)) @ V.mT
    return newton_sign(A)
