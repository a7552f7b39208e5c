"""Root equation: the linear equation of the derivative of a p-th root, with derivatives of its own."""

from typing import Any

import torch
from torch import Tensor

from ..errors import SpectrumError, which
from ..linalg.lu import inv_ex
from .implicit import in_front

__all__ = ["RootEquation"]

_STEPS = 100  # Newton's iteration needs about 10 for condition numbers up to 1/eps


class RootEquation(torch.autograd.Function):
    """Solve sum_{i+j=p-1} R^i X R^j = C for X: the derivative of the p-th root at R^p in the direction C.

    For p = 2 this is Sylvester's equation R X + X R = C (Lyapunov's for symmetric R); for p = 1, X = C. The derivative
    is the same equation with another right-hand side. With Y the solution for R^T and the gradient of X,

        grad C = Y,    grad R = -sum_{i+j+l=p-2} (S^i Y S^j Z S^l + S^i Z S^j Y S^l)    for S = R^T, Z = X^T.
    """

    @staticmethod
    def forward(R: Tensor, C: Tensor, p: int, r: Tensor | None, V: Tensor | None, order: int) -> Tensor:
        """Solve the equation, by the spectrum of R if it is given.

        Args:
            R: (..., n, n), symmetric positive semidefinite; without r and V, eigenvalues in the open right half-plane.
            C: (..., n, n).
            p: At least 1; must be 2 without r and V.
            r: Eigenvalues of R, (..., n), or None; exactly 0 if they count as zero. X is 0 for a pair of zeros.
            V: Eigenvectors of R, (..., n, n), or None.
            order: 1 for a first derivative, else 2, which refuses a zero in r: second derivatives do not exist there.
        """
        if r is None or V is None:
            return by_newton(R, C)
        if order > 1 and bool((r == 0).any()):
            raise SpectrumError(
                f"second derivatives need full rank, and {which((r == 0).any(-1))} is singular to working precision"
            )
        return by_spectrum(C, p, r, V)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save R, X and the spectrum."""
        R, _, ctx.p, r, V, _ = inputs
        ctx.save_for_backward(R, output, r, V)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Solve the equation for R^T, and form grad R from products."""
        (G,), (R, X, r, V) = gradients, ctx.saved_tensors
        R, X = R.mT, X.mT
        Y = RootEquation.apply(R, G, ctx.p, r, V, 2)
        grad_R = None if ctx.p == 1 else -words(R, Y, X, ctx.p - 2) - words(R, X, Y, ctx.p - 2)
        return grad_R, Y, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Treat the mapped dimension as a batch dimension in front."""
        front = [
            in_front(a, dim, info.batch_size) if isinstance(a, Tensor) else a
            for a, dim in zip(args, in_dims, strict=True)
        ]
        return RootEquation.apply(*front), 0


def by_spectrum(C: Tensor, p: int, r: Tensor, V: Tensor) -> Tensor:
    """Solve the equation in the eigenbasis, where it is a division by sum_k r_i^k r_j^(p-1-k).

    All terms of this sum are nonnegative and no eigenvalues are subtracted, so close eigenvalues do no harm.
    """
    rows, columns = r.unsqueeze(-1), r.unsqueeze(-2)
    divisor, power = torch.ones_like(V), torch.ones_like(columns)
    for _ in range(p - 1):
        power = power * columns
        divisor = divisor * rows + power
    left_out = divisor == 0
    X = (V.mT @ C @ V) / torch.where(left_out, 1.0, divisor)
    return V @ torch.where(left_out, 0.0, X) @ V.mT


def words(R: Tensor, Y: Tensor, X: Tensor, m: int) -> Tensor:
    """Return the sum over i + j + l = m of R^i Y R^j X R^l, in about 4 m products."""
    power, inner = None, X
    total = Y @ X
    for _ in range(m):
        power = R if power is None else power @ R
        inner = R @ inner + X @ power
        total = R @ total + Y @ inner
    return total


def by_newton(N: Tensor, C: Tensor) -> Tensor:
    """Solve N X + X N = C for N (..., n, n) with eigenvalues in the open right half-plane.

    The sign of [[N, C], [0, -N]] is [[I, 2 X], [0, -I]]. Newton's iteration keeps this block form, so it reduces to the
    pair N <- (N + N^-1)/2, C <- (C + N^-1 C N^-1)/2 at an eighth of the cost. An eigendecomposition would fail for
    defective matrices, and torch has no Schur decomposition.

    References:
        J. D. Roberts, "Linear model reduction and solution of the algebraic Riccati equation by use of the sign
        function" (1980), Section 4.
    """
    peak = _norm(N)
    N, C, tolerance = N / peak, C / peak, torch.finfo(N.dtype).eps ** 0.5
    for _ in range(_STEPS):
        inverse, info = inv_ex(N)
        if bool((info != 0).any()):
            raise SpectrumError(f"signm has no derivative where {which(info != 0)} is singular to working precision")
        mu = (_norm(inverse) / _norm(N)).sqrt()
        N_new, C_new = (mu * N + inverse / mu) / 2, (mu * C + inverse @ C @ inverse / mu) / 2
        settled = (_change(N_new, N) <= tolerance) & (_change(C_new, C) <= tolerance)
        N, C = N_new, C_new
        if bool(settled.all()):  # quadratic: the next step is exact to rounding
            inverse, _ = inv_ex(N)
            return (C + inverse @ C @ inverse) / 4
    raise SpectrumError("the derivative of signm did not converge: an eigenvalue is very near the imaginary axis")


def _norm(A: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, (..., 1, 1); 1 for a zero matrix."""
    norm = torch.linalg.vector_norm(A, dim=(-2, -1), keepdim=True)
    return torch.where(norm == 0, 1.0, norm)


def _change(new: Tensor, old: Tensor) -> Tensor:
    return torch.linalg.vector_norm(new - old, dim=(-2, -1), keepdim=True) / _norm(new)
