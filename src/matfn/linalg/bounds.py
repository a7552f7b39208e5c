"""Bounds of the spectrum, measured on the matrices, for methods that start from an interval."""

import torch
from torch import Tensor

from .norms import frobenius

__all__ = ["greatest_eigenvalue", "least_singular_value"]


@torch.no_grad()
def least_singular_value(A: Tensor) -> float:
    """Return a lower bound of sigma_n / ||A||_F in [0, 1], valid for every matrix of the batch A (b, m, n).

    With A = Q R, 1/||R^-1||_F lies between sigma_n/sqrt(n) and sigma_n. The function returns half of it: the rounding
    of R changes sigma_n by less than a half if sigma_n > 4 max(m, n) eps ||A||_F. Below this limit, and for entries
    that are not finite, the bound is 0. Zero matrices do not count. A is float32 or float64, scaled so that squares do
    not overflow. Costs one QR factorization, one triangular inverse and one number read from the device.
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
    """Return an upper bound of the eigenvalues of each M, (b,), in at least float32; M has real eigenvalues >= 0.

    The mean eigenvalue is mu = tr(M)/n. The deviations from mu sum to zero and their squares to ||M - mu I||_F^2, so
    none exceeds sqrt((n - 1)/n) ||M - mu I||_F. Their fourth powers sum to ||(M - mu I)^2||_F^2, so none exceeds the
    square root of ||M^2 - 2 mu M + mu^2 I||_F. Both bounds are sharp for a multiple of the identity, where ||M||_F and
    ||M^2||_F^(1/2) are too large by n^(1/2) and n^(1/4). `square` is M^2 in the same dtype; it makes the bound closer.

    The bound includes rounding errors: u ||M||_F and u ||M^2||_F for the entries, and for the sums inside a product an
    error that grows as the root of their length.

    References:
        Samuelson's inequality, J. Amer. Statist. Assoc. 63 (1968). For the sums: Higham, Mary, "A new approach to
        probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019).
    """
    n, u = M.shape[-1], torch.finfo(M.dtype).eps / 2
    wide = M.to(torch.promote_types(M.dtype, torch.float32))
    sums = n**0.5 * torch.finfo(wide.dtype).eps
    diagonal = wide.diagonal(dim1=-2, dim2=-1)
    trace, norm = diagonal.sum(-1), frobenius(wide).squeeze((-2, -1))
    mean = trace / n
    # The difference of squares cancels if all eigenvalues are alike; the last term covers the loss.
    spread = (norm**2 - trace * mean + 8 * torch.finfo(wide.dtype).eps * norm**2).clamp(min=0)
    bound = mean + (spread * (n - 1) / n).sqrt()
    if square is not None:
        power = square.to(wide.dtype)
        central = torch.addcmul(power, wide, mean[:, None, None], value=-2)
        central.diagonal(dim1=-2, dim2=-1).add_(mean[:, None] ** 2)
        rounding = u * frobenius(power).squeeze((-2, -1)) + sums * norm**2
        bound = torch.minimum(bound, mean + (frobenius(central).squeeze((-2, -1)) + rounding).sqrt())
    return bound + u * norm + sums * trace
