"""Preparation: turn a scaled matrix into the first iterate: deflate large singular values, tighten the norm."""

import torch
from torch import Tensor

from ..iteration.residual import Form
from ..iteration.schedule import Preparation
from ..iteration.target import Domain, Target
from ..kernels import Products
from ..linalg.norms import frobenius

__all__ = ["deflated", "deflated_gram", "prepared", "tightened"]


def prepared(
    target: Target, X: Tensor, preparation: Preparation, precision: torch.dtype, wide: Products, products: Products
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the first iterate of an engine, and its first M if the preparation has formed it (`Engine.run`).

    X (b, m, n), float32 or float64, has Frobenius norm 1 or zero; `precision` and `products` are those of the
    iteration, `wide` the products for X in its own dtype.
    """
    X = deflated(X, preparation.deflation, precision, wide) if preparation.deflation else X.to(precision)
    if preparation.norm == "frobenius" or target.domain is Domain.SPD:  # a root does not depend on the norm
        return X, None
    start, beside = target.start(X) if target.form is Form.PRODUCT else (X, None)
    return X, tightened(target.form.matrix(start, beside, products), target.p)


def tightened(M: Tensor, p: int) -> tuple[Tensor, Tensor]:
    """Return M / t and the factor t^(-1/p) for X, with t = ||M||_F, an upper bound of the eigenvalues of M (b, k, k).

    For the polar factor t^(1/2) is the Schatten-4 norm of X after division by the Frobenius norm: n equal values become
    n^(1/4) times as large. It costs no product, two passes over M and one over X, in the dtype of the iteration. p is
    the exponent of the target: M has degree p in X.
    """
    t = frobenius(M)
    factor = torch.where(t == 0, 1.0, t) ** (-1 / p)
    return M * factor**p, factor


def deflated(X: Tensor, share: float, precision: torch.dtype, products: Products) -> Tensor:
    """D X, divided by about its norm, with D = I - P (I - f(K)) P^T, f(K) = (I + K / c^2)^(-1/2) and K = P^T X X^T P.

    P, (n, k), is an orthonormal basis of X X^T S, nearly the k leading left singular vectors. c^2 = (||X||^2 - tr K) /
    k is the mean square of the other singular values, as if there were k of them. A singular value sigma in P becomes
    sigma / sqrt(1 + sigma^2 / c^2), about c if it was large; all others stay. If the spectrum is flat, c exceeds all of
    them and D is about I.

    D is symmetric positive definite. If P spanned singular vectors, D would commute with X X^T, and D X would have the
    polar factor of X. The error of P has its effect where D changes most and P is best, among the largest singular
    values: on the momenta of two networks the polar factor of D X keeps .997 of the nuclear norm of X; as a matrix it
    differs from the factor of X by some percent.

    The cost is three products of n x m by k columns, in the dtype of X: the iteration may round, but the part that is
    subtracted here is larger than the rest. There is no derivative.

    Args:
        X: (b, m, n), of Frobenius norm 1 or zero each, float32 or float64.
        share: k relative to the short side, from 0 to 1/2; X is returned if this is less than one column.
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


def deflated_gram(M: Tensor, share: float, products: Products) -> tuple[Tensor, Tensor]:
    """Return D M D and D, both (b, n, n), with the D of `deflated` for a wide X with M = X X^T.

    M has trace 1 or is zero; `share` is at least one column.
    """
    k = int(share * M.shape[-1])
    P, _ = torch.linalg.qr(_sketch(M, k).mT)
    change, scale = _change(P.mT @ products.mm(M, P))
    D = P @ change @ P.mT
    D.diagonal(dim1=-2, dim2=-1).add_(scale.squeeze(-1))
    return products.mm(products.mm(D, M), D.mT), D


def _sketch(X: Tensor, k: int) -> Tensor:
    """S^T X, (b, k, m): k weighted sums of neighbouring rows of X (b, n, m), in one pass; Gaussian S needs a product.

    The weights are fixed, so the result is reproducible; no structure of X cancels with them.
    """
    length = X.shape[-2] // k
    weights = torch.arange(1, length + 1, device=X.device, dtype=X.dtype).square().cos()
    rows = X[:, : k * length]
    if X.mT.is_contiguous() and not X.is_contiguous():
        return (rows.mT.unflatten(-1, (k, length)) @ weights).mT
    return (weights @ rows.unflatten(1, (k, length))).reshape(-1, k, X.shape[-1])


def _change(K: Tensor) -> tuple[Tensor, Tensor]:
    """G ((I + K / c^2)^(-1/2) - I), (b, k, k), and g >= 1, (b, 1, 1), which makes ||D X||_F about 1 but no more.

    In float64, because the condition of K is the square of that of X. Without g, one large value and small others would
    leave a D X whose squares underflow in float16.
    """
    # eigh refuses a batch with one NaN. The matrix with the NaN keeps it through X.
    finite = torch.isfinite(K).all(-1, keepdim=True).all(-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, K, 0.0).double())
    values = values.clamp_min(0)
    rest = 1 - values.sum(-1, keepdim=True)
    rest = rest.clamp_min(128 * torch.finfo(K.dtype).eps)  # ||X||_F is 1, or X is zero; the trace is rounded
    f = (1 + values * values.shape[-1] / rest).rsqrt()
    g = (rest + (values * f.square()).sum(-1, keepdim=True)).rsqrt().unsqueeze(-1)
    return (g * (vectors * (f - 1).unsqueeze(-2)) @ vectors.mT).to(K.dtype), g.to(K.dtype)
