"""Inverse factor: sums of (A + t I)^-1 from inverses of Cholesky factors, computed by products of large blocks.

For A + t I = [[P, C^T], [C, D]] the inverse K of the Cholesky factor, with (A + t I)^-1 = K^T K, has the blocks

    K_1 of P,    Z = C K_1^T,    K_2 of D - Z Z^T,    K_21 = -K_2 Z K_1,

which is as stable as Cholesky's factorization. (P^-1 in place of K_1 would be unstable: its error, eps times the
condition number of P, would be added to the small eigenvalues of D - Z Z^T.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import EAGER, Products

__all__ = ["Cut", "add_resolvents", "from_left", "from_right", "joined", "on_the_right_transposed", "squared"]

_DENSE = 256  # rows up to which a triangle is dense: products of smaller blocks lose more than the zeros cost
_LEAF = 32  # rows below which LAPACK is no slower than products
_LARGE = 96**3  # multiply-adds from which a block uses the products chosen for the whole matrix
# Entries of all A + t_j I factored at a time: on a CPU they fit the cache, elsewhere they take 64 MB in float32.
_ENTRIES = {"cpu": 2**20}
_ELSEWHERE = 2**24


@dataclass(frozen=True)
class _Sizes:
    """Use torch's batched product for small blocks, and the products chosen for the whole matrix for large ones."""

    wide: Products

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B."""
        large = A.shape[-2] * A.shape[-1] * B.shape[-1] >= _LARGE
        return (self.wide if large else EAGER).mm(A, B)


@dataclass(frozen=True, eq=False)
class Cut:
    """[[first, 0], [below, second]], blocks (b, rows, columns); the triangles are dense or `Cut`."""

    first: "Factor"
    below: Tensor
    second: "Factor"


Factor = Tensor | Cut


def add_resolvents(out: Tensor, A: Tensor, weights: Tensor, shifts: Tensor, products: Products) -> None:
    """Add sum_j w_j (A + t_j I)^-1 to `out`; NaN if A + t_j I is not positive definite in working precision.

    Each term takes 0.85 n^3 to 1.2 n^3 multiply-adds: 0.55 n^3 to 0.67 n^3 for the factor, the rest for the sum of K^T
    K over all terms, which is one long product for each block. `out` and A (b, n, n) are symmetric, A of norm about 1;
    weights and shifts are (r,), weights positive. `products` multiply large blocks; small ones use torch's batched
    products.
    """
    several = max(1, _ENTRIES.get(A.device.type, _ELSEWHERE) // (len(shifts) * A.shape[-1] ** 2))
    by_size = _Sizes(products)
    for some, into in zip(A.split(several), out.split(several), strict=True):
        squared(_leading(some, shifts, by_size), weights.repeat(len(some)), into, by_size)


def _leading(A: Tensor, shifts: Tensor, products: _Sizes) -> Factor:
    """Compute the inverse factors (g r, n, n) of A + t_j I; all r shifts share C, so one product gives Z for all."""
    (g, n, _), r = A.shape, len(shifts)
    if n <= 2 * _LEAF:
        return _factor(_shifted(A, shifts), products)
    h = _half(n)
    first = joined(_leading(A[:, :h, :h], shifts, products))
    C = A[:, h:, :h].contiguous()
    if isinstance(first, Tensor):
        Z = products.mm(C, first.reshape(g, r * h, h).mT).view(g, n - h, r, h).transpose(1, 2).reshape(g * r, n - h, h)
    else:
        Z = on_the_right_transposed(C.repeat_interleave(r, 0), first, products)
    return _completed(first, Z, _shifted(A[:, h:, h:], shifts), products)


def _factor(S: Tensor, products: _Sizes) -> Factor:
    """Invert the Cholesky factor of each S (b, n, n), from the lower triangle of S."""
    n = S.shape[-1]
    if n <= _LEAF:
        L, info = torch.linalg.cholesky_ex(S)
        L = torch.where((info == 0)[:, None, None], L, torch.nan)
        return torch.linalg.solve_triangular(L, torch.eye(n, dtype=S.dtype, device=S.device).expand_as(L), upper=False)
    h = _half(n)
    first = joined(_factor(S[:, :h, :h], products))
    Z = on_the_right_transposed(S[:, h:, :h].contiguous(), first, products)
    return _completed(first, Z, S[:, h:, h:], products)


def _completed(first: Factor, Z: Tensor, D: Tensor, products: _Sizes) -> Factor:
    """Complete the inverse factor of the leading block to the inverse factor of the matrix."""
    second = joined(_factor(products.mm(Z, Z.mT).neg_().add_(D), products))
    return Cut(first, from_left(second, from_right(Z, first, products), products).neg_(), second)


def _shifted(A: Tensor, shifts: Tensor) -> Tensor:
    found = A.repeat_interleave(len(shifts), 0)
    found.diagonal(dim1=-2, dim2=-1).add_(shifts.repeat(len(A))[:, None])
    return found


def _half(n: int) -> int:
    """Return the size of the leading block: about n/2, a multiple of 16 for a large n."""
    return n // 2 if n <= 2 * _LEAF else (n // 2 + 15) // 16 * 16


def joined(K: Factor) -> Factor:
    """Join the blocks of K to one tensor if K has at most `_DENSE` rows."""
    if isinstance(K, Tensor) or not isinstance(K.first, Tensor) or not isinstance(K.second, Tensor):
        return K
    k, h = K.below.shape[-2:]
    if k + h > _DENSE:
        return K
    whole = K.below.new_zeros(len(K.below), h + k, h + k)
    whole[:, :h, :h], whole[:, h:, :h], whole[:, h:, h:] = K.first, K.below, K.second
    return whole


def on_the_right_transposed(C: Tensor, K: Factor, products: _Sizes) -> Tensor:
    """Compute C K^T for a contiguous C (b, m, n)."""
    if isinstance(K, Tensor):
        return products.mm(C, K.mT)
    h = K.below.shape[-1]
    left, right = C[..., :h].contiguous(), C[..., h:].contiguous()
    second = products.mm(left, K.below.mT).add_(on_the_right_transposed(right, K.second, products))
    return torch.cat([on_the_right_transposed(left, K.first, products), second], -1)


def from_right(C: Tensor, K: Factor, products: _Sizes) -> Tensor:
    """Compute C K for a contiguous C (b, m, n)."""
    if isinstance(K, Tensor):
        return products.mm(C, K)
    h = K.below.shape[-1]
    left, right = C[..., :h].contiguous(), C[..., h:].contiguous()
    first = from_right(left, K.first, products).add_(products.mm(right, K.below))
    return torch.cat([first, from_right(right, K.second, products)], -1)


def from_left(K: Factor, V: Tensor, products: _Sizes) -> Tensor:
    """Compute K V for V (b, n, m)."""
    if isinstance(K, Tensor):
        return products.mm(K, V)
    h = K.below.shape[-1]
    second = products.mm(K.below, V[:, :h]).add_(from_left(K.second, V[:, h:], products))
    return torch.cat([from_left(K.first, V[:, :h], products), second], -2)


def squared(K: Factor, weights: Tensor, out: Tensor, products: _Sizes) -> None:
    """Add the weighted sum of K_j^T K_j to `out` (g, n, n), symmetric, upper blocks included; overwrites K.

    K (g r, n, n) has r factors for each of g matrices; `weights` (g r,) are positive.
    """
    _scale(K, weights.sqrt()[:, None, None])
    _add_squared(K, out, products)


def _scale(K: Factor, by: Tensor) -> None:
    if isinstance(K, Tensor):
        K.mul_(by)
        return
    K.below.mul_(by)
    _scale(K.first, by)
    _scale(K.second, by)


def _add_squared(K: Factor, out: Tensor, products: _Sizes) -> None:
    """Add the sum of K_j^T K_j: compute the lower block triangle and mirror it."""
    g = len(out)
    if isinstance(K, Tensor):
        tall = _tall(K, g)
        out += products.mm(tall.mT, tall)
        return
    h, tall = K.below.shape[-1], _tall(K.below, g)
    out[:, :h, :h] += products.mm(tall.mT, tall)
    _add_squared(K.first, out[:, :h, :h], products)
    out[:, h:, :h] += _transposed_times(K.second, K.below, g, products)
    out[:, :h, h:] = out[:, h:, :h].mT
    _add_squared(K.second, out[:, h:, h:], products)


def _transposed_times(K: Factor, V: Tensor, g: int, products: _Sizes) -> Tensor:
    if isinstance(K, Tensor):
        return products.mm(_tall(K, g).mT, _tall(V, g))
    h = K.below.shape[-1]
    upper, lower = V[:, :h], V[:, h:]
    first = _transposed_times(K.first, upper, g, products).add_(products.mm(_tall(K.below, g).mT, _tall(lower, g)))
    return torch.cat([first, _transposed_times(K.second, lower, g, products)], -2)


def _tall(K: Tensor, g: int) -> Tensor:
    """Reshape (g r, m, n) to (g, r m, n)."""
    return K.reshape(g, -1, K.shape[-1])
