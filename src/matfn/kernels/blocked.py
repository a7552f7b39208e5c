"""Blocked products: of a symmetric result only the block rows up to the diagonal are computed, the rest is mirrored."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .eager import EAGER
from .products import Plain, Weight, numbers

__all__ = ["Blocked"]


@dataclass(frozen=True)
class Blocked:
    """`Products` by plain matrix products into views of the result, matrix by matrix; no derivatives.

    In k block rows a symmetric product takes (k + 1)/(2 k) of the full one, and the copy of what is mirrored. On any
    device and in any dtype; where it pays is a row of the machine's profile.

    Attributes:
        rows: Height of a block row, at least 1.
        plain: What multiplies the blocks, and what has no symmetry to use.
    """

    rows: int = 192
    plain: Plain = EAGER

    def syrk(self, X: Tensor) -> Tensor:
        """X X^T."""
        out = X.new_empty(X.shape[0], X.shape[1], X.shape[1])
        for matrix, into in zip(X, out, strict=True):
            x = self.plain.ready(matrix)
            for start, stop in self._rows(x.shape[0]):
                self.plain.write(x[start:stop], x[:stop].mT, into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        out = torch.empty_like(A, memory_format=torch.contiguous_format)
        for a, b, into in zip(A, B, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                self.plain.write(a[start:stop], b[:, :stop], into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        out = torch.empty_like(C, memory_format=torch.contiguous_format)
        weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
        for c, a, b, (product_weight, weight), into in zip(C, A, B, weights, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                block = c[start:stop, :stop], a[start:stop], b[:, :stop]
                self.plain.write_sum(*block, product_weight, weight, into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B, which has no symmetry to use."""
        return self.plain.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C, which has no symmetry to use."""
        return self.plain.addmm(C, A, B, alpha=alpha, beta=beta)

    def share(self, n: int) -> float:
        """What part of a symmetric n x n result is computed and not mirrored, 1/2 to 1."""
        return sum((stop - start) * stop for start, stop in self._rows(n)) / n**2 if n else 1.0

    def _rows(self, n: int) -> Iterator[tuple[int, int]]:
        """The block rows: as many as fit at `rows` each, of nearly equal height, in multiples of 16 where possible."""
        count = max(1, n // self.rows)
        edges = [n * i // count // 16 * 16 if n >= 16 * count else n * i // count for i in range(count)] + [n]
        return pairwise(edges)
