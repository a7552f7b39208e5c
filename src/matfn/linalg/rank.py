"""Rank: the polar factor on the range of a rank-deficient matrix, or completed, whatever method computed it."""

import torch
from torch import Tensor

__all__ = ["completed", "on_the_range", "on_the_range_if_deficient"]


@torch.no_grad()
def _null(U: Tensor, A: Tensor) -> Tensor:
    """N, (b, n, n): the singular vectors v on the short side with ||A v|| <= max(m, n) eps sigma_1, zeros elsewhere."""
    H = U.mT @ A
    H = (H + H.mT) / 2
    finite = torch.isfinite(H).all(-1).all(-1)[:, None, None]
    _, V = torch.linalg.eigh(torch.where(finite, H, 0.0))
    sigma = torch.linalg.vector_norm(A @ V, dim=-2, keepdim=True)
    tolerance = max(A.shape[-2:]) * torch.finfo(A.dtype).eps * sigma.amax(-1, keepdim=True)
    return torch.where(sigma <= tolerance, V, 0.0)


def on_the_range(U: Tensor, A: Tensor) -> Tensor:
    """U without what it does to the null space of A: singular values up to max(m, n) eps sigma_1 count as zero.

    Iterations lift every singular value that is not exactly zero, rounding noise included. The right singular vectors
    are those of H = sym(U^T A), and the singular values the lengths of A v. Where nothing counts as zero nothing
    changes, to the last bit; nothing is read back from the device, and rows and columns of zeros stay exactly zero.

    Args:
        U: (b, m, n), the factor that an iteration reached.
        A: The same shape and dtype, float32 or float64, scaled to Frobenius norm 1; NaN passes through.
    """
    if A.shape[-2] < A.shape[-1]:
        return on_the_range(U.mT, A.mT).mT
    N = _null(U, A)
    projected = U - (U @ N) @ N.mT
    live = A != 0
    return projected * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)


def on_the_range_if_deficient(U: Tensor, A: Tensor) -> Tensor:
    """`on_the_range`, at the price of a Cholesky factorization where every matrix has full rank; one flag is read.

    H - tolerance I has a Cholesky factor where H is definite by more than the tolerance; H need not be perfect for
    that, so that for a U which did not converge the more expensive way is taken once too often, never too rarely.
    """
    tall, X = (U, A) if A.shape[-2] >= A.shape[-1] else (U.mT, A.mT)
    n = X.shape[-1]
    H = tall.mT @ X
    # ||A||_F = 1 is no less than sigma_1; twice the tolerance leaves room for the rounding of H and its factor.
    tolerance = 2 * max(X.shape[-2:]) * torch.finfo(A.dtype).eps
    shifted = (H + H.mT) / 2 - tolerance * torch.eye(n, dtype=A.dtype, device=A.device)
    _, info = torch.linalg.cholesky_ex(shifted)
    return on_the_range(U, A) if bool((info != 0).any()) else U


def completed(U: Tensor, A: Tensor) -> Tensor:
    """U with some basis of the null spaces of A joined: singular values of 1 where A has none, and U elsewhere.

    Where U is orthonormal already, to sqrt(eps), it is returned as it is. A factor that has not converged stays so.

    Args:
        U: (b, m, n), the factor that a method reached.
        A: The same shape and dtype, scaled to Frobenius norm 1.
    """
    n = min(U.shape[-2:])
    G = U.mT @ U if U.shape[-2] >= U.shape[-1] else U @ U.mT
    defect = torch.linalg.matrix_norm(G - torch.eye(n, dtype=U.dtype, device=U.device))
    if bool((defect <= torch.finfo(U.dtype).eps ** 0.5).all()):
        return U
    W, s, Vh = torch.linalg.svd(on_the_range_if_deficient(U, A), full_matrices=False)
    null = s <= max(U.shape[-2:]) * torch.finfo(U.dtype).eps
    return (W * torch.where(null, 1.0, s).unsqueeze(-2)) @ Vh
