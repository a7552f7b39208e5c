"""Schatten: scale an iterate by a norm that M shows for nothing, nearer to the greatest value than Frobenius' norm."""

import torch
from torch import Tensor

from ..linalg.norms import frobenius

__all__ = ["NORMS", "check_norm", "tightened"]

NORMS = ("frobenius", "schatten4")


def check_norm(norm: object) -> None:
    """Refuse what is no norm to divide by.

    Raises:
        ValueError: Naming those there are.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}: that in which the interval [lower, 1] is given")


def tightened(M: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """The factor t^(-1/p) that X is due, and M / t, with t = ||M||_F, which no eigenvalue of M exceeds.

    For the polar factor t^(1/2) is the Schatten-4 norm of X, (sum of sigma^4)^(1/4), where division by the Frobenius
    norm has left (sum of sigma^2)^(1/2) = 1: n equal values become n^(1/4) times as large. It is no product, two passes
    over M and one over X, in the dtype of the iteration: what that rounds is the same for all values of a matrix, but
    for half a unit in the last place of the entries, as in the first cast.

    Args:
        M: Made of an iterate X, (b, k, k).
        p: The exponent of the target: M is of degree p in X.
    """
    t = frobenius(M)
    factor = torch.where(t == 0, 1.0, t) ** (-1 / p)
    return factor, M * factor**p
