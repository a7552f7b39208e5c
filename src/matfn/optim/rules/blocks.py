"""Blocks: each matrix as a tensor of merged dimensions, cut into blocks, with one Kronecker factor for each dimension.

Pure bookkeeping, worked out once for a shape: which part of a matrix a block is, and which of the factors in the state
are its own. All factors of one size of one matrix are one tensor (r, d, d), whatever block and side they belong to.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

__all__ = ["Block", "Cutting", "blocks_of", "sizes"]


@dataclass(frozen=True)
class Cutting:
    """How matrices are brought to blocks.

    The output is one dimension. The inputs of a linear layer are the other; those of a convolution are several (inputs,
    kernel), of which neighbours are merged from the right while their product is at most `merge`.

    Attributes:
        block: longest side of a block; a longer dimension is cut into as few parts as that allows, of lengths that
            differ by one at most. None cuts nothing.
        merge: see above; 1 merges nothing. Dimensions of length 1 are always dropped.
        largest: a side longer than this has no factor. None: all have.

    Raises:
        ValueError: a number below 1.
        TypeError: no whole number.
    """

    block: int | None = 1024
    merge: int = 1024
    largest: int | None = None

    def __post_init__(self) -> None:
        for name in ("block", "merge", "largest"):
            value = getattr(self, name)
            if value is None and name != "merge":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}.")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def dims(self, rows: int, columns: Sequence[int]) -> tuple[int, ...]:
        """The merged dimensions of a matrix whose columns are several axes; at least one."""
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
    """One block of each matrix of a shape.

    Attributes:
        dims: the merged dimensions of a matrix.
        where: [start, stop) along each of them.
        factors: of each side the key of its size and the number of its factor among those of this size; None for a side
            without a factor.
    """

    dims: tuple[int, ...]
    where: tuple[tuple[int, int], ...]
    factors: tuple[tuple[str, int] | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the block."""
        return tuple(stop - start for start, stop in self.where)

    def read(self, matrices: Tensor) -> Tensor:
        """The block's view ``(k, *shape)`` of contiguous matrices ``(k, m, n)``."""
        opened = matrices.view(len(matrices), *self.dims)
        return opened[(slice(None), *(slice(start, stop) for start, stop in self.where))]

    def __str__(self) -> str:
        """Its place, as one would index it."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in self.where) + "]"


@lru_cache(maxsize=4096)
def blocks_of(shape: tuple[int, ...], cutting: Cutting) -> tuple[Block, ...]:
    """All blocks of matrices of a shape, rows and then the axes of the columns; of empty matrices there are none."""
    if 0 in shape:
        return ()
    rows, *columns = shape
    dims = cutting.dims(rows, columns)
    taken: dict[str, int] = {}
    found = []
    for where in itertools.product(*(cutting.parts(size) for size in dims)):
        factors: list[tuple[str, int] | None] = []
        for start, stop in where:
            key = f"{len(dims)}x{stop - start}"  # of another order the roots would have another exponent
            factored = cutting.largest is None or stop - start <= cutting.largest
            factors.append((key, taken.get(key, 0)) if factored else None)
            if factored:
                taken[key] = taken.get(key, 0) + 1
        found.append(Block(dims, where, tuple(factors)))
    return tuple(found)


@lru_cache(maxsize=4096)
def sizes(shape: tuple[int, ...], cutting: Cutting) -> dict[str, tuple[int, int, int]]:
    """``(r, d, d)`` of each size of factors that matrices of a shape have, by key; do not change it."""
    found: dict[str, tuple[int, int, int]] = {}
    for block in blocks_of(shape, cutting):
        for factor, side in zip(block.factors, block.shape, strict=True):
            if factor is not None:
                found[factor[0]] = (max(found.get(factor[0], (0,))[0], factor[1] + 1), side, side)
    return found
