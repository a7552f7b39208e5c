"""Inverse factor: sums of (A + t I)^-1 by the inverses of Cholesky factors, made of products of large blocks.

With blocks A + t I = [[P, C^T], [C, D]] the inverse K of the Cholesky factor, (A + t I)^-1 = K^T K, has the blocks

    K_1 of P,    Z = C K_1^T,    K_2 of D - Z Z^T,    K_21 = -K_2 Z K_1,

which is as stable as Cholesky's factorization. (With the inverse of P in place of K_1 it would not be: an error of the
size of eps times the condition number of P would meet the small eigenvalues of D - Z Z^T.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import EAGER, Products
from .triangle import Cut, Factor, from_left, from_right, joined, on_the_right_transposed, squared

__all__ = ["add_resolvents"]

_LEAF = 32  # rows: below it LAPACK's factorization takes no longer than products do
_LARGE = 96**3  # multiply-adds from which the products chosen for the whole matrix are taken
# Entries of all A + t_j I that are factored at a time: on a CPU what stays in its cache, elsewhere 64 MB in float32.
_ENTRIES = {"cpu": 2**20}
_ELSEWHERE = 2**24


def add_resolvents(out: Tensor, A: Tensor, weights: Tensor, shifts: Tensor, products: Products) -> None:
    """Add sum_j w_j (A + t_j I)^-1 to `out`; NaN where one is not positive definite in working precision.

    A term takes 0.85 n^3 to 1.2 n^3 multiply-adds: the factor 0.55 n^3 to 0.67 n^3, and the sum of K^T K over all
    terms, one product with long rows for each block, the rest.

    Args:
        out: (b, n, n), symmetric.
        A: (b, n, n), symmetric, of norm 1 or so.
        weights: w_j, (r), positive.
        shifts: t_j, (r).
        products: Multiply large blocks; torch's batched products multiply small ones.
    """
    several = max(1, _ENTRIES.get(A.device.type, _ELSEWHERE) // (len(shifts) * A.shape[-1] ** 2))
    by_size = _Sizes(products)
    for some, into in zip(A.split(several), out.split(several), strict=True):
        squared(_leading(some, shifts, by_size), weights.repeat(len(some)), into, by_size)


@dataclass(frozen=True)
class _Sizes:
    """Products by size: torch's batched ones for small blocks, those for the whole matrix for large ones."""

    wide: Products

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        large = A.shape[-2] * A.shape[-1] * B.shape[-1] >= _LARGE
        return (self.wide if large else EAGER).mm(A, B)


def _leading(A: Tensor, shifts: Tensor, products: _Sizes) -> Factor:
    """Inverse factors (g r, n, n) of A + t_j I for all r shifts; they share C, so Z is one product for all of them."""
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
    """The inverse of the Cholesky factor of each S (b, n, n), from its lower triangle."""
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
    """The factor of the whole from that of the leading block."""
    second = joined(_factor(products.mm(Z, Z.mT).neg_().add_(D), products))
    return Cut(first, from_left(second, from_right(Z, first, products), products).neg_(), second)


def _shifted(A: Tensor, shifts: Tensor) -> Tensor:
    """A + t_j I, (g r, n, n), the shifts of one matrix next to each other."""
    found = A.repeat_interleave(len(shifts), 0)
    found.diagonal(dim1=-2, dim2=-1).add_(shifts.repeat(len(A))[:, None])
    return found


def _half(n: int) -> int:
    """Where a matrix is cut: about the middle, at a multiple of 16 if it is large."""
    return n // 2 if n <= 2 * _LEAF else (n // 2 + 15) // 16 * 16
