"""Preparation: a scaled matrix becomes the first iterate; large singular values deflated, the norm made tighter."""

import torch
from torch import Tensor

from ..iteration.residual import Form
from ..iteration.schedule import Preparation
from ..iteration.target import Domain, Target
from ..kernels import Products
from ..linalg.norms import frobenius

__all__ = ["deflated", "prepared", "tightened"]


def prepared(
    target: Target, X: Tensor, preparation: Preparation, precision: torch.dtype, wide: Products, products: Products
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The first iterate of an engine, and its first M where the preparation has formed it (`Engine.run`).

    Args:
        target: What is computed.
        X: (b, m, n), of Frobenius norm 1 or zero each, float32 or float64.
        preparation: What to do.
        precision: The dtype of the iteration.
        wide: The products for X in its own dtype.
        products: The products of the iteration.
    """
    X = deflated(X, preparation.deflation, precision, wide) if preparation.deflation else X.to(precision)
    if preparation.norm == "frobenius" or target.domain is Domain.SPD:  # a root does not depend on the norm
        return X, None
    start, beside = target.start(X) if target.form is Form.PRODUCT else (X, None)
    return X, tightened(target.form.matrix(start, beside, products), target.p)


def tightened(M: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """M / t and the factor t^(-1/p) that X is due, with t = ||M||_F, which no eigenvalue of M exceeds.

    For the polar factor t^(1/2) is the Schatten-4 norm of X, (sum of sigma^4)^(1/4), after division by the Frobenius
    norm, (sum of sigma^2)^(1/2): n equal values become n^(1/4) times as large. It costs no product, two passes over M
    and one over X, in the dtype of the iteration.

    Args:
        M: Formed from an iterate X, (b, k, k).
        p: The exponent of the target: M is of degree p in X.
    """
    t = frobenius(M)
    factor = torch.where(t == 0, 1.0, t) ** (-1 / p)
    return M * factor**p, factor


def deflated(X: Tensor, share: float, precision: torch.dtype, products: Products) -> Tensor:
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
        products: Multiply the thin products.

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
