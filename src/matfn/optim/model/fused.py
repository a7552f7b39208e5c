"""Fused projections: the blocks into which the output of a projection is cut right behind it, read from the graph.

The rows of the weight are followed through views: an axis of the output counts rows with a stride. Splits, slices,
selections and unbinds of such an axis are cuts, if together they take every row once. Parts that are joined again (a
rotary embedding of a part of each head) are no cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy
from numpy.typing import NDArray
from torch import Tensor

from .graph import Graph, Node, Use, dim, regroup, shape_of

__all__ = ["Cut", "blocks", "parts"]

_SPLITS = ("SplitBackward0", "SplitWithSizesBackward0", "UnsafeSplitBackward0", "UnbindBackward0")
_TAKES = ("SelectBackward0", "SliceBackward0", "IndexBackward0", "IndexSelectBackward0", "GluBackward0")
_VIEWS = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
_JOINS = ("CatBackward0", "StackBackward0", "torch::autograd::CopySlices")
_MIXES = ("Mm", "Bmm", "Addmm", "Baddbmm", "Convolution", "ScaledDotProduct", "Linear", "GroupedMm")
_FAR = 60  # operations that are followed behind a block before it is taken as not joined again


@dataclass(frozen=True)
class Cut:
    """The blocks of a projection: their lengths in one repeat, and the number of repeats. See `Layout.cut`."""

    sizes: tuple[int, ...]
    repeats: int = 1


@dataclass(frozen=True)
class _Rows:
    """Rows of the weight along an activation: for each axis its size and its stride in rows (None: no rows).

    A view may merge an axis of rows with others, as heads with the batch. Such an axis has the stride 0, and its rows
    are kept as `merged`: they may be read, but the axis cannot be cut.
    """

    sizes: tuple[int, ...]
    strides: tuple[int | None, ...]
    offset: int = 0
    merged: tuple[tuple[int, int], ...] = ()  # (size, stride)

    def indices(self) -> NDArray[numpy.int64]:
        """The row numbers, sorted."""
        found = numpy.array([self.offset])
        axes = [(size, stride) for size, stride in zip(self.sizes, self.strides, strict=True) if stride]
        for size, stride in (*axes, *self.merged):
            found = (found[:, None] + stride * numpy.arange(size)).reshape(-1)
        return numpy.sort(found)

    def take(self, axis: int, start: int, length: int, step: int = 1) -> "_Rows":
        """A part of one axis."""
        stride = self.strides[axis]
        sizes = (*self.sizes[:axis], length, *self.sizes[axis + 1 :])
        if stride is None:
            return replace(self, sizes=sizes)
        strides = (*self.strides[:axis], stride * step, *self.strides[axis + 1 :])
        return replace(self, sizes=sizes, strides=strides, offset=self.offset + start * stride)

    def without(self, axis: int) -> "_Rows":
        """The rows without an axis of length 1."""
        return self.moved([i for i in range(len(self.sizes)) if i != axis])

    def moved(self, order: list[int]) -> "_Rows":
        """The rows with only the axes of `order`, in this order."""
        sizes, strides = tuple(self.sizes[i] for i in order), tuple(self.strides[i] for i in order)
        return _Rows(sizes, strides, self.offset, self.merged)

    def viewed(self, after: tuple[int, ...]) -> "_Rows | None":
        """The rows after a view, or None if the sizes do not fit."""
        groups = regroup(self.sizes, after)
        strides: list[int | None] = [None] * len(after)
        merged = list(self.merged)
        for olds, news in groups or ():
            rows = [
                (self.sizes[k], stride) for k in olds if (stride := self.strides[k]) is not None and self.sizes[k] > 1
            ]
            if not rows:
                continue
            even = all(s == t * n for (_, s), (n, t) in pairwise(rows))
            if len(rows) < sum(self.sizes[k] > 1 for k in olds) or not even or not all(s for _, s in rows):
                merged += [(size, stride) for size, stride in rows if stride]
                for k in news:
                    strides[k] = 0
                continue
            stride = rows[-1][1]
            for k in reversed(news):
                strides[k] = stride
                stride *= after[k]
        return None if groups is None else _Rows(after, tuple(strides), self.offset, tuple(merged))


@dataclass(frozen=True)
class _Block:
    """Some rows, and the operation and output in which they are."""

    rows: _Rows
    node: Node
    index: int


def blocks(graph: Graph, use: Use) -> Cut | None:
    """The blocks of the rows of a use, or None if its output is taken as one."""
    if use.axis is None:
        return None
    sizes = shape_of(use.node)
    strides: list[int | None] = [None] * len(sizes)
    strides[use.axis] = 1
    found = _behind(graph, use.node, 0, _Rows(sizes, tuple(strides)), _FAR)
    if found is None or _joined(graph, found):
        return None
    parted = [_halves(graph, block) for block in found]
    if not all(len(some) == 2 for some in parted):  # if each block is halved, the halves are heads
        halved = _pattern([part.rows.indices() for some in parted for part in some], sizes[use.axis])
        if halved is not None:
            return halved
    return _pattern([block.rows.indices() for block in found], sizes[use.axis])


def parts(uses: list[Use]) -> Cut | None:
    """The blocks of a weight of which each use takes a slice of the rows, as in a cross attention's k and v."""
    taken = sorted({use.part for use in uses if use.part is not None})
    if len(taken) < 2 or any(use.part is None or use.rows != (use.part[0],) for use in uses):
        return None
    rows = [numpy.arange(start, start + length) for _, start, length in taken]
    return _pattern(rows, uses[0].param.shape[taken[0][0]])


def _halves(graph: Graph, block: _Block) -> list[_Block]:
    """The two parts into which a block is cut once more, as gate and up behind q, k and v; else the block itself.

    More parts than two are heads, which stay together.
    """
    some = None if block.node.name() == "GluBackward0" else _behind(graph, block.node, block.index, block.rows, _FAR)
    return [block] if some is None or len(some) != 2 or _joined(graph, some) else some


def _behind(graph: Graph, node: Node, index: int, rows: _Rows, far: int) -> list[_Block] | None:
    """The blocks into which the operations behind an output cut its rows; None if one of them takes all rows."""
    found: list[_Block] = []
    consumers = graph.consumers.get((node, index), [])
    for consumer in dict.fromkeys(consumers):
        some = _through(graph, consumer, node, index, rows, far) if far else None
        if some is None:
            return None
        found += some
    return found or None


def _through(graph: Graph, node: Node, source: Node, index: int, rows: _Rows, far: int) -> list[_Block] | None:
    """The blocks behind one operation on `rows`."""
    name, after = node.name(), shape_of(node)
    if node in graph.uses or sum(child is source and i == index for child, i in node.next_functions) != 1:
        return None
    if name in _SPLITS:
        return _split(graph, node, rows, far)
    if name in _TAKES:
        return _taken(graph, node, rows, far)
    moved: _Rows | None = None
    if name in _VIEWS or name == "UnsqueezeBackward0" or name.startswith("SqueezeBackward"):
        moved = rows.viewed(after)
    elif name in ("TBackward0", "NumpyTBackward0"):
        moved = rows.moved(list(range(len(after)))[::-1])
    elif name == "TransposeBackward0":
        order = list(range(len(after)))
        a, b = dim(node._saved_dim0), dim(node._saved_dim1)
        order[a], order[b] = order[b], order[a]
        moved = rows.moved(order)
    elif name == "PermuteBackward0":
        moved = rows.moved([dim(d) % len(after) for d in node._saved_dims])
    elif after == rows.sizes and (name == "AddBackward0" or len(list(graph.data_of(node))) == 1):
        moved = rows
    return None if moved is None else _behind(graph, node, 0, moved, far - 1)


def _split(graph: Graph, node: Node, rows: _Rows, far: int) -> list[_Block] | None:
    """A split into several outputs: blocks if it cuts an axis of rows, else each output is followed."""
    axis = dim(node._saved_dim) % len(rows.sizes)
    single, start, found = node.name() == "UnbindBackward0", 0, []
    for index in range(len(node._input_metadata)):
        length = 1 if single else shape_of(node, index)[axis]
        taken = rows.take(axis, start, length)
        taken = taken.without(axis) if single else taken
        start += length
        if rows.strides[axis] == 0:
            return None
        if rows.strides[axis] is not None:
            found.append(_Block(taken, node, index))
        elif graph.consumers.get((node, index)):
            some = _behind(graph, node, index, taken, far - 1)
            if some is None:
                return None
            found += some
    return found


def _taken(graph: Graph, node: Node, rows: _Rows, far: int) -> list[_Block] | None:
    """A part of one axis: a block if the axis counts rows and is not taken whole, else it is followed."""
    name, after = node.name(), shape_of(node)
    if name == "IndexBackward0":
        return _indexed(node, rows, list(node._saved_indices))
    if name == "IndexSelectBackward0":
        axis = dim(node._saved_dim) % len(rows.sizes)
        return _indexed(node, rows, [None] * axis + [node._saved_index])
    axis = dim(node._saved_dim) % len(rows.sizes)
    if rows.strides[axis] == 0:
        return None
    if name == "GluBackward0":
        half = rows.sizes[axis] // 2
        both = [rows.take(axis, start, half) for start in (0, half)]
        return [_Block(part, node, 0) for part in both] if rows.strides[axis] is not None else None
    if name == "SelectBackward0":
        taken = rows.take(axis, dim(node._saved_index) % rows.sizes[axis], 1).without(axis)
    else:
        start, step = range(rows.sizes[axis])[slice(dim(node._saved_start), None)].start, int(node._saved_step)
        taken = rows.take(axis, start, after[axis], step)
    whole = rows.strides[axis] is None or taken.sizes == rows.sizes
    return _behind(graph, node, 0, taken, far - 1) if whole else [_Block(taken, node, 0)]


def _indexed(node: Node, rows: _Rows, indices: Sequence[Tensor | None]) -> list[_Block] | None:
    """A part given by a list of positions, as in ``x[..., [-1], :]``: a block if the positions are evenly spaced."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].ndim != 1 or given[0][1].device.type == "meta":
        return None
    axis, index = given[0]
    places = [int(i) % rows.sizes[axis] for i in index]
    steps = {b - a for a, b in pairwise(places)} or {1}
    if not rows.strides[axis] or len(steps) != 1 or min(steps) < 1:
        return None
    return [_Block(rows.take(axis, places[0], len(places), steps.pop()), node, 0)]


def _joined(graph: Graph, found: list[_Block]) -> bool:
    """Whether all blocks come together again before any product, as separate operands of one join."""
    reached = [_reached(graph, block) for block in found if block.node.name() != "GluBackward0"]
    if len(reached) < 2:
        return False
    every, common = set[tuple[Node, int]]().union(*reached), reached[0].intersection(*reached)
    joins = {node for node, _ in common if node.name() in _JOINS}
    return any(len({child for child in node.next_functions if child in every}) >= _sides(node, found) for node in joins)


def _sides(node: Node, found: list[_Block]) -> int:
    """How many operands of a join must come from the blocks: writing into a part of a tensor has two operands."""
    return 2 if node.name() == _JOINS[-1] else len(found)


def _reached(graph: Graph, block: _Block) -> set[tuple[Node, int]]:
    """The outputs of operations that depend on a block through no product."""
    seen = {(block.node, block.index)}
    pending = list(seen)
    while pending and len(seen) < 50 * _FAR:
        for node in graph.consumers.get(pending.pop(), ()):
            if node in graph.uses or any(node.name().startswith(mix) for mix in _MIXES):
                continue
            new = {(node, index) for index in range(len(node._input_metadata))} - seen
            seen |= new
            pending += new
    return seen


def _pattern(rows: list[NDArray[numpy.int64]], m: int) -> Cut | None:
    """The blocks as lengths that repeat, or None if they do not take each row once or follow no such pattern."""
    distinct = {(some[0], some[-1], len(some)): some for some in rows if len(some)}
    owner = numpy.full(m, -1)
    if sum(len(some) for some in distinct.values()) != m or len(distinct) < 2:
        return None
    for number, some in enumerate(distinct.values()):
        owner[some] = number
    if (owner < 0).any():
        return None
    starts = numpy.flatnonzero(numpy.diff(owner, prepend=-1))
    lengths = numpy.diff(starts, append=m)
    count, repeats = len(distinct), len(starts) // len(distinct)
    if len(starts) % count or len(set(owner[starts[:count]])) != count:
        return None
    if m % repeats or (owner.reshape(repeats, -1) != owner[: m // repeats]).any():
        return None
    return Cut(tuple(int(length) for length in lengths[:count]), repeats)
