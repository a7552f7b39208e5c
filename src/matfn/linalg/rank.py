"""Rank: restrict a computed polar factor to the range of a rank-deficient A, or complete it to orthonormal columns."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["completed", "on_the_range", "on_the_range_if_deficient"]

Multiply = Callable[[Tensor, Tensor], Tensor]  # the product of two stacks (b, rows, columns)


@torch.no_grad()
def _null(U: Tensor, A: Tensor, multiply: Multiply) -> Tensor:
    """Return N, (b, n, n): the right singular vectors v with ||A v|| <= max(m, n) eps sigma_1, other columns zero."""
    H = multiply(U.mT, A)
    H = (H + H.mT) / 2
    finite = torch.isfinite(H).all(-1).all(-1)[:, None, None]
    _, V = torch.linalg.eigh(torch.where(finite, H, 0.0))
    sigma = torch.linalg.vector_norm(multiply(A, V), dim=-2, keepdim=True)
    tolerance = max(A.shape[-2:]) * torch.finfo(A.dtype).eps * sigma.amax(-1, keepdim=True)
    return torch.where(sigma <= tolerance, V, 0.0)


def on_the_range(U: Tensor, A: Tensor, multiply: Multiply = torch.matmul) -> Tensor:
    """Restrict U (b, m, n) to the range of A (b, m, n): set U to zero on the null space of A.

    Iterations lift every singular value that is not exactly zero, rounding noise included. Singular values up to max(m,
    n) eps sigma_1 count as zero here. The right singular vectors v are the eigenvectors of H = sym(U^T A), the singular
    values are the lengths ||A v||. If none counts as zero, the result is U, bit for bit. The function reads nothing
    back from the device, and keeps zero rows and columns exactly zero. A has the dtype of U, float32 or float64, and
    Frobenius norm 1; NaN passes through. `multiply` computes the four products.
    """
    if A.shape[-2] < A.shape[-1]:
        return on_the_range(U.mT, A.mT, multiply).mT
    N = _null(U, A, multiply)
    projected = U - multiply(multiply(U, N), N.mT)
    live = A != 0
    return projected * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)


def on_the_range_if_deficient(U: Tensor, A: Tensor) -> Tensor:
    """Return `on_the_range(U, A)`, but skip its eigendecomposition if every matrix has full rank.

    The test is a Cholesky factorization of H - tolerance I; one flag is read from the device. If U has not converged,
    the test may fail at full rank, which costs time only; it never misses a rank deficiency.
    """
    tall, X = (U, A) if A.shape[-2] >= A.shape[-1] else (U.mT, A.mT)
    n = X.shape[-1]
    H = tall.mT @ X
    # sigma_1 <= ||A||_F = 1. The factor 2 leaves room for the rounding of H and its Cholesky factor.
    tolerance = 2 * max(X.shape[-2:]) * torch.finfo(A.dtype).eps
    shifted = (H + H.mT) / 2 - tolerance * torch.eye(n, dtype=A.dtype, device=A.device)
    _, info = torch.linalg.cholesky_ex(shifted)
    return on_the_range(U, A) if bool((info != 0).any()) else U


def completed(U: Tensor, A: Tensor) -> Tensor:
    """Complete U by orthonormal bases of the null spaces of A and A^T; the choice of bases is arbitrary.

    The result has singular values 1 where A has zeros, and agrees with U elsewhere. If U is orthonormal to sqrt(eps),
    the function returns U itself. Singular values within sqrt(eps) of 0 or 1 become 1: the null space is known up to
    the rounding of A. Others stay, because completion does not repair a factor that has not converged.
    """
    n = min(U.shape[-2:])
    G = U.mT @ U if U.shape[-2] >= U.shape[-1] else U @ U.mT
    defect = torch.linalg.matrix_norm(G - torch.eye(n, dtype=U.dtype, device=U.device))
    if bool((defect <= torch.finfo(U.dtype).eps ** 0.5).all()):
        return U
    W, s, Vh = torch.linalg.svd(on_the_range_if_deficient(U, A), full_matrices=False)
    near = torch.finfo(U.dtype).eps ** 0.5
    done = (s <= near) | ((s - 1).abs() <= near)
    return (W * torch.where(done, 1.0, s).unsqueeze(-2)) @ Vh
