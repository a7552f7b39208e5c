"""The autograd graph of one example: where each matrix multiplies, and what lies between it and the outputs.

A node of the graph is one operation. A weight reaches its operation through views and casts; `Weight` follows its axes
there. The operation is then a `Use`: a product (linear layer, convolution), or a lookup of rows (embedding). An
elementwise operation (gain, position table) does not count as a use.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

__all__ = ["Graph", "Use", "dim", "regroup", "shape_of", "trace"]

Node = Any  # torch.autograd.graph.Node, whose saved values are known to no type stub
Axes = tuple[frozenset[int], ...]

# {operation: (position of x, position of the weight)} among the operands. "x @ w" products may hold the weight first.
_PRODUCTS = {
    "AddmmBackward0": (1, 2),
    "MmBackward0": (0, 1),
    "BmmBackward0": (0, 1),
    "BaddbmmBackward0": (1, 2),
    "AddbmmBackward0": (1, 2),
    "GroupedMmBackward0": (0, 1),
    "MvBackward0": (1, 0),
    "AddmvBackward0": (2, 1),
    "DotBackward0": (0, 1),
}
# Operations whose weight is stored (out, in, ...) as in torch's modules.
_LAYERS = {
    "CdistBackward0": (0, 1),
    "EuclideanDistBackward0": (0, 1),
    "LinearBackward0": (0, 1),
    "MkldnnLinearBackward0": (0, 1),
    "TrilinearBackward0": (0, 1),
}
_LOOKUPS = ("EmbeddingBackward0", "EmbeddingBagBackward0", "IndexSelectBackward0", "IndexBackward0", "GatherBackward0")
_VIEWS = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
_SQUARE = (frozenset([0]), frozenset([1]))  # the axes of a matrix as it is stored
_CASTS = ("ToCopyBackward0", "CloneBackward0", "ContiguousBackward0", "AliasBackward0", "ExpandBackward0")


@dataclass(frozen=True)
class Weight:
    """A value that depends on parameters and on no data: a parameter, behind views, casts and elementwise operations.

    Attributes:
        param: The parameter, the largest one if there are several.
        axes: For each axis of the value the axes of the parameter that it covers; None if they are not known.
        bare: Whether only views and casts lie between.
        part: (axis, start, length) of the parameter that a slice took, or None for the whole.
    """

    param: Tensor
    axes: Axes | None
    bare: bool
    part: tuple[int, int, int] | None = None

    @property
    def long(self) -> bool:
        """Whether the parameter is more than a vector."""
        return sum(size > 1 for size in self.param.shape) > 1


@dataclass(frozen=True)
class Data:
    """A value that depends on data. `deep` says whether it came through a matrix, a table or a position parameter."""

    deep: bool


@dataclass(frozen=True)
class Use:
    """One operation in which a parameter serves as a matrix.

    Attributes:
        node: The operation.
        param: The parameter.
        kind: "product" or "lookup".
        rows: The parameter's axes that become output, empty if not known.
        columns: The parameter's axes that are summed over.
        axis: The axis of the output, from the end, that numbers the rows; None if not known.
        shallow: Whether the data came through no other matrix.
        part: The part of the parameter that is used; see `Weight`.
    """

    node: Node
    param: Tensor
    kind: str
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    axis: int | None = None
    shallow: bool = False
    part: tuple[int, int, int] | None = None


@dataclass
class Graph:
    """The graph of an example: its operations, and the uses of the parameters."""

    roots: list[tuple[Node, int]]
    order: list[Node]  # every operand before its operation
    values: dict[tuple[Node, int], Weight | Data] = field(default_factory=dict)
    uses: dict[Node, list[Use]] = field(default_factory=dict)
    walls: set[Node] = field(default_factory=set)  # operations that hide matrices: checkpoints that rerun a function
    elementwise: set[Tensor] = field(default_factory=set)
    tokens: set[Tensor] = field(default_factory=set)  # parameters that are data of a product, as learned queries
    factors: dict[Tensor, tuple[int, int]] = field(default_factory=dict)  # {B or A of a weight B A: (out, in) axes}
    consumers: dict[tuple[Node, int], list[Node]] = field(default_factory=lambda: defaultdict(list))

    def data_of(self, node: Node) -> Iterator[Node]:
        """The operands of an operation that depend on data."""
        for child, index in node.next_functions:
            if child is not None and isinstance(self.values.get((child, index)), Data):
                yield child


def shape_of(node: Node, index: int = 0) -> tuple[int, ...]:
    """The shape of an output of an operation."""
    return tuple(int(size) for size in node._input_metadata[index].shape)


def dim(value: int) -> int:
    """A saved axis number: the graph keeps -1 as an unsigned number."""
    return value - 2**64 if value >= 2**63 else value


def trace(outputs: Iterable[Tensor], params: Collection[Tensor], weights: Mapping[Node, Tensor]) -> Graph:
    """Read the graph behind `outputs`.

    Args:
        outputs: Tensors with a graph.
        params: The parameters of the model; other tensors that require gradients are data.
        weights: {operation: parameter} for weights that are computed from parameters (weight_norm and the like).
    """
    roots = list(dict.fromkeys((x.grad_fn, x.output_nr) for x in outputs))
    graph = Graph(roots, _sorted([node for node, _ in roots], weights))
    own = set(params)
    for node in graph.order:
        param = weights.get(node, getattr(node, "variable", None))
        if param is None:
            _evaluate(graph, node)
        elif param in own:
            graph.values[node, 0] = Weight(param, tuple(frozenset([axis]) for axis in range(param.ndim)), bare=True)
        else:
            graph.values[node, 0] = Data(deep=False)
    return graph


def _sorted(roots: Iterable[Node], weights: Mapping[Node, Tensor]) -> list[Node]:
    """All operations below the roots, operands first. Nothing below a computed weight is read."""
    order: list[Node] = []
    seen: set[Node] = set()
    pending = [(node, False) for node in roots]
    while pending:
        node, done = pending.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            if node not in weights:
                pending += [(child, False) for child, _ in node.next_functions if child is not None]
    return order


def _evaluate(graph: Graph, node: Node) -> None:
    """Find the value of an operation from those of its operands, and its uses."""
    operands = [graph.values.get((child, index)) if child is not None else None for child, index in node.next_functions]
    for child, index in node.next_functions:
        if child is not None:
            graph.consumers[child, index].append(node)
    uses = list(_uses(node, operands))
    value: Weight | Data
    if uses:
        graph.uses[node] = uses
        chosen = {use.param for use in uses}
        graph.tokens |= {x.param for x in operands if isinstance(x, Weight) and x.long} - chosen
        value = Data(deep=True)
    elif any(isinstance(x, Data) for x in operands):
        graph.elementwise |= {x.param for x in operands if isinstance(x, Weight)}
        deep = any(x.deep if isinstance(x, Data) else x.long for x in operands if x is not None)
        value = Data(deep)
        if "CheckpointFunction" in node.name():
            graph.walls.add(node)
    else:
        if node.name() in _PRODUCTS:
            plain = [x for x in operands if isinstance(x, Weight) and x.bare and x.axes == _SQUARE]
            graph.factors |= {x.param: (0, 1) for x in plain}
        value = max((x for x in operands if isinstance(x, Weight)), key=lambda x: x.param.numel(), default=Data(False))
    for index in range(len(node._input_metadata)):
        graph.values[node, index] = _viewed(node, index, value) if isinstance(value, Weight) else value


def _uses(node: Node, operands: list[Weight | Data | None]) -> Iterator[Use]:
    """The uses of parameters as matrices in one operation."""
    name = node.name()
    if name in _LOOKUPS:
        first = operands[0]
        if isinstance(first, Weight) and first.bare and first.param.ndim == 2 and first.axes is not None:
            yield Use(node, first.param, "lookup", shallow=True)
    elif name in _PRODUCTS:
        yield from _product(node, operands, *_PRODUCTS[name])
    elif name in _LAYERS:
        yield from _layer(node, operands, *_LAYERS[name], out=0, axis=-1)
    elif "Convolution" in name:
        transposed = bool(getattr(node, "_saved_transposed", False))
        yield from _layer(node, operands, 0, 1, out=1 if transposed else 0, axis=1 - len(shape_of(node)))
    elif "Rnn" in name:
        shallow = _shallow(operands[0])
        for x in operands[1:]:
            if isinstance(x, Weight) and x.long:
                yield Use(node, x.param, "product", (0,), (1,), shallow=shallow)
    elif isinstance(node, BackwardCFunction) and len(operands) > 1:  # a function of the user: which axes is not known
        for x in operands:
            if isinstance(x, Weight) and x.long and x.bare and shape_of(node) != tuple(x.param.shape):
                shallow = all(_shallow(y) for y in operands if y is not x)
                yield Use(node, x.param, "product", *_by_shapes(node, x), shallow=shallow)


def _by_shapes(node: Node, x: Weight) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(rows, columns) of a matrix in a function of the user, if the lengths of its output and data tell them."""
    read = {shape_of(child, i)[-1:] for child, i in node.next_functions if child is not None}
    out, shape = shape_of(node)[-1:], tuple(x.param.shape)
    if len(shape) != 2 or shape[0] == shape[1] or not x.axes:
        return (), ()
    found = [(row, 1 - row) for row in (0, 1) if out == (shape[row],) and (shape[1 - row],) in read]
    return ((found[0][0],), (found[0][1],)) if len(found) == 1 else ((), ())


def _layer(
    node: Node, operands: list[Weight | Data | None], data: int, weight: int, out: int, axis: int
) -> Iterator[Use]:
    """The use in a layer whose weight has its output axis at `out`. A filter for each channel is no matrix."""
    x = operands[weight]
    if not isinstance(x, Weight):
        return
    if int(getattr(node, "_saved_groups", 1)) > 1 and x.param.ndim > 2 and 1 in x.param.shape[1:2]:
        return
    rows = tuple(sorted(x.axes[out])) if x.axes is not None else ()
    columns = tuple(sorted({a for i, axes in enumerate(x.axes or ()) for a in axes if i != out}))
    yield Use(node, x.param, "product", rows, columns, axis, _shallow(operands[data]), x.part)


def _product(node: Node, operands: list[Weight | Data | None], data: int, weight: int) -> Iterator[Use]:
    """The use in a product x @ w or w @ x."""
    right = operands[weight] if data < weight else operands[data]
    left = operands[data] if data < weight else operands[weight]
    chosen = _weight_of(left, right)
    if chosen is None:
        return
    other = left if chosen is right else right
    ndim = len(chosen.axes) if chosen.axes is not None else 0
    if chosen.axes is None or ndim < 2:
        yield Use(node, chosen.param, "product", shallow=_shallow(other), part=chosen.part)
        return
    vector = node.name() in ("MvBackward0", "AddmvBackward0")
    row, column, axis = (-1, -2, -1) if chosen is right else (-2, -1, -1 if vector else -2)
    rows, columns = tuple(sorted(chosen.axes[row])), tuple(sorted(chosen.axes[column]))
    yield Use(node, chosen.param, "product", rows, columns, axis, _shallow(other), chosen.part)


def _weight_of(left: Weight | Data | None, right: Weight | Data | None) -> Weight | None:
    """The operand that is the matrix. If both are parameters, it is the right one if that is transposed as in a layer.

    Otherwise it is the one that is `bare`. If both or neither are, the result is None: the product of B and A of a
    low-rank weight B A, for example, is a weight itself.
    """
    if not isinstance(left, Weight) or not isinstance(right, Weight):
        return left if isinstance(left, Weight) else right if isinstance(right, Weight) else None
    if right.bare and right.axes is not None and right.axes[-1:] == (frozenset([0]),):
        return right
    return right if right.bare and not left.bare else left if left.bare and not right.bare else None


def _shallow(x: Weight | Data | None) -> bool:
    return not (x.deep if isinstance(x, Data) else x is not None and x.long)


def _viewed(node: Node, index: int, x: Weight) -> Weight:
    """The weight after an operation on it alone: views move its axes, other operations keep them or lose them."""
    name, after = node.name(), shape_of(node, index)
    before = next(
        (shape_of(child, i) for child, i in node.next_functions if child is not None and shape_of(child, i)), ()
    )
    if x.axes is None or len(x.axes) != len(before):
        return replace(x, axes=None, bare=False)
    axes = list(x.axes)
    if name in _VIEWS:
        return replace(x, axes=_regrouped(x.axes, before, after))
    if name in ("TBackward0", "NumpyTBackward0"):
        return replace(x, axes=x.axes[::-1])
    if name == "TransposeBackward0":
        a, b = dim(node._saved_dim0), dim(node._saved_dim1)
        axes[a], axes[b] = axes[b], axes[a]
        return replace(x, axes=tuple(axes))
    if name == "PermuteBackward0":
        return replace(x, axes=tuple(axes[dim(d)] for d in node._saved_dims))
    if name == "UnsqueezeBackward0":
        axes.insert(dim(node._saved_dim) % len(after), frozenset())
        return replace(x, axes=tuple(axes))
    if name.startswith("SqueezeBackward"):
        return replace(x, axes=_regrouped(x.axes, before, after))
    if name in ("SelectBackward0", "UnbindBackward0"):
        del axes[dim(node._saved_dim)]
        return replace(x, axes=tuple(axes))
    if name in ("SliceBackward0", "SplitBackward0", "SplitWithSizesBackward0", "UnsafeSplitBackward0"):
        return replace(x, part=_part(node, index, x, before, after))
    if name == "IndexBackward0" and len(after) >= len(before) > 2 and after[1 - len(before) :] == before[1:]:
        return replace(x, axes=(axes[0],) * (len(after) - len(before) + 1) + x.axes[1:])
    if name in _CASTS and len(after) == len(before):
        return x
    return replace(x, axes=x.axes if after == before else None, bare=False)


def _part(
    node: Node, index: int, x: Weight, before: tuple[int, ...], after: tuple[int, ...]
) -> tuple[int, int, int] | None:
    """(axis, start, length) of the parameter that a slice or split took."""
    axis = dim(node._saved_dim) % len(before)
    if after[axis] == before[axis] or x.axes is None or len(x.axes[axis]) != 1:
        return x.part
    (source,) = x.axes[axis]
    if x.param.shape[source] != before[axis] or int(getattr(node, "_saved_step", 1)) != 1:
        return x.part
    if node.name() == "SliceBackward0":
        start = range(before[axis])[slice(dim(node._saved_start), None)].start
    elif node.name() == "SplitWithSizesBackward0":
        start = sum(int(size) for size in node._saved_split_sizes[:index])
    else:
        start = index * int(node._saved_split_size)
    return (source, start, after[axis])


def _regrouped(axes: Axes, before: tuple[int, ...], after: tuple[int, ...]) -> Axes | None:
    """The axes after a view."""
    found: list[frozenset[int]] = [frozenset()] * len(after)
    for olds, news in regroup(before, after) or [(list(range(len(before))), list(range(len(after))))]:
        covered = frozenset[int]().union(*(axes[old] for old in olds if before[old] > 1 or len(olds) == 1))
        for new in news:
            found[new] = covered if after[new] > 1 or len(news) == 1 else frozenset()
    return tuple(found)


def regroup(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]] | None:
    """The shortest groups of neighbouring axes that a view maps onto each other, or None if there are none."""
    if prod(before) != prod(after) or not prod(before):
        return None
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        olds, news = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        i, j = i + len(olds), j + len(news)
        while (old := prod(before[k] for k in olds)) != (new := prod(after[k] for k in news)):
            if old < new:
                olds.append(i)
                i += 1
            else:
                news.append(j)
                j += 1
        groups.append((olds, news))
    return groups
