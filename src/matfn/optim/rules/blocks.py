"""Blocks: each matrix as a tensor of merged dimensions, cut into blocks, with one Kronecker factor for each dimension.

A block knows its part of the matrix and its factors in the state, computed once per shape. All factors of one size of
one matrix are one tensor (r, d, d), whatever their block and side.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from ..options import check_count

__all__ = ["Block", "Cutting", "blocks_of", "sizes"]


@dataclass(frozen=True)
class Cutting:
    """How matrices are cut into blocks.

    The output is one dimension. The input of a linear layer is the other. The inputs of a convolution are several
    dimensions (inputs, kernel), merged from the right while the product is at most `merge`.

    Attributes:
        block: Longest side of a block. A longer dimension is cut into as few parts as possible, of lengths that differ
            by at most one. None cuts nothing.
        merge: See above; 1 merges nothing. Dimensions of length 1 are always dropped.
        largest: A side longer than this has no factor. None gives every side a factor.

    Raises:
        ValueError: If a number is below 1.
        TypeError: If a number is no integer.
    """

    block: int | None = 1024
    merge: int = 1024
    largest: int | None = None

    def __post_init__(self) -> None:
        for name in ("block", "merge", "largest"):
            if (value := getattr(self, name)) is not None or name == "merge":
                check_count(value, name)

    def dims(self, rows: int, columns: Sequence[int]) -> tuple[int, ...]:
        """The merged dimensions, at least one, of a matrix whose columns are several axes."""
        merged: list[int] = []
        for size in reversed(columns):
            if merged and merged[0] * size <= self.merge:
                merged[0] *= size
            else:
                merged.insert(0, size)
        return tuple(size for size in (rows, *merged) if size > 1) or (1,)

    def parts(self, length: int) -> list[tuple[int, int]]:
        """[start, stop) of each part of a dimension."""
        number = 1 if self.block is None else math.ceil(length / self.block)
        ends = [length * i // number for i in range(number + 1)]
        return list(itertools.pairwise(ends))


@dataclass(frozen=True)
class Block:
    """One block of each matrix of a shape."""

    dims: tuple[int, ...]  # the merged dimensions of a matrix
    where: tuple[tuple[int, int], ...]  # [start, stop) along each dimension
    factors: tuple[tuple[str, int] | None, ...]  # for each side the key of its size, and the index within this size

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the block."""
        return tuple(stop - start for start, stop in self.where)

    @property
    def sides(self) -> list[int]:
        """The sides that have factors."""
        return [side for side, factor in enumerate(self.factors) if factor is not None]

    def read(self, matrices: Tensor) -> Tensor:
        """The block's view ``(k, *shape)`` of contiguous matrices ``(k, m, n)``."""
        opened = matrices.view(len(matrices), *self.dims)
        return opened[(slice(None), *(slice(start, stop) for start, stop in self.where))]

    def __str__(self) -> str:
        """The place as an index, for messages."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in self.where) + "]"


@lru_cache(maxsize=4096)
def blocks_of(shape: tuple[int, ...], cutting: Cutting) -> tuple[Block, ...]:
    """All blocks of matrices of a shape (rows, then the axes of the columns). Empty matrices have none."""
    if 0 in shape:
        return ()
    rows, *columns = shape
    dims = cutting.dims(rows, columns)
    taken: dict[str, int] = {}
    found = []
    for where in itertools.product(*(cutting.parts(size) for size in dims)):
        factors: list[tuple[str, int] | None] = []
        for start, stop in where:
            key = f"{len(dims)}x{stop - start}"  # the exponent of a root depends on the number of sides
            factored = cutting.largest is None or stop - start <= cutting.largest
            factors.append((key, taken.get(key, 0)) if factored else None)
            if factored:
                taken[key] = taken.get(key, 0) + 1
        found.append(Block(dims, where, tuple(factors)))
    return tuple(found)


@lru_cache(maxsize=4096)
def sizes(shape: tuple[int, ...], cutting: Cutting) -> dict[str, tuple[int, int, int]]:
    """{key: ``(r, d, d)``} of the factors that matrices of a shape have. The dict is cached: do not change it."""
    found: dict[str, tuple[int, int, int]] = {}
    for block in blocks_of(shape, cutting):
        for factor, d in zip(block.factors, block.shape, strict=True):
            if factor is not None:
                found[factor[0]] = (factor[1] + 1, d, d)  # indices of a key are in order, so the last is the greatest
    return found
