"""The sign of a non-symmetric matrix by scaled Newton iteration; `Exact` uses it where an eigendecomposition fails."""

import torch
from torch import Tensor

from ...errors import SpectrumError
from ...linalg.lu import inv_ex

__all__ = ["newton_sign", "peak_of"]

_NEWTON_STEPS = 100  # scaled Newton needs about 9 at any condition number short of 1/eps


def newton_sign(A: Tensor) -> Tensor:
    """X <- (mu X + (mu X)^-1) / 2, quadratic once mu X is near the sign."""
    X, eps = A / peak_of(A), torch.finfo(A.dtype).eps
    for _ in range(_NEWTON_STEPS):
        Y, info = inv_ex(X)
        if bool((info != 0).any()):
            raise SpectrumError(
                "signm needs eigenvalues off the imaginary axis, but this matrix has some on it, to working precision "
                "(zero, or a pair like i and -i)"
            )
        mu = (torch.linalg.matrix_norm(Y) / torch.linalg.matrix_norm(X)).sqrt()[..., None, None]
        new = (mu * X + Y / mu) / 2
        change = torch.linalg.matrix_norm(new - X) / torch.linalg.matrix_norm(new)
        X = new
        if bool((change <= eps**0.5).all()):  # quadratic: the next step is exact to rounding
            return (X + inv_ex(X)[0]) / 2
    raise SpectrumError("signm did not converge: the matrix has eigenvalues on or very near the imaginary axis")


def peak_of(A: Tensor) -> Tensor:
    """A power of two near the largest entry of each matrix, (b, 1, 1); 1 for a zero one.

    Division by it loses no bit, and keeps eigenvalues, norms and products of norms from overflow.
    """
    peak = A.detach().abs().amax((-2, -1), keepdim=True)
    return torch.ldexp(torch.ones_like(peak), torch.where(peak == 0, 0, torch.frexp(peak).exponent - 1))
