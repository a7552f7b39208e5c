"""Norms: the Frobenius norm of large matrices, and division by it without overflow or underflow."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Scale", "frobenius", "prescale", "prescale_"]


def frobenius(A: Tensor) -> Tensor:
    """Return ||A||_F of each matrix, (..., 1, 1), from the norms of the rows.

    One float32 sum over all entries is inexact: 1.3 % for 4096 x 4096 equal entries on a CPU (torch 2.13).
    """
    return torch.linalg.vector_norm(torch.linalg.vector_norm(A, dim=-1, keepdim=True), dim=-2, keepdim=True)


@dataclass(frozen=True)
class Scale:
    """The divisor peak * norm of each matrix, kept as two factors because their product may overflow.

    Attributes:
        peak: Largest |entry| of each matrix, (b, 1, 1); 1 for a zero matrix.
        norm: Frobenius norm after division by `peak`, (b, 1, 1), between 1 and sqrt(mn); 1 for a zero matrix.
    """

    peak: Tensor
    norm: Tensor

    def undo(self, result: Tensor, homogeneity: float) -> Tensor:
        """Return f(A) from result = f(A / c), for a function with f(c A) = c^homogeneity f(A)."""
        if homogeneity == 0:
            return result
        return result * self.norm**homogeneity * self.peak**homogeneity


def prescale(A: Tensor) -> tuple[Tensor, Scale]:
    """Return A / ||A||_F for each matrix of A (b, m, n), m and n at least 1, and the scale.

    Division by the largest entry first makes the squares of the norm safe from overflow and underflow. No epsilon is
    added anywhere, so the result is the same for every scaling of A, bit for bit for powers of two; a zero matrix stays
    zero. A NaN or an infinity anywhere in a matrix makes that matrix NaN and leaves the others alone. Half-precision
    input gives float32, so that a cast to half precision comes after the norm.
    """
    A = A.to(torch.promote_types(A.dtype, torch.float32))
    peak = _peak(A)
    scaled = A / peak
    norm = _norm(scaled)
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and A.requires_grad):
        return scaled / norm, Scale(peak, norm)
    return scaled.div_(norm), Scale(peak, norm)  # in place: a new tensor would double the time


def prescale_(A: Tensor) -> tuple[Tensor, Scale]:
    """Prescale A in place; A is float32 or float64 and needs no gradient."""
    peak = _peak(A)
    norm = _norm(A.div_(peak))
    return A.div_(norm), Scale(peak, norm)


def _peak(A: Tensor) -> Tensor:
    # The infinity norm of torch is 20 times slower on a CPU (torch 2.13), and abs() would copy A.
    peak = torch.maximum(A.amax((-2, -1), keepdim=True), -A.amin((-2, -1), keepdim=True))
    return torch.where(peak == 0, 1.0, peak)


def _norm(A: Tensor) -> Tensor:
    norm = frobenius(A)
    return torch.where(norm == 0, 1.0, norm)
