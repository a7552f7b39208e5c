"""Sylvester: solve N X + X N = C for a nonsymmetric N by the Newton iteration of a matrix sign."""

import torch
from torch import Tensor

from ..errors import SpectrumError
from ..linalg.lu import inv_ex

__all__ = ["by_newton"]

_STEPS = 100  # the iteration needs about 10 for condition numbers up to 1/eps


def by_newton(N: Tensor, C: Tensor) -> Tensor:
    """Solve N X + X N = C for N with eigenvalues in the open right half-plane.

    The sign of [[N, C], [0, -N]] is [[I, 2 X], [0, -I]]. Newton's iteration keeps this block form, so it reduces to the
    pair N <- (N + N^-1)/2, C <- (C + N^-1 C N^-1)/2 at an eighth of the cost. An eigendecomposition would fail for
    defective matrices, and torch has no Schur decomposition.

    Args:
        N: (..., n, n).
        C: (..., n, n).

    Raises:
        SpectrumError: If N is singular, or the iteration does not converge.

    References:
        J. D. Roberts, "Linear model reduction and solution of the algebraic Riccati equation by use of the sign
        function" (1980), Section 4.
    """
    peak = _norm(N)
    N, C = N / peak, C / peak
    for _ in range(_STEPS):
        inverse, info = inv_ex(N)
        if bool((info != 0).any()):
            raise SpectrumError("the matrix is singular to working precision, so its sign has no derivative")
        mu = (_norm(inverse) / _norm(N)).sqrt()
        N_new, C_new = (mu * N + inverse / mu) / 2, (mu * C + inverse @ C @ inverse / mu) / 2
        settled = (_change(N_new, N) <= _tolerance(N)) & (_change(C_new, C) <= _tolerance(N))
        N, C = N_new, C_new
        if bool(settled.all()):  # quadratic: the next step is exact to rounding
            inverse, _ = inv_ex(N)
            return (C + inverse @ C @ inverse) / 4
    raise SpectrumError("the derivative did not converge: an eigenvalue is on or very near the imaginary axis")


def _norm(A: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, (..., 1, 1); 1 for a zero matrix."""
    norm = torch.linalg.vector_norm(A, dim=(-2, -1), keepdim=True)
    return torch.where(norm == 0, 1.0, norm)


def _change(new: Tensor, old: Tensor) -> Tensor:
    return torch.linalg.vector_norm(new - old, dim=(-2, -1), keepdim=True) / _norm(new)


def _tolerance(A: Tensor) -> float:
    return torch.finfo(A.dtype).eps ** 0.5
