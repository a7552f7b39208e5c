"""Preparation: turn a scaled matrix into the first iterate: deflate large singular values, tighten the norm."""

import torch
from torch import Tensor

from ..iteration.residual import Form
from ..iteration.schedule import Preparation
from ..iteration.target import Domain, Target
from ..kernels import Products
from ..linalg.constant import constant
from ..linalg.norms import frobenius
from ..methods import PolarExpress

__all__ = ["deflated", "deflated_gram", "prepared", "shrinking", "tightened", "whitening"]

_HALF = (torch.bfloat16, torch.float16)
# A float16 iterate starts with the norm 2^7. M = X X^T has the trace 2^14 then: no entry overflows (65504), and those
# of a flat 4096 x 11008 matrix are .04 beside the diagonal, where 2e-6 would have one digit (float16 is normal from
# 6e-5 on).
_LIFT = 2.0**7
# Least c of `deflated` and the steps of the root, by thin dtype: 8 roundings of float16, of which four could make D
# indefinite; else a thousandth.
_LEAST = {torch.float16: (2.0**-8, 6)}
_LEAST_WIDE = (2.0**-10, 7)


def prepared(
    target: Target,
    X: Tensor,
    preparation: Preparation,
    precision: torch.dtype,
    wide: Products,
    products: Products,
    thin: torch.dtype | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Return the first iterate of an engine, and its first M if the preparation has formed it (`Engine.run`).

    X (b, m, n), float32 or float64, has Frobenius norm 1 or zero; `precision` and `products` are those of the
    iteration, `wide` the products for X in its own dtype, `thin` the dtype of the products of a deflation (`deflated`).
    """
    tightens = preparation.norm != "frobenius" and target.domain is not Domain.SPD  # a root depends on no norm
    lifts = tightens and target.form is Form.GRAM and precision is torch.float16
    X = deflated(X, preparation.deflation, precision, wide, thin, _LIFT if lifts else 1.0)
    if not tightens:
        return _normed(X) if preparation.deflation else X, None
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


def deflated(
    X: Tensor,
    share: float,
    precision: torch.dtype,
    products: Products,
    thin: torch.dtype | None = None,
    scale: float = 1.0,
) -> Tensor:
    """`scale` times D X, with D = I - P (I - F) P^T, F = (I + K / c^2)^(-1/2) and K = P^T X X^T P.

    P, (n, k), is an orthonormal basis of X X^T S, nearly the k leading left singular vectors. c^2 = (||X||^2 - tr K) /
    k is the mean square of the other singular values, as if there were k of them. A singular value sigma in P becomes
    sigma / sqrt(1 + sigma^2 / c^2), about c if it was large; all others stay. If the spectrum is flat, c exceeds all of
    them and D is about I.

    D is symmetric positive definite, with eigenvalues in (0, 1]. If P spanned singular vectors, D would commute with X
    X^T, and D X would have the polar factor of X. The error of P has its effect where D changes most and P is best,
    among the largest singular values: on the momenta of two networks the polar factor of D X keeps .997 of the nuclear
    norm of X; as a matrix it differs from the factor of X by some percent.

    All is done by products, and by two Cholesky factorizations of k x k matrices with a ridge (`whitening`), so a CUDA
    graph can hold it. The first one makes the columns of S^T X orthonormal: then the condition of Y, whose columns the
    second one makes orthonormal, is that of the leading part of X and not its square. Directions below the ridge make P
    shorter: P^T P <= I, so D stays positive definite, and deflates less there.

    In half precision thin products round their factors once and add up in float32. c is at least 2^-8, so that f in the
    largest direction exceeds the rounding of the four thin factors, 4 * 2^-11.

    There is no derivative.

    Args:
        X: (b, m, n), of Frobenius norm 1 or zero each, float32 or float64.
        share: k relative to the short side, from 0 to 1/2; less than one column deflates nothing.
        precision: Dtype of the result.
        products: Multiply the thin products if `thin` is None.
        thin: Half-precision dtype of the thin products; None is the dtype of X.
        scale: Power of two.

    References:
        Halko, Martinsson, Tropp, "Finding Structure with Randomness", arXiv 0909.4061, 4.5, for the sketch; Frangella,
        Tropp, Udell, "Randomized Nystrom Preconditioning", arXiv 2110.02820, for a like change of linear systems.
    """
    k = int(share * min(X.shape[-2:]))
    if k == 0:
        return _cast(X, scale, precision)
    if torch.is_grad_enabled() and X.requires_grad:
        raise ValueError("deflation has no derivative: leave it out of the method, or differentiate without it")
    tall, thin = X.shape[-2] > X.shape[-1], thin or X.dtype
    least, steps = _LEAST.get(thin, _LEAST_WIDE)
    small = torch.float32 if thin in _HALF else torch.float64  # k x k
    H = _cast(X, scale, thin)
    T = _cast(_sketch(X.mT if tall else X, k), scale, thin)
    del X  # frees the float32 matrix early
    Z = _mm(T, H, products).mT if tall else _mm(H, T.mT, products)
    Y = (Z @ whitening(_mm(T, T.mT, products).to(small), Z.dtype).to(Z.dtype)).to(thin)
    A = whitening(_mm(Y.mT, Y, products).to(small), Z.dtype)
    P = (Y.to(Z.dtype) @ A.to(Z.dtype)).to(thin)
    R = (_mm(H, P, products).mT if tall else _mm(P.mT, H, products)).to(thin)
    C = shrinking(_mm(R, R.mT, products).to(small), scale**2, least, steps)
    left = (P.to(Z.dtype) @ C.to(Z.dtype)).to(thin)
    return (_plus(H, R.mT, left.mT, products) if tall else _plus(H, left, R, products)).to(precision)


def deflated_gram(M: Tensor, share: float, products: Products) -> tuple[Tensor, Tensor]:
    """Return D M D and D, both (b, n, n), with the D of `deflated` for a wide X with M = X X^T, times a number.

    D M D has trace 1, as D X has norm 1 in `prepared`. M has trace 1 or is zero, in float32 or float64; `share` is at
    least one column.
    """
    k = int(share * M.shape[-1])
    Z = _sketch(M, k).mT
    Y = Z @ whitening(_sketch(Z, k).double(), M.dtype).to(M.dtype)
    P = Y @ whitening((Y.mT @ Y).double(), M.dtype).to(M.dtype)
    C = shrinking((P.mT @ products.mm(M, P)).double(), 1.0, *_LEAST_WIDE)
    D = P @ C.to(M.dtype) @ P.mT
    D.diagonal(dim1=-2, dim2=-1).add_(1.0)
    M = products.mm(products.mm(D, M), D.mT)
    t = _trace(M)
    return M / t, D * t.rsqrt()


def whitening(G: Tensor, summed: torch.dtype) -> Tensor:
    """Return A, (b, k, k), with A A^T = (G + r t I)^-1, for G = Y^T Y with trace t: the columns of Y A are orthonormal.

    The ridge r is 16 eps of `summed`, the dtype in which the entries of G were added up, so the factorization never
    breaks down. It makes directions of Y shorter that are below about a thousandth of the largest in float32. For G = 0
    the result is finite. A NaN stays in its matrix.
    """
    t, eye = _trace(G), torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    L, _ = torch.linalg.cholesky_ex(G / t + 16 * torch.finfo(summed).eps * eye)
    return torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False).mT * t.rsqrt()


def shrinking(K: Tensor, norm: float, least: float, steps: int) -> Tensor:
    """Return F - I, (b, k, k), with F = (I + K / c^2)^(-1/2) and c^2 = max((norm - tr K) / k, norm least^2).

    K has eigenvalues from 0 to `norm`, the square of the Frobenius norm of the matrix that is deflated. The coupled
    iteration of Y -> B^(1/2), Z -> B^(-1/2) takes `steps` minimax steps, made for the largest condition that `least`
    allows, so it reads nothing from the device.
    """
    k = K.shape[-1]
    rest = norm - K.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    c = (rest / k).clamp_min(norm * least**2).sqrt()
    eye = torch.eye(k, dtype=K.dtype, device=K.device)
    B = K / c**2 + eye
    s = frobenius(B)
    Y, Z = B / s, None
    rows = _rows(least, steps)
    for j, (c0, c1, c2) in enumerate(rows):
        M = Y if Z is None else Z @ Y
        q = torch.baddbmm(M, M, M, beta=c1, alpha=c2) + c0 * eye
        Y = Y @ q if j + 1 < len(rows) else Y
        Z = q if Z is None else q @ Z
    assert Z is not None
    return (Z + Z.mT) / 2 * s.rsqrt() - eye


@constant
def _rows(least: float, steps: int) -> tuple[tuple[float, ...], ...]:
    return PolarExpress((5,) * steps, lower=least, cushion=0.0, safety=1.0).schedule(2).coefficients


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


def _trace(M: Tensor) -> Tensor:
    """Return the trace of each M, (b, 1, 1); 1 instead of 0."""
    t = M.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return torch.where(t == 0, 1.0, t)


def _normed(X: Tensor) -> Tensor:
    """Divide each matrix by its Frobenius norm, which deflation has made less than 1."""
    norm = frobenius(X.to(torch.promote_types(X.dtype, torch.float32)))
    return (X / torch.where(norm == 0, 1.0, norm)).to(X.dtype)


def _cast(X: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return X times a power of two in `dtype`, in one pass where possible."""
    if scale == 1.0:
        return X.to(dtype)
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and X.requires_grad):
        return (X * scale).to(dtype)
    return torch.mul(X, scale, out=torch.empty_like(X, dtype=dtype))


def _mm(A: Tensor, B: Tensor, products: Products) -> Tensor:
    """A B of thin factors, in float32 for half precision."""
    if A.dtype not in _HALF:
        return products.mm(A, B)
    if A.is_cuda and not torch.compiler.is_compiling():
        return torch.bmm(A, B, out_dtype=torch.float32)
    return A.float() @ B.float()


def _plus(H: Tensor, A: Tensor, B: Tensor, products: Products) -> Tensor:
    """H + A B, rounded once."""
    if H.dtype not in _HALF:
        return products.addmm(H, A, B, alpha=1.0, beta=1.0)
    if H.device.type == "cpu":  # torch's own float16 products are slow there
        return torch.baddbmm(H.float(), A.float(), B.float()).to(H.dtype)
    return torch.baddbmm(H, A, B)
