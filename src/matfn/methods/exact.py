"""Exact: functions by SVD, eigh or LU, and by Newton's iteration for the sign of a nonsymmetric matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SpectrumError, shown, which
from ..iteration.target import POLAR, Target
from ..linalg.definite import check_spectrum
from ..linalg.lu import inv_ex

__all__ = ["Exact"]

_NEWTON_STEPS = 100  # scaled Newton needs about 9 for condition numbers up to 1/eps


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
    """

    singular: str = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.singular, str) or self.singular not in ("refuse", "pseudo-inverse"):
            raise ValueError(f'singular must be "refuse" or "pseudo-inverse", got {shown(self.singular)}')

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """Compute the function `target` of each matrix of A, (b, m, n).

        Raises:
            SpectrumError: If the function is not defined on the spectrum.
            ValueError: If a matrix has NaN or infinite entries.
        """
        eps = torch.finfo(A.dtype).eps
        A = _checked(target, A)
        if target.name == "polar":
            return _polar(A, eps)
        return _sign(A, eps) if target.name == "sign" else self._power(target, A, eps, eps)

    def complete_polar(self, A: Tensor) -> Tensor:
        """Compute U V^T for each A = U S V^T, (b, m, n), in float64: orthonormal also where singular values are zero.

        Raises:
            ValueError: If a matrix has NaN or infinite entries.
        """
        A = _checked(POLAR, A)
        W, _, Vh = torch.linalg.svd(A / _peak_of(A), full_matrices=False)
        return W @ Vh

    def evaluate_sum(self, target: Target, A: Tensor, eps: float) -> Tensor:
        """Compute a root or an inverse of each A, (b, n, n) in float64, which is a sum with a ridge.

        The ridge was not rounded, so an eigenvalue counts as zero only up to eps of float64. Rounding of the matrix
        before the sum may have made eigenvalues negative; `eps`, of its dtype, says how far.

        Raises:
            SpectrumError: If the function is not defined on the spectrum.
        """
        return self._power(target, A, torch.finfo(A.dtype).eps, eps)

    def _power(self, target: Target, A: Tensor, zero: float, rounding: float) -> Tensor:
        """Compute A^h of each A in float64, with h = target.homogeneity.

        Eigenvalues count as zero up to n `zero` (or `zero`, for "refuse"), relative to the largest, and may be negative
        by n `rounding`.
        """
        n = A.shape[-1]
        match target.name, self.singular:
            case "inv", "refuse":
                return _inverse(A)
            case "inv", _:
                return torch.linalg.pinv(A / _peak_of(A), rtol=n * zero) / _peak_of(A)
            case _, "refuse":
                return _power(A, zero, n * rounding, target)
        return _pseudo_power(A, n * zero, n * rounding, target)


def _checked(target: Target, A: Tensor) -> Tensor:
    """A in float64; refuses entries that are not finite."""
    A = A.to(torch.float64)
    finite = torch.isfinite(A).all(-1).all(-1)
    if not bool(finite.all()):
        raise ValueError(f"{target} by Exact() needs finite matrices, but {which(~finite)} has NaN or infinite entries")
    return A


def _polar(A: Tensor, eps: float) -> Tensor:
    W, sigma, Vh = torch.linalg.svd(A / _peak_of(A), full_matrices=False)
    tolerance = max(A.shape[-2:]) * eps * sigma[..., :1]
    U = (W * (sigma > tolerance).unsqueeze(-2)) @ Vh
    live = A != 0
    return U * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)


def _inverse(A: Tensor) -> Tensor:
    peak = _peak_of(A)
    A = A / peak
    inverse, info = inv_ex(A)
    # For a singular matrix LU may find a tiny pivot instead of zero; the inverse is then rounding noise.
    condition = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(inverse)
    singular = (info != 0) | ~(condition * torch.finfo(A.dtype).eps < 1)
    if bool(singular.any()):
        raise SpectrumError(
            f"inv needs an invertible matrix, but {which(singular)} is singular to working precision: for a symmetric "
            'matrix add ridge=..., or take method=Exact("pseudo-inverse")'
        )
    return inverse / peak


def _sign(A: Tensor, eps: float) -> Tensor:
    if bool((A.mT == A).all()):
        values, V = torch.linalg.eigh(A / _peak_of(A))
        floor = eps * values.abs().amax(-1, keepdim=True)
        singular = (values.abs() <= floor).any(-1)
        if bool(singular.any()):
            raise SpectrumError(
                f"signm needs nonzero eigenvalues, but {which(singular)} is singular to working precision: add r I, "
                "which moves small eigenvalues off zero"
            )
        return (V * values.sign().unsqueeze(-2)) @ V.mT
    return _newton_sign(A)


def _newton_sign(A: Tensor) -> Tensor:
    """Iterate X <- (mu X + (mu X)^-1) / 2, which converges quadratically near the sign."""
    X, eps = A / _peak_of(A), torch.finfo(A.dtype).eps
    change = torch.ones_like(X[:, 0, 0])
    for _ in range(_NEWTON_STEPS):
        Y, info = inv_ex(X)
        if bool((info != 0).any()):
            raise SpectrumError(
                f"signm needs eigenvalues off the imaginary axis, but to working precision {which(info != 0)} has some "
                "on it (zero, or a pair such as i and -i)"
            )
        mu = (torch.linalg.matrix_norm(Y) / torch.linalg.matrix_norm(X)).sqrt()[..., None, None]
        new = (mu * X + Y / mu) / 2
        change = torch.linalg.matrix_norm(new - X) / torch.linalg.matrix_norm(new)
        X = new
        if bool((change <= eps**0.5).all()):  # quadratic: the next step is exact to rounding
            return (X + inv_ex(X)[0]) / 2
    raise SpectrumError(
        f"signm did not converge: {which(~(change <= eps**0.5))} has eigenvalues on or very near the imaginary axis"
    )


def _peak_of(A: Tensor) -> Tensor:
    """Return a power of two near the largest entry of each matrix, (b, 1, 1); 1 for a zero matrix.

    Division by a power of two is exact, and keeps eigenvalues, norms and products of norms from overflow.
    """
    peak = A.detach().abs().amax((-2, -1), keepdim=True)
    return torch.ldexp(torch.ones_like(peak), torch.where(peak == 0, 0, torch.frexp(peak).exponent - 1))


def _power(A: Tensor, zero: float, negative: float, target: Target) -> Tensor:
    """Compute A^h of each symmetric positive (semi)definite A, (b, n, n); the limits are as in `check_spectrum`."""
    peak = _peak_of(A)
    values, V = torch.linalg.eigh(A / peak)
    check_spectrum(values, str(target), zero if target.homogeneity < 0 else None, negative)
    return (V * values.clamp(min=0).pow(target.homogeneity).unsqueeze(-2)) @ V.mT * peak**target.homogeneity


def _pseudo_power(A: Tensor, zero: float, negative: float, target: Target) -> Tensor:
    """Compute A^h on the range of A and zero on its null space; `zero` is relative to the largest eigenvalue."""
    peak = _peak_of(A)
    values, V = torch.linalg.eigh(A / peak)
    check_spectrum(values, str(target), None, negative)  # refuses negative eigenvalues only
    range_ = values > zero * values[..., -1:]
    powers = torch.where(range_, values.where(range_, 1.0).pow(target.homogeneity), 0.0)
    return (V * powers.unsqueeze(-2)) @ V.mT * peak**target.homogeneity
