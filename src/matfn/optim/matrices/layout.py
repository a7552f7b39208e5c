"""Layout: how a parameter is read as matrices, by the roles of its axes: batch, rows (output) or columns (input).

A linear weight is one matrix. A grouped convolution, a stack of experts or a fused QKV weight is several matrices, each
orthogonalized by itself. A `Layout` cuts axes into factors and never merges them, so each piece is a *view* of the
parameter for any strides (channels-last too). Gradients are read and updates written through the same views.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Self

from torch import Tensor

__all__ = ["Layout", "convolution", "linear", "stack", "transposed", "transposed_convolution", "transposed_stack"]


@dataclass(frozen=True)
class Layout:
    """How a parameter of one shape is read as matrices.

    Attributes:
        shape: The shape of the parameter.
        split: `shape` with axes cut into factors, as ``(out, in, k)`` into ``(groups, out / groups, in, k)``.
        batch: Axes of `split` that number the matrices.
        rows: The axis of `split` that is the output; m is its length.
        columns: Axes of `split` that are the input; n is the product of their lengths.
        cuts: Lengths of consecutive blocks of the axis `rows`, each a matrix (q, k and v of a fused projection). Their
            sum is the length of that axis. The default is one block.
        outer: Further output axes of `split`, before `rows`. They number the repeats of a sequence of blocks, such as
            q, k and v of each head, or gate and up row by row. A block takes its rows from every repeat.

    Raises:
        ValueError: If `batch`, `outer`, `rows` and `columns` do not name each axis of `split` once, `split` does not
            refine `shape`, or the cuts do not add up to the length of `rows`.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    batch: tuple[int, ...]
    rows: int
    columns: tuple[int, ...]
    cuts: tuple[int, ...] = ()
    outer: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted((*self.batch, *self.outer, self.rows, *self.columns)) != list(range(len(self.split))):
            also = f"outer={self.outer}, " if self.outer else ""
            raise ValueError(
                f"Layout: batch={self.batch}, {also}rows={self.rows}, columns={self.columns} must name each axis of "
                f"split={self.split} exactly once."
            )
        if not _refines(self.shape, self.split):
            raise ValueError(
                f"Layout: split={self.split} must cut axes of shape={self.shape} into factors and never merge axes."
            )
        if not self.cuts:
            object.__setattr__(self, "cuts", (self.split[self.rows],))
        if sum(self.cuts) != self.split[self.rows] or min(self.cuts) < 0:
            raise ValueError(
                f"Layout: the row blocks {self.cuts} add up to {sum(self.cuts)}, but the matrix has "
                f"{self.split[self.rows]} rows (shape {self.shape})."
            )

    @cached_property
    def matrices(self) -> tuple[tuple[int, int, int], ...]:
        """One ``(b, m, n)`` per row block: b matrices of m x n."""
        b, repeats, n = (
            math.prod(self.split[axis] for axis in axes) for axes in (self.batch, self.outer, self.columns)
        )
        return tuple((b, repeats * cut, n) for cut in self.cuts)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one matrix of each row block, with each column axis kept."""
        return tuple((m, *(self.split[axis] for axis in self.columns)) for _, m, _ in self.matrices)

    def resized(self, count: int) -> Self:
        """The same layout for `count` entries of the first axis, which numbers matrices."""
        return replace(self, shape=(count, *self.shape[1:]), split=(count, *self.split[1:]))

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """Views of `x`, one per row block, with axes in the order (batch..., outer..., rows, columns...).

        Raises:
            ValueError: If `x` has another shape than `shape`.
        """
        if tuple(x.shape) != self.shape:
            raise ValueError(f"Layout for shape {self.shape} got a tensor of shape {tuple(x.shape)}.")
        opened = x.view(self.split).permute(*self.batch, *self.outer, self.rows, *self.columns)
        return opened.split(self.cuts, dim=len(self.batch) + len(self.outer))

    def slot(self, stack: Tensor, piece: int) -> Tensor:
        """A view of a contiguous stack ``(b, m, n)`` with the axes of ``pieces(x)[piece]``."""
        sizes = [self.split[axis] for axis in (*self.batch, *self.outer)]
        return stack.view(*sizes, self.cuts[piece], *(self.split[axis] for axis in self.columns))

    def cut(self, blocks: int | Sequence[int], repeats: int = 1) -> Self:
        """The same layout with the rows cut into `blocks`: the length of each, or the number of equal ones.

        Args:
            blocks: The number of equal blocks, or their lengths.
            repeats: How often the sequence of blocks is repeated along the rows, >= 1. `blocks` then describes one
                repeat, and a block takes its rows from every repeat. ``cut(3, repeats=heads)`` separates q, k and v
                that are stored head by head, ``cut(2, repeats=m // 2)`` gate and up that alternate row by row.

        Raises:
            ValueError: If the rows cannot be cut this way.
        """
        m = self.split[self.rows]
        if repeats < 1 or m % repeats or (repeats > 1 and self.outer):
            raise ValueError(f"{m} rows cannot be read as {repeats} repeats of blocks (shape {self.shape}).")
        if isinstance(blocks, int):
            if blocks < 1 or (m // repeats) % blocks:
                raise ValueError(f"{m // repeats} rows cannot be cut into {blocks} equal blocks (shape {self.shape}).")
            blocks = (m // repeats // blocks,) * blocks
        if repeats == 1:
            return replace(self, cuts=tuple(blocks))
        split = (*self.split[: self.rows], repeats, m // repeats, *self.split[self.rows + 1 :])
        batch, columns = (tuple(axis + (axis > self.rows) for axis in axes) for axes in (self.batch, self.columns))
        return type(self)(self.shape, split, batch, self.rows + 1, columns, tuple(blocks), (self.rows,))

    def tiled(self, rows: int = 1, columns: int = 1) -> Self:
        """The same layout with each matrix cut into a grid of equal blocks: heads, or blocks of a large matrix.

        The blocks form one batch, so they need no more bookkeeping than one matrix.

        Args:
            rows: The number of blocks of the rows. Lengths of present row blocks must be multiples of the new length.
            columns: The number of blocks of the first column axis.

        Raises:
            ValueError: If an axis or a row block cannot be cut this way.
        """
        m = self.split[self.rows]
        if self.outer:
            raise ValueError(f"rows that repeat blocks cannot be tiled (shape {self.shape}, read as {self.split}).")
        if rows != 1 and (rows < 1 or m % rows or any(cut % (m // rows) for cut in self.cuts)):
            raise ValueError(f"row blocks of {self.cuts} cannot be cut into {rows} equal blocks (shape {self.shape}).")
        if columns != 1 and (columns < 1 or not self.columns or self.split[self.columns[0]] % columns):
            raise ValueError(f"the columns of shape {self.shape} cannot be cut into {columns} equal blocks.")
        split: list[int] = []
        moved: dict[int, int] = {}  # {axis of self.split: axis of the new split}
        batch: list[int] = []
        for axis, size in enumerate(self.split):
            parts = {self.rows: rows, **dict.fromkeys(self.columns[:1], columns)}.get(axis, 1)
            if parts > 1:
                batch.append(len(split))
                split.append(parts)
            moved[axis] = len(split)
            split.append(size // parts)
        every = (*(moved[axis] for axis in self.batch), *batch)
        cuts = self.cuts if rows == 1 else (m // rows,)
        inputs = tuple(moved[axis] for axis in self.columns)
        return type(self)(self.shape, tuple(split), every, moved[self.rows], inputs, cuts)


def _refines(shape: tuple[int, ...], split: tuple[int, ...]) -> bool:
    """Whether `split` is `shape` with some axes replaced by their factors."""
    factors = list(split)
    for size in shape:
        product = factors.pop(0) if factors else -1
        while product != size and factors:
            product *= factors.pop(0)
        if product != size:
            return False
    return all(factor == 1 for factor in factors)


def linear(shape: Sequence[int]) -> Layout:
    """``(out, in, ...)``: one matrix. All axes after the first are input (linear layers, convolutions)."""
    return _linear(tuple(shape))


@lru_cache(maxsize=4096)
def _linear(shape: tuple[int, ...]) -> Layout:
    """One layout for all shards of a shape, which ask for it in each step."""
    return Layout(shape, shape, (), 0, tuple(range(1, len(shape))))


def transposed(shape: Sequence[int]) -> Layout:
    """``(in, out)``: one matrix stored transposed, as in the Conv1D of transformers."""
    return Layout(tuple(shape), tuple(shape), (), len(shape) - 1, tuple(range(len(shape) - 1)))


def stack(shape: Sequence[int]) -> Layout:
    """``(number, out, in, ...)``: a stack of matrices, such as the experts of a mixture."""
    return Layout(tuple(shape), tuple(shape), (0,), 1, tuple(range(2, len(shape))))


def transposed_stack(shape: Sequence[int]) -> Layout:
    """``(number, in, out)``: a stack of matrices stored transposed."""
    return Layout(tuple(shape), tuple(shape), (0,), len(shape) - 1, tuple(range(1, len(shape) - 1)))


def convolution(shape: Sequence[int], groups: int = 1) -> Layout:
    """``(out, in / groups, kernel...)``: one matrix per group, the kernel counted among the inputs."""
    split = (groups, shape[0] // groups, *shape[1:])
    return Layout(tuple(shape), split, (0,), 1, tuple(range(2, len(split))))


def transposed_convolution(shape: Sequence[int], groups: int = 1) -> Layout:
    """``(in, out / groups, kernel...)``: one matrix per group, the kernel counted among the inputs."""
    split = (groups, shape[0] // groups, *shape[1:])
    return Layout(tuple(shape), split, (0,), 2, (1, *range(3, len(split))))
