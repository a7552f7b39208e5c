"""Bounds of the spectrum, measured on the matrices for methods that need them or are quicker when they know them."""

import torch
from torch import Tensor

from .norms import frobenius

__all__ = ["greatest_eigenvalue", "least_singular_value"]


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


def greatest_eigenvalue(M: Tensor, square: Tensor | None = None) -> Tensor:
    """An upper bound of the eigenvalues of each M, which are real and not negative; from norms alone.

    The mean eigenvalue is mu = tr(M)/n. The deviations from it add up to zero and their squares to ||M - mu I||_F^2, so
    that none exceeds sqrt((n - 1)/n) ||M - mu I||_F; their fourth powers add up to ||(M - mu I)^2||_F^2, so that none
    exceeds the square root of ||M^2 - 2 mu M + mu^2 I||_F. For a multiple of the identity both are sharp; the plain
    ||M||_F and ||M^2||_F^(1/2) are too large by up to n^(1/2) and n^(1/4).

    The entries of M and its square carry one rounding each, of at most u, hence u ||M||_F and u ||M^2||_F in norm; the
    rounding of the sums inside a product is taken to grow as the root of its length. Both are added.

    Args:
        M: (b, n, n), a product in its dtype; symmetric, or with real eigenvalues.
        square: M^2 in the same dtype, if it is there; the bound is closer with it.

    Returns:
        (b,), in float32 at least.

    References:
        Samuelson's inequality, J. Amer. Statist. Assoc. 63 (1968). Higham, Mary, "A new approach to probabilistic
        rounding error analysis", SIAM J. Sci. Comput. 41 (2019), for the sums.
    """
    n, u = M.shape[-1], torch.finfo(M.dtype).eps / 2
    wide = M.to(torch.promote_types(M.dtype, torch.float32))
    sums = n**0.5 * torch.finfo(wide.dtype).eps
    diagonal = wide.diagonal(dim1=-2, dim2=-1)
    trace, norm = diagonal.sum(-1), frobenius(wide).squeeze((-2, -1))
    mean = trace / n
    # The difference of squares cancels where all eigenvalues are alike; what it loses is put back.
    spread = (norm**2 - trace * mean + 8 * torch.finfo(wide.dtype).eps * norm**2).clamp(min=0)
    bound = mean + (spread * (n - 1) / n).sqrt()
    if square is not None:
        power = square.to(wide.dtype)
        central = torch.addcmul(power, wide, mean[:, None, None], value=-2)
        central.diagonal(dim1=-2, dim2=-1).add_(mean[:, None] ** 2)
        rounding = u * frobenius(power).squeeze((-2, -1)) + sums * norm**2
        bound = torch.minimum(bound, mean + (frobenius(central).squeeze((-2, -1)) + rounding).sqrt())
    return bound + u * norm + sums * trace
