"""Bounds of the spectrum, measured on the matrices for methods that are quicker when they know them."""

import torch
from torch import Tensor

__all__ = ["least_singular_value"]


@torch.no_grad()
def least_singular_value(A: Tensor) -> float:
    """A lower bound of the least singular value of every matrix of a batch, relative to its Frobenius norm.

    With A = Q R, 1/||R^-1||_F is at most sigma_n and at least sigma_n/sqrt(n). Half of it is returned, for the rounding
    of R, whose relative effect on sigma_n is below one half where that exceeds 4 max(m, n) eps; otherwise nothing is
    known about sigma_n. Zero matrices are passed over. One QR factorization and one triangular inverse, and one number
    read from the device.

    Args:
        A: (b, m, n), float32 or float64, scaled so that squares do not overflow.

    Returns:
        A number in [0, 1]; 0 where a matrix is singular to working precision, or the entries are not finite.
    """
    tall = A if A.shape[-2] >= A.shape[-1] else A.mT
    n = tall.shape[-1]
    _, R = torch.linalg.qr(tall, mode="r")
    inverse = torch.linalg.solve_triangular(R, torch.eye(n, dtype=A.dtype, device=A.device), upper=True)
    norm = torch.linalg.matrix_norm(tall)
    ratios = 1 / (torch.linalg.matrix_norm(inverse) * norm)
    known = ratios > 4 * max(A.shape[-2:]) * torch.finfo(A.dtype).eps  # False for NaN
    ratios = torch.where(known, ratios / 2, 0.0)
    return torch.where(norm == 0, 1.0, ratios).min().item()
