"""Deflation: shrink the large singular values to the size of the others, by a small sketch, before the iteration."""

import torch
from torch import Tensor

from .kernels import products_for

__all__ = ["check_deflation", "deflated"]

MOST = 0.5  # above half of the singular values the sketch costs more than the steps that it saves


def check_deflation(share: object) -> None:
    """Refuse what is no share of the singular values.

    Raises:
        ValueError: With the range.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= MOST:
        raise ValueError(
            f"deflation must be a number from 0 (none) to {MOST}, got {share!r}: the share of the singular values, the "
            "largest, that are shrunk beforehand; 1/16 suits the momenta of networks"
        )


def deflated(X: Tensor, share: float, precision: torch.dtype) -> Tensor:
    """D X with D = I - P (I - f(K)) P^T, f(K) = (I + K / c^2)^(-1/2) and K = P^T X X^T P.

    P, (n, k), has orthonormal columns: of X X^T S, so that they span nearly the k leading left singular vectors. c^2
    is the mean square of the singular values that P leaves out, as if there were k of them: (||X||^2 - tr K) / k. A
    singular value sigma that P has found becomes sigma / sqrt(1 + sigma^2 / c^2), about c if it was large; all others
    stay. Where the spectrum is flat, c exceeds them all and D is about I.

    D is symmetric and positive definite, and it would commute with X X^T if P spanned singular vectors: then D X has
    the polar factor of X. The error of P shows where D changes most and P is best, among the largest singular values:
    on the momenta of two networks the polar factor of D X has .997 of the nuclear norm of X.

    Three products of n x m by k columns, all in the dtype of X: the iteration may round, but what is subtracted here
    is larger than what remains. With k = n / 16 they take .4 of the
    time of one bfloat16 product of n x n by n x m (768 x 3072, two threads of a CPU), and all of this .8 of it.

    Args:
        X: (b, m, n), of Frobenius norm 1 or zero each, float32 or float64.
        share: k by the short side, from 0 to 1/2. With less than one column X is returned.
        precision: Dtype of the result.

    References:
        Halko, Martinsson, Tropp, "Finding Structure with Randomness", arXiv 0909.4061, 4.5, for the sketch; Frangella,
        Tropp, Udell, "Randomized Nystrom Preconditioning", arXiv 2110.02820, for a like change of linear systems.
    """
    k = int(share * min(X.shape[-2:]))
    if k == 0:
        return X.to(precision)
    tall = X.shape[-2] > X.shape[-1]
    products = products_for(X, mirrored=False)
    if tall:
        P, _ = torch.linalg.qr(products.mm(_sketch(X.mT, k), X).mT)
        C = products.mm(X, P)
        return products.addmm(X, C, _change(C.mT @ C) @ P.mT, alpha=1.0, beta=1.0).to(precision)
    P, _ = torch.linalg.qr(products.mm(X, _sketch(X, k).mT))
    B = products.mm(P.mT, X)
    return products.addmm(X, P @ _change(B @ B.mT), B, alpha=1.0, beta=1.0).to(precision)


def _sketch(X: Tensor, k: int) -> Tensor:
    """S^T X, (b, k, m): every k-th row of (b, n, m) from each of k on, added with weights that no structure cancels.

    One pass over X, where Gaussian S would be a product. The weights are fixed, so that the result is.
    """
    groups = X.shape[-2] // k
    weights = torch.arange(1, groups + 1, device=X.device, dtype=X.dtype).square().cos()
    rows = X[:, : groups * k]
    if X.is_contiguous():
        return (weights @ rows.unflatten(1, (groups, k)).flatten(2)).unflatten(-1, (k, X.shape[-1]))
    return (rows.mT.unflatten(-1, (k, groups)) @ weights).mT


def _change(K: Tensor) -> Tensor:
    """(I + K / c^2)^(-1/2) - I, (b, k, k): symmetric, small, in float64, for K's condition is that of X squared."""
    values, vectors = torch.linalg.eigh(K.double())
    k = values.shape[-1]
    left = 1 - values.sum(-1, keepdim=True)  # ||X||_F is 1, or nothing matters
    c2 = left.clamp_min(torch.finfo(K.dtype).eps) / k
    f = (1 + values.clamp_min(0) / c2).rsqrt()
    return ((vectors * (f - 1).unsqueeze(-2)) @ vectors.mT).to(K.dtype)
