"""Blocked products: of a symmetric result only the block rows up to the diagonal are computed, the rest is mirrored."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .eager import EAGER
from .products import Weight

__all__ = ["Blocked"]


@dataclass(frozen=True)
class Blocked:
    """`Products` by plain matrix products into views of the result, matrix by matrix; no derivatives.

    In k block rows a symmetric product takes (k + 1)/(2 k) of the full one, and the copy of what is mirrored. On any
    device and in any dtype; where it pays depends on both (`products_for`).

    Attributes:
        rows: Height of a block row, at least 1.
    """

    rows: int = 192

    def syrk(self, X: Tensor) -> Tensor:
        """X X^T."""
        out = X.new_empty(X.shape[0], X.shape[1], X.shape[1])
        for x, into in zip(X, out, strict=True):
            for start, stop in self._rows(x.shape[0]):
                torch.mm(x[start:stop], x[:stop].mT, out=into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        out = torch.empty_like(A, memory_format=torch.contiguous_format)
        for a, b, into in zip(A, B, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                torch.mm(a[start:stop], b[:, :stop], out=into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        out = torch.empty_like(C, memory_format=torch.contiguous_format)
        numbers = zip(_numbers(alpha, len(C)), _numbers(beta, len(C)), strict=True)
        for c, a, b, (product_weight, weight), into in zip(C, A, B, numbers, out, strict=True):
            for start, stop in self._rows(a.shape[0]):
                block = c[start:stop, :stop], a[start:stop], b[:, :stop]
                torch.addmm(*block, alpha=product_weight, beta=weight, out=into[start:stop, :stop])
                into[:start, start:stop] = into[start:stop, :start].mT
        return out

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B, which has no symmetry to use."""
        return EAGER.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C, which has no symmetry to use."""
        return EAGER.addmm(C, A, B, alpha=alpha, beta=beta)

    def share(self, n: int) -> float:
        """What part of a symmetric n x n result is computed and not mirrored, 1/2 to 1."""
        return sum((stop - start) * stop for start, stop in self._rows(n)) / n**2 if n else 1.0

    def _rows(self, n: int) -> Iterator[tuple[int, int]]:
        """The block rows: as many as fit at `rows` each, of nearly equal height, in multiples of 16 where possible."""
        count = max(1, n // self.rows)
        edges = [n * i // count // 16 * 16 if n >= 16 * count else n * i // count for i in range(count)] + [n]
        return pairwise(edges)


def _numbers(weight: Weight, count: int) -> list[float]:
    """One number for each matrix; on a CPU they are read at no cost."""
    return weight.flatten().tolist() * (count // weight.numel()) if isinstance(weight, Tensor) else [weight] * count
