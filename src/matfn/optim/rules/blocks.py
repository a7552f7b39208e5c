"""Blocks: each matrix as a tensor of merged dimensions, cut into blocks, with one Kronecker factor for each dimension.

Pure bookkeeping, worked out once for a layout: which part of a matrix a block is, and where its factors lie in the
state of the parameter. All factors of one size of one parameter are one tensor (k, n, n), whatever block and side they
belong to.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .matrices import foreach
from .matrices.buckets import Bucket, Slot
from .matrices.layout import Layout

__all__ = ["Batch", "Block", "Cutting", "Home", "blocks_of", "fill_batches", "sizes"]

# 64 MB in float32: what the factors of one batch may take, as a temporary beside the state.
_ENTRIES = 2**24


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
class Home:
    """Where factors lie: in the state tensor named by `key`, from index `start` on."""

    key: str
    start: int


@dataclass(frozen=True)
class Block:
    """The same block of each matrix of a row block of a layout.

    Attributes:
        piece: which row block of the layout.
        count: so many matrices.
        dims: the merged dimensions of each.
        where: [start, stop) along each of them.
        homes: of the factor of each side; None where it has none.
    """

    piece: int
    count: int
    dims: tuple[int, ...]
    where: tuple[tuple[int, int], ...]
    homes: tuple[Home | None, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of the block; there are as many as it has factors."""
        return tuple(stop - start for start, stop in self.where)

    def read(self, matrices: Tensor) -> Tensor:
        """The block's view ``(count, *shape)`` of contiguous matrices ``(count, m, n)``."""
        opened = matrices.view(self.count, *self.dims)
        return opened[(slice(None), *(slice(start, stop) for start, stop in self.where))]

    def __str__(self) -> str:
        """Its place, as one would index it."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in self.where) + "]"


@lru_cache(maxsize=4096)
def blocks_of(layout: Layout, cutting: Cutting) -> tuple[Block, ...]:
    """All blocks of a parameter, in a fixed order; of empty matrices there are none."""
    columns = [layout.split[axis] for axis in layout.columns]
    taken: dict[str, int] = {}
    found = []
    for piece, (count, m, n) in enumerate(layout.matrices):
        if count * m * n == 0:
            continue
        dims = cutting.dims(m, columns)
        for where in itertools.product(*(cutting.parts(size) for size in dims)):
            homes: list[Home | None] = []
            for start, stop in where:
                key = f"{len(dims)}x{stop - start}"  # of another order the roots would have another exponent
                factored = cutting.largest is None or stop - start <= cutting.largest
                homes.append(Home(key, taken.get(key, 0)) if factored else None)
                if factored:
                    taken[key] = taken.get(key, 0) + count
            found.append(Block(piece, count, dims, where, tuple(homes)))
    return tuple(found)


def sizes(blocks: Sequence[Block]) -> dict[str, tuple[int, int, int]]:
    """The shape ``(k, n, n)`` of each state tensor that holds factors, by key."""
    found: dict[str, tuple[int, int, int]] = {}
    for block in blocks:
        for home, side in zip(block.homes, block.shape, strict=True):
            if home is not None:
                number = max(found.get(home.key, (0, 0, 0))[0], home.start + block.count)
                found[home.key] = (number, side, side)
    return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Blocks of one shape, from one bucket, one parameter group and of one age.

    Attributes:
        members: whose blocks they are; the order is that of the stack.
        shape: of each block.
        group: index of the parameter group.
    """

    members: tuple[tuple[Slot, Block], ...]
    shape: tuple[int, ...]
    group: int

    def views(self, stack: Tensor) -> list[Tensor]:
        """Of each member, its ``(count, *shape)`` view of the bucket's stack ``(b, m, n)``."""
        return [block.read(stack[slot.start : slot.start + slot.count]) for slot, block in self.members]

    def gather(self, stack: Tensor) -> Tensor:
        """The blocks ``(k, *shape)``, copied from the bucket's stack ``(b, m, n)``."""
        return torch.cat(self.views(stack))

    def scatter(self, values: Tensor, stack: Tensor) -> None:
        """Write ``(k, *shape)`` into the bucket's stack ``(b, m, n)``."""
        foreach.copy_(self.views(stack), list(values.split([block.count for _, block in self.members])))


def fill_batches(bucket: Bucket, cutting: Cutting, ages: dict[Slot, int]) -> tuple[Batch, ...]:
    """Sort the blocks of a bucket into batches: at most 64 MB of factors each, or the blocks of one slot.

    Args:
        bucket: whose blocks they are.
        cutting: how they are cut.
        ages: the steps each slot's parameter has made: what is due at a step is due for a whole batch.
    """
    open_: dict[tuple[tuple[int, ...], int, int], list[tuple[Slot, Block]]] = {}
    filled: list[list[tuple[Slot, Block]]] = []
    for slot in bucket.slots:
        for block in blocks_of(slot.layout, cutting):
            if block.piece != slot.piece:
                continue
            key = (block.shape, slot.group, ages[slot])
            each = max(side**2 for side in block.shape)
            members = open_.get(key)
            if members is None or (sum(b.count for _, b in members) + block.count) * each > _ENTRIES:
                members = open_[key] = []
                filled.append(members)
            members.append((slot, block))
    return tuple(Batch(tuple(members), members[0][1].shape, members[0][0].group) for members in filled)
