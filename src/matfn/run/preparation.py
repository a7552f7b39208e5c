"""Preparation: turn a scaled matrix into the first iterate: deflate large singular values, tighten the norm."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from ..iteration.residual import Form
from ..iteration.schedule import Preparation
from ..iteration.target import Domain, Target
from ..kernels import EAGER, Products
from ..kernels.card import has_triton
from ..kernels.products import differentiated
from ..linalg.norms import Scale, frobenius, prescale

__all__ = ["CONSTANT", "LEAST", "POLES", "deflated", "deflated_gram", "prepared", "shrinking", "tightened", "whitening"]

Scaling = Callable[[Tensor], tuple[Tensor, Scale]]

_HALF = (torch.bfloat16, torch.float16)
# A float16 iterate starts with the norm 2^7. Then M = X X^T has the trace 2^14, and no entry overflows (65504). For a
# flat 4096 x 11008 matrix the entries beside the diagonal are .04. With the norm 1 they would be 2e-6 and have one
# digit, because the normal numbers of float16 end at 6e-5.
_LIFT = 2.0**7
_MOST_COLUMNS = 128  # the largest k of the k x k kernels
LEAST = 2.0**-8  # least c of `deflated`: 8 roundings of float16, of which four could make D indefinite
# y^(-1/2) is about CONSTANT + sum of weight / (y + shift): between .9865 y^(-1/2) and y^(-1/2) for y up to 1.05 (1 +
# LEAST^-2). Zolotarev's function with four poles (`matfn.minimax.zolotarev`).
CONSTANT = 0.00186306349
POLES = ((0.726168302, 1.28422003), (25.3221901, 5.01575693), (570.040405, 23.4541876), (13724.1104, 125.412966))


def prepared(
    target: Target,
    A: Tensor,
    preparation: Preparation,
    precision: torch.dtype,
    wide: Products,
    products: Products,
    thin: torch.dtype | None = None,
    scale: Scaling = prescale,
) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Scale]:
    """Return the first iterate of an engine, its first M if the preparation has formed it (`Engine.run`), and the norm.

    A (b, m, n) is divided by its Frobenius norm, by `scale` where no kernel does it. `precision` and `products` are
    those of the iteration, `wide` the products for A in float32 at least, `thin` the dtype of the products of a
    deflation (`deflated`).
    """
    tightens = preparation.norm != "frobenius" and target.domain is not Domain.SPD  # a root depends on no norm
    polar, k = target.form is Form.GRAM, int(preparation.deflation * min(A.shape[-2:]))
    lift = _LIFT if tightens and polar and precision is torch.float16 else 1.0
    first = (thin or torch.promote_types(A.dtype, torch.float32)) if k else precision
    kernels = _kernels(A, first, k) if polar and thin else None  # a GPU that has tensor cores
    if kernels:
        H, T, peak, norm, _ = kernels[0].scaled(A, first, factor=lift, sketch=k)
        divisor = Scale(peak, norm)
    else:
        X, divisor = scale(A)
        H, T = _cast(X, lift, first), _cast(_sketch(X, k), lift, first) if k else None
        del X  # frees memory of the size of the argument
    if k:
        _refuse_gradient(A)
        assert T is not None
        H = _shrunk(H, T, wide, lift**2, kernels).to(precision)
    if not tightens:
        return _normed(H) if k and polar else H, None, divisor
    start, beside = target.start(H) if target.form is Form.PRODUCT else (H, None)
    return H, tightened(target.form.matrix(start, beside, products), target.p, kernels), divisor


def _kernels(A: Tensor, dtype: torch.dtype, k: int) -> tuple[Any, Any] | None:
    """Return the modules of the Triton kernels if they take A (b, m, n), a result in `dtype` and k columns.

    torch.compile and autograd follow torch's own functions only.
    """
    if not A.is_cuda or torch.compiler.is_compiling() or differentiated(A):
        return None
    if torch.float64 in (A.dtype, dtype) or (k and dtype is not torch.float16) or k > _MOST_COLUMNS:
        return None
    return _triton_modules()


@lru_cache(maxsize=1)
def _triton_modules() -> tuple[Any, Any] | None:
    if not has_triton():
        return None
    from ..kernels import triton_scale, triton_small

    return triton_scale, triton_small


def tightened(M: Tensor, p: int, kernels: tuple[Any, Any] | None = None) -> tuple[Tensor, Tensor]:
    """Return M / t and the factor t^(-1/p) for X, with t = ||M||_F, an upper bound of the eigenvalues of M (b, k, k).

    For the polar factor t^(1/2) is the Schatten-4 norm of X after division by the Frobenius norm: n equal values become
    n^(1/4) times as large. It costs no product, two passes over M and one over X, in the dtype of the iteration. p is
    the exponent of the target: M has degree p in X.
    """
    if kernels:
        found = kernels[0].scaled(M, M.dtype)
        return found.X, torch.pow(found.size, -1 / p, out=M.new_empty(found.size.shape))
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
    """`scale` times D X, with D = I - P (I - F) P^T, F about (I + K / c^2)^(-1/2) and K = P^T X X^T P.

    P, (n, k), is an orthonormal basis of X X^T S, nearly the k leading left singular vectors. c^2 = (||X||^2 - tr K) /
    k is the mean square of the other singular values, as if there were k of them. A singular value sigma in P becomes
    sigma / sqrt(1 + sigma^2 / c^2), about c if it was large; all others stay. If the spectrum is flat, c exceeds all of
    them and D is about I.

    D is symmetric positive definite, with eigenvalues in (0, 1]. If P spanned singular vectors, D would commute with X
    X^T, and D X would have the polar factor of X. The error of P has its effect where D changes most and P is best,
    among the largest singular values: on the momenta of two networks the polar factor of D X keeps .997 of the nuclear
    norm of X; as a matrix it differs from the factor of X by some percent.

    All is done by products and by Cholesky factorizations of k x k matrices with a ridge, so a CUDA graph can hold it.
    The first one (`whitening`) makes the rows of S^T X orthonormal: then the condition of Y, whose columns the second
    one makes orthonormal, is that of the leading part of X and not its square. Directions below the ridge make P
    shorter: P^T P <= I, so D stays positive definite, and deflates less there.

    In half precision thin products round their factors once and add up in float32. c is at least 2^-8, so that F in the
    largest direction exceeds the rounding of the four thin factors, 4 * 2^-11. On a GPU Triton kernels do all that is
    k x k, and another one divides, casts and sketches in one pass.

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
    _refuse_gradient(X)
    thin = thin or X.dtype
    return _shrunk(_cast(X, scale, thin), _cast(_sketch(X, k), scale, thin), products, scale**2).to(precision)


def _shrunk(H: Tensor, T: Tensor, products: Products, h: float, kernels: tuple[Any, Any] | None = None) -> Tensor:
    """Return D H for H (b, m, n) of squared norm `h`, and T = S^T H, of H^T if H is tall, (b, k, max(m, n))."""
    tall, thin = H.shape[-2] > H.shape[-1], H.dtype
    if kernels:
        white, times, root = kernels[1].whitening, kernels[1].thin_product, partial(kernels[1].root_terms, phi=LEAST)
    else:
        small = torch.float32 if thin in _HALF else torch.float64
        white, times, root = partial(whitening, dtype=small), _times, partial(shrinking, dtype=small)
    Z = _mm(T, H, products).mT if tall else _mm(H, T.mT, products)
    Y = times(Z, white(_mm(T, T.mT, EAGER)), thin)
    P = times(Y, white(_mm(Y.mT, Y, EAGER)), thin)
    R = _rounded_mm(H, P, products).mT if tall else _rounded_mm(P.mT, H, products)
    left = times(P, root(_mm(R, R.mT, EAGER), h), thin)
    return _plus(H, R.mT, left.mT, products) if tall else _plus(H, left, R, products)


def deflated_gram(M: Tensor, share: float, products: Products) -> tuple[Tensor, Tensor]:
    """Return D M D and D, both (b, n, n), with the D of `deflated` for a wide X with M = X X^T, times a number.

    D M D has trace 1, as D X has norm 1 in `prepared`. M has trace 1 or is zero, in float32 or float64; `share` is at
    least one column.
    """
    Z = _sketch(M, int(share * M.shape[-1])).mT
    Y = _times(Z, whitening(_sums(Z, Z.shape[-1]), torch.float64), M.dtype)
    P = _times(Y, whitening(Y.mT @ Y, torch.float64), M.dtype)
    D = _times(P, shrinking(P.mT @ products.mm(M, P), 1.0, torch.float64), M.dtype) @ P.mT
    D.diagonal(dim1=-2, dim2=-1).add_(1.0)
    M = products.mm(products.mm(D, M), D.mT)
    t = _trace(M)
    return M / t, D * t.rsqrt()


def whitening(G: Tensor, dtype: torch.dtype) -> Tensor:
    """Return A, (b, k, k), with A A^T = (G + r t I)^-1, for G = Y^T Y with trace t: the columns of Y A are orthonormal.

    The ridge r is 16 eps of the dtype of G. It makes directions of Y shorter that are below about a thousandth of the
    largest, in float32. Sums of thousands of equal numbers can err by more: 47 eps for 4096, and then G + r t I has
    negative eigenvalues. Where the factorization fails, r is eps^(1/2). For G = 0 the result is finite. A NaN stays in
    its matrix. All else is computed in `dtype`.
    """
    t, eps = _trace(G.to(dtype)), torch.finfo(G.dtype).eps
    return _inverse_factor(G / t, 16 * eps, eps**0.5) * t.rsqrt()


def shrinking(K: Tensor, h: float, dtype: torch.dtype) -> Tensor:
    """Return F - I, (b, k, k), with F about (I + K / c^2)^(-1/2) and c^2 = max((h - tr K) / k, h LEAST^2).

    K has eigenvalues from 0 to `h`, the square of the Frobenius norm of the matrix that is deflated. F is a positive
    rational function of K, .9865 to 1 times the inverse root: partial fractions with the shifts of `POLES`.
    """
    K = K.to(dtype)
    rest = h - K.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    K = K / (rest / K.shape[-1]).clamp_min(h * LEAST**2)
    terms = [weight**0.5 * _inverse_factor(K, 1.0 + shift) for shift, weight in POLES]
    E = torch.cat(terms, -1)
    F = E @ E.mT
    F.diagonal(dim1=-2, dim2=-1).add_(CONSTANT - 1.0)
    return F


def _inverse_factor(K: Tensor, shift: float, wider: float | None = None) -> Tensor:
    """Return A (b, k, k), upper triangular, with A A^T = (K + shift I)^-1; with the shift `wider` where that fails.

    On a GPU the kernel leaves out the directions in which the factorization fails.
    """
    on_card = K.is_cuda and K.dtype == torch.float32 and not torch.compiler.is_compiling()
    eye = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
    if on_card and (modules := _triton_modules()):  # nobody promises that a CUDA graph can hold a decomposition
        return inverse_factor_in_blocks(K + shift * eye, modules[1].whitening)
    L, broken = _factor(K + shift * eye, shift)
    if wider is not None:
        L = torch.where(broken, _factor(K + wider * eye, wider)[0], L)
    return torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False).mT


def _factor(S: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor of S, (b, k, k), and whether it is lost to rounding, (b, 1, 1).

    All pivots are at least the least eigenvalue, which is `least` in exact arithmetic. Rounding can leave a positive
    pivot close to 0.
    """
    L, info = torch.linalg.cholesky_ex(S)
    small = L.diagonal(dim1=-2, dim2=-1).amin(-1) < (least / 4) ** 0.5
    return L, ((info != 0) | small)[..., None, None]


def inverse_factor_in_blocks(S: Tensor, small: Callable[[Tensor], Tensor]) -> Tensor:
    """Return A (b, k, k), upper triangular, with A A^T = S^-1, by `small`, which does it for k up to 128.

    `small` may add a ridge of its own, as `triton_small.whitening` does: 2^-19 of the trace of a block.

    With S = [[P, B], [B^T, C]], W for P, V = W^T B and U for the Schur complement C - V^T V, A = [[W, -W V U], [0, U]].
    Products are in float64: in TF32 the complement could become indefinite.
    """
    k, h = S.shape[-1], S.shape[-1] // 2
    if k <= _MOST_COLUMNS:
        return small(S)
    W = inverse_factor_in_blocks(S[:, :h, :h].contiguous(), small)
    V = W.mT.double() @ S[:, :h, h:].double()
    U = inverse_factor_in_blocks((S[:, h:, h:] - V.mT @ V).to(S.dtype), small)
    beside = (W.double() @ (V @ U.double())).neg_().to(S.dtype)
    return torch.cat([torch.cat([W, beside], -1), torch.cat([U.new_zeros(len(S), k - h, h), U], -1)], -2)


def _refuse_gradient(A: Tensor) -> None:
    if differentiated(A):
        raise ValueError("deflation has no derivative: leave it out of the method, or differentiate without it")


def _sketch(X: Tensor, k: int) -> Tensor:
    """S^T X, (b, k, m): k weighted sums of neighbouring rows of X (b, n, m), in one pass; Gaussian S needs a product.

    For a tall X, S^T X^T: sums of columns.

    The weights are fixed, so the result is reproducible. Leading left singular vectors orthogonal to S are not deflated
    then, and D is nearer to I.
    """
    return _sums(X.mT if X.shape[-2] > X.shape[-1] else X, k)


def _sums(X: Tensor, k: int) -> Tensor:
    length = X.shape[-2] // k
    weights = torch.arange(1, length + 1, device=X.device, dtype=X.dtype).square().cos()
    rows = X[:, : k * length]
    if X.mT.is_contiguous() and not X.is_contiguous():
        return (rows.mT.unflatten(-1, (k, length)) @ weights).mT
    return (weights @ rows.unflatten(1, (k, length))).reshape(-1, k, X.shape[-1])


def _trace(M: Tensor) -> Tensor:
    """Return the trace of each M, (b, 1, 1), and 1 where the trace is 0."""
    t = M.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return torch.where(t == 0, 1.0, t)


def _normed(X: Tensor) -> Tensor:
    """Divide each matrix by its Frobenius norm, which deflation has made less than 1."""
    norm = frobenius(X.to(torch.promote_types(X.dtype, torch.float32)))
    return (X / torch.where(norm == 0, 1.0, norm)).to(X.dtype)


def _times(Y: Tensor, A: Tensor, dtype: torch.dtype) -> Tensor:
    """Y A in `dtype`, multiplied in float32 at least; A is k x k."""
    wide = torch.promote_types(Y.dtype, torch.float32)
    return (Y.to(wide) @ A.to(wide)).to(dtype)


def _cast(X: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return X times a power of two in `dtype`, in one pass where possible."""
    if scale == 1.0:
        return X.to(dtype)
    if torch.compiler.is_compiling() or differentiated(X):
        return (X * scale).to(dtype)
    return torch.mul(X, scale, out=torch.empty_like(X, dtype=dtype))


def _mm(A: Tensor, B: Tensor, products: Products) -> Tensor:
    """A B of thin factors, in float32 for half precision."""
    if A.dtype not in _HALF:
        return _quick(A, products).mm(A, B)
    if A.is_cuda and not torch.compiler.is_compiling():
        return torch.bmm(A, B, out_dtype=torch.float32)
    return A.float() @ B.float()


def _rounded_mm(A: Tensor, B: Tensor, products: Products) -> Tensor:
    """A B of thin factors in their dtype: on a GPU the product itself rounds its float32 sums."""
    return torch.bmm(A, B) if A.is_cuda else _mm(A, B, products).to(A.dtype)


def _quick(A: Tensor, products: Products) -> Products:
    """Return `products` for one matrix, full products for a stack.

    Thin products are bound by memory, so products that go matrix by matrix and copy the results together lose: with
    oneDNN the deflation of 4 x 256 x 1024 took 9.0 ms of processor time, with full products 3.0 (AMD EPYC 9005).
    """
    return products if len(A) == 1 else EAGER


def _plus(H: Tensor, A: Tensor, B: Tensor, products: Products) -> Tensor:
    """H + A B, rounded once."""
    if H.dtype not in _HALF:
        return _quick(H, products).addmm(H, A, B, alpha=1.0, beta=1.0)
    if H.device.type == "cpu":  # torch's own float16 products are slow there
        return torch.baddbmm(H.float(), A.float(), B.float()).to(H.dtype)
    return torch.baddbmm(H, A, B)
