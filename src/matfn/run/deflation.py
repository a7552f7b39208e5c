"""Deflation: shrink the large singular values to the size of the others, by a small sketch, before the iteration."""

import torch
from torch import Tensor

from ..kernels import products_for

__all__ = ["check_deflation", "deflated", "share_of"]

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


def share_of(method: object) -> float:
    """What a method says of the singular values to deflate; most say nothing, and deflate none."""
    return getattr(method, "deflation", 0.0)


def deflated(X: Tensor, share: float, precision: torch.dtype) -> Tensor:
    """D X, divided by about its norm, with D = I - P (I - f(K)) P^T, f(K) = (I + K / c^2)^(-1/2) and K = P^T X X^T P.

    P, (n, k), has orthonormal columns: of X X^T S, so that they span nearly the k leading left singular vectors. c^2
    is the mean square of the singular values that P leaves out, as if there were k of them: (||X||^2 - tr K) / k. A
    singular value sigma that P has found becomes sigma / sqrt(1 + sigma^2 / c^2), about c if it was large; all others
    stay. Where the spectrum is flat, c exceeds them all and D is about I.

    D is symmetric and positive definite, and it would commute with X X^T if P spanned singular vectors: then D X has
    the polar factor of X. The error of P shows where D changes most and P is best, among the largest singular values:
    on the momenta of two networks the polar factor of D X has .997 of the nuclear norm of X; as a matrix it differs
    from the factor of X by some percent.

    Three products of n x m by k columns, all in the dtype of X: the iteration may round, but what is subtracted here
    is larger than what remains. With k = n / 16 they take .4 of the time of one bfloat16 product of n x n by n x m, and
    all of this .8 of it (768 x 3072, two threads of a CPU). There is no derivative.

    Args:
        X: (b, m, n), of Frobenius norm 1 or zero each, float32 or float64.
        share: k by the short side, from 0 to 1/2. With less than one column, in matrices of fewer than 1 / share
            rows, there is nothing to find and X is returned.
        precision: Dtype of the result.

    References:
        Halko, Martinsson, Tropp, "Finding Structure with Randomness", arXiv 0909.4061, 4.5, for the sketch; Frangella,
        Tropp, Udell, "Randomized Nystrom Preconditioning", arXiv 2110.02820, for a like change of linear systems.
    """
    k = int(share * min(X.shape[-2:]))
    if k == 0:
        return X.to(precision)
    if torch.is_grad_enabled() and X.requires_grad:
        raise ValueError("deflation has no derivative (its eigendecomposition has none at equal values): leave it out")
    tall = X.shape[-2] > X.shape[-1]
    products = products_for(X, mirrored=False)
    if tall:
        P, _ = torch.linalg.qr(products.mm(_sketch(X.mT, k), X).mT)
        left = products.mm(X, P)
        change, scale = _change(left.mT @ left)
        right = change @ P.mT
    else:
        P, _ = torch.linalg.qr(products.mm(X, _sketch(X, k).mT))
        right = products.mm(P.mT, X)
        change, scale = _change(right @ right.mT)
        left = P @ change
    return products.addmm(X, left, right, alpha=1.0, beta=scale).to(precision)


def _sketch(X: Tensor, k: int) -> Tensor:
    """S^T X, (b, k, m): k sums of as many neighbouring rows of (b, n, m), with weights that no structure cancels.

    One pass over X, where Gaussian S would be a product. The weights are fixed, so that the result is.
    """
    length = X.shape[-2] // k
    weights = torch.arange(1, length + 1, device=X.device, dtype=X.dtype).square().cos()
    rows = X[:, : k * length]
    if X.mT.is_contiguous() and not X.is_contiguous():
        return (rows.mT.unflatten(-1, (k, length)) @ weights).mT
    return (weights @ rows.unflatten(1, (k, length))).reshape(-1, k, X.shape[-1])


def _change(K: Tensor) -> tuple[Tensor, Tensor]:
    """G ((I + K / c^2)^(-1/2) - I), (b, k, k), and g >= 1, (b, 1, 1), which makes ||D X||_F about 1 but no more.

    In float64, for K's condition is that of X squared; its matrices are small. Without g one value and little else
    would leave so little that its squares underflow in float16.
    """
    # eigh refuses what is not finite, for all matrices: a NaN is to stay in its own, and it is in X as well.
    finite = torch.isfinite(K).all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, K, 0.0).double())
    values = values.clamp_min(0)
    rest = 1 - values.sum(-1, keepdim=True)
    rest = rest.clamp_min(128 * torch.finfo(K.dtype).eps)  # ||X||_F is 1, or nothing matters; the trace is rounded
    f = (1 + values * values.shape[-1] / rest).rsqrt()
    g = (rest + (values * f.square()).sum(-1, keepdim=True)).rsqrt().unsqueeze(-1)
    return (g * (vectors * (f - 1).unsqueeze(-2)) @ vectors.mT).to(K.dtype), g.to(K.dtype)
