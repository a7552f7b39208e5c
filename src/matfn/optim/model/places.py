"""Where the matrices of a model stand between data and outputs: heads, input layers, hidden ones, by the graph."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import Tensor

from .fused import Cut, blocks, parts
from .graph import Graph, Node, Use, shape_of

__all__ = ["Fact", "facts"]


# Operations that often lie between the last product and an output. Activations of hidden layers are not among them.
_AT_OUTPUTS = (
    r"(View|UnsafeView|ReshapeAlias|Transpose|Permute|Select|Slice|Squeeze\w*|Unsqueeze|Clone|ToCopy"
    r"|Clamp\w*|Exp|Softplus|Sigmoid|(Log)?Softmax|Mul|Add|Div)Backward\d"
)


@dataclass(frozen=True)
class Fact:
    """What the graph says of one parameter.

    Attributes:
        kind: "product", "lookup", "both" (an embedding that is the head too), "elementwise", or "token" (it is data
            of a product, as learned queries are).
        place: "head" (its output reaches the outputs through no other matrix), "hidden" (through others only), or ""
            where the graph leaves it open: its output is added to a stream that other matrices read too.
        shallow: Whether its input came through no other matrix.
        rows: The parameter's axes that are output, empty if not known.
        columns: The parameter's axes that are summed over.
        cut: The blocks into which its output is cut, or None.
        note: Why a person should look at the place; empty if the graph is clear.
    """

    kind: str
    place: str = ""
    shallow: bool = False
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    cut: Cut | None = None
    note: str = ""


def facts(graph: Graph) -> dict[Tensor, Fact]:
    """The facts about each parameter that the graph reaches.

    A head is a product from which every way to the outputs meets no other matrix. The last product of a residual stream
    is of this kind too, but it is added to the outputs of earlier products, which later matrices read as well. So an
    output that such a product reaches directly shows no heads.
    """
    found = {param: Fact("elementwise") for param in graph.elementwise}
    found |= {param: Fact("token") for param in graph.tokens}
    found |= {param: Fact("product", rows=(out,), columns=(n,)) for param, (out, n) in graph.factors.items()}
    through = _through(graph)
    ends = list(_ends(graph))
    last = [_last(graph, end) for end in ends]
    direct = set[Node]().union(*last)
    heads = set[Node]().union(*(nodes for nodes in last if not nodes & through))
    alone = {node for end in ends if (node := _given(graph, end)) is not None}
    by_param: dict[Tensor, list[Use]] = defaultdict(list)
    for use in (use for uses in graph.uses.values() for use in uses):
        by_param[use.param].append(use)
    for param, uses in by_param.items():
        products = [use for use in uses if use.kind == "product"]
        if not products:
            found[param] = Fact("lookup")
            continue
        nodes = {use.node for use in products}
        place = "head" if nodes <= heads else "" if nodes & direct else "hidden"
        first = products[0]
        found[param] = Fact(
            "both" if len(products) < len(uses) else "product",
            place,
            all(use.shallow for use in products),
            first.rows,
            first.columns,
            parts(products) or blocks(graph, first),
            _note(products, place, alone),
        )
    return found


def _note(products: list[Use], place: str, alone: set[Node]) -> str:
    """Why the place of a weight is not clear: other matrices read its output too, or it is used in both directions."""
    orders = {(use.rows, use.columns) for use in products if use.rows and use.columns}
    if any((columns, rows) in orders for rows, columns in orders):
        return "the example uses it in both directions, as a derivative does; an example without one shows its place"
    if not place and any(use.node in alone for use in products):
        return "perhaps a head: its output is an output of the model, but other matrices read it too"
    return ""


def _given(graph: Graph, node: Node) -> Node | None:
    """The product before an output of the model, with only operations `_AT_OUTPUTS` between; None if there is none."""
    while node not in graph.uses:
        before = list(graph.data_of(node))
        if len(before) != 1 or not re.fullmatch(_AT_OUTPUTS, node.name()):
            return None
        node = before[0]
    return node


def _ends(graph: Graph) -> Iterator[Node]:
    """The operations that give the outputs. For a scalar, such as a loss, those from which it is computed."""
    pending, seen = [node for node, _ in graph.roots], set[Node]()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        scalar = prod(shape_of(node)) == 1 and node not in graph.uses
        if scalar:
            pending += list(graph.data_of(node))
        else:
            yield node


def _last(graph: Graph, root: Node) -> set[Node]:
    """The uses and walls that are met first on the ways back from an output."""
    found, seen, pending = set[Node](), set[Node](), [root]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in graph.uses or node in graph.walls:
            found.add(node)
        else:
            pending += list(graph.data_of(node))
    return found


def _through(graph: Graph) -> set[Node]:
    """The uses and walls whose output is read by another matrix: all on the ways back from the operands of uses."""
    seen = set[Node]()
    pending = [child for node in (*graph.uses, *graph.walls) for child in graph.data_of(node)]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += list(graph.data_of(node))
    return seen & (graph.uses.keys() | graph.walls)
