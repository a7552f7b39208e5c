"""Blocked products: compute a symmetric result in block rows up to the diagonal, and mirror the rest."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .products import EAGER, Plain, Weight, numbers

__all__ = ["Blocked"]


@dataclass(frozen=True)
class Blocked:
    """`Products` by plain matrix products into views of the result, matrix by matrix; no derivatives.

    With k block rows a symmetric product takes (k + 1)/(2 k) of the full product, plus the copy of the mirrored part.
    Works on any device and dtype; the machine's profile says where it is faster.

    Attributes:
        rows: Height of a block row, at least 1.
        plain: Products for the blocks and for all results without symmetry.
    """

    rows: int = 192
    plain: Plain = EAGER

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        out = X.new_empty(X.shape[0], X.shape[1], X.shape[1])
        for matrix, into in zip(X, out, strict=True):
            x = self.plain.ready(matrix)
            for start, stop in self._rows(x.shape[0]):
                self.plain.write(x[start:stop], x[:stop].mT, into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B, symmetric."""
        out = torch.empty_like(A, memory_format=torch.contiguous_format)
        for a, b, into in zip(A, B, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                self.plain.write(a[start:stop], b[:, :stop], into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C, symmetric."""
        out = torch.empty_like(C, memory_format=torch.contiguous_format)
        weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
        for c, a, b, (product_weight, weight), into in zip(C, A, B, weights, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                block = c[start:stop, :stop], a[start:stop], b[:, :stop]
                self.plain.write_sum(*block, product_weight, weight, into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B without symmetry."""
        return self.plain.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C without symmetry."""
        return self.plain.addmm(C, A, B, alpha=alpha, beta=beta)

    def share(self, n: int) -> float:
        """Return the share of a symmetric n x n result that is computed, not mirrored: 1/2 to 1."""
        return sum((stop - start) * stop for start, stop in self._rows(n)) / n**2 if n else 1.0

    def _rows(self, n: int) -> Iterator[tuple[int, int]]:
        """Cut n rows into block rows of nearly equal height, at least `rows`, in multiples of 16 if possible."""
        count = max(1, n // self.rows)
        edges = [n * i // count // 16 * 16 if n >= 16 * count else n * i // count for i in range(count)] + [n]
        return pairwise(edges)
