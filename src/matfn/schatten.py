"""Schatten: the first step of a schedule, for an M whose eigenvalues are known to end at its own Frobenius norm."""

import torch

from .residual import Residual
from .step import Magnified, Polynomial, Step

__all__ = ["NORMS", "check_norm", "tightened"]

NORMS = ("frobenius", "schatten4")


def check_norm(norm: object) -> None:
    """Refuse what is no norm to divide by.

    Raises:
        ValueError: Naming those there are.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}: that in which the interval [lower, 1] is given")


def tightened(row: Step, residual: Residual) -> Step:
    """t^(-1/p) q(m / t) with t = ||M||_F, which no eigenvalue of M exceeds: q for M / t, and the division with it.

    For the polar factor t^(1/2) is the Schatten-4 norm of X, (sum of sigma^4)^(1/4), where division by the Frobenius
    norm has left (sum of sigma^2)^(1/2) = 1. It is a pass over M, no product. For a root M is A, and t is 1 already.

    Args:
        row: A polynomial made for eigenvalues of at most 1.
        residual: Before the first step.

    Raises:
        TypeError: If the step is no polynomial.
    """
    if not isinstance(row, Polynomial):
        raise TypeError(f"only a polynomial can be taken for the Schatten norm, got {row!r}: leave out norm=")
    M = residual.M
    t = torch.linalg.vector_norm(M, dim=(-2, -1), keepdim=True, dtype=torch.promote_types(M.dtype, torch.float32))
    t = torch.where(t == 0, 1.0, t)
    tight = Polynomial(tuple(c * t ** -(j + 1 / residual.p) for j, c in enumerate(row.coefficients)))
    return Magnified(tight, t) if M.dtype == torch.float16 else tight
