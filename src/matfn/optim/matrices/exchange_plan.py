"""The plan of the exchange: which process computes which matrix, and what the others send. No process is needed.

A mesh of processes is taken as one group of N ranks, in the order of its coordinates. Each rank holds a box of a
parameter, one range for each axis. A matrix parameter is treated in one of three ways:

    "local"   every rank holds whole matrices (expert parallel, one process) and computes them: nothing is sent
    "owner"   the boxes go to one rank, the owner; it computes the directions and sends each rank its box of them.
              If the parameter is replicated, the owner has it already, and only directions are sent
    "gram"    the long side is cut: each rank forms the n x n Gram matrix of its part, the owner adds them, computes Q
              and sends Q to every rank, which multiplies its part by Q

A stack of matrices may be cut along its first axis into parts with owners of their own; see `parts`.

Owners are balanced by work, the largest matrix first. A step goes in rounds of bounded size, so that one round travels
while another is computed. All of this depends on shapes and placements alone, so it is the same on every rank.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from .boxes import Box, Place, Split, boxes, entries, held, holders, own_range, sends, sources
from .triangle import packed_entries

__all__ = [
    "Box",
    "ExchangePlan",
    "Item",
    "Matrix",
    "Split",
    "Way",
    "aligned",
    "assign",
    "boxes",
    "entries",
    "exchange_plan",
    "held",
    "holders",
    "own_range",
    "owned_work",
    "senders",
    "sends",
    "sources",
    "total",
    "way_of",
]

Way = Literal["local", "owner", "gram"]

ALIGNED = 8  # every piece of a message begins at a multiple of this many bytes
HEADER = 16  # bytes beside a Gram matrix or Q: two float64 numbers

# Bytes of whole matrices that an owner receives in one round: one large matrix of a 7B model in bfloat16, many small
# ones. Two rounds are in flight. Not measured on a network; larger rounds need more memory, smaller ones more messages.
ROUND = 2**25


@dataclass(frozen=True)
class Matrix:
    """A matrix parameter, or a part of a stack of matrices, as far as the plan needs it.

    Attributes:
        name: The name of the parameter.
        shape: The whole shape of the parameter, or of the part.
        placements: For each mesh axis how it cuts the parameter; None if the axis replicates it.
        itemsize: Bytes of an entry in messages.
        work: Multiply-adds of the matrix rules.
        tensors: The tensors of the parameter's shape that go to the owner: 2 if the rules need the gradient, too.
        extra: Bytes of state that the owner sends to every rank.
        whole: Whether every rank computes its part by itself, because the part holds whole matrices, or because
            the state of the rules is too large to send (Shampoo and SOAP under DDP).
        gram: Whether the directions can be computed from Gram matrices, which travel as triangles.
        symmetric: Whether Q is symmetric, so that it travels as a triangle, too.
        width: Bytes of an entry of Gram matrices and of Q.
        stack: Whether axis 0 numbers matrices that may have different owners.
        start: The index of the part's first matrix on axis 0 of the parameter.
        length: The length of axis 0 of the parameter; None if this is no part.
    """

    name: str
    shape: tuple[int, ...]
    placements: tuple[Split | None, ...]
    itemsize: int = 4
    work: float = 0.0
    tensors: int = 1
    extra: int = 0
    whole: bool = False
    gram: bool = False
    symmetric: bool = False
    width: int = 4
    stack: bool = False
    start: int = 0
    length: int | None = None

    @property
    def place(self) -> Place:
        """Where the matrix is in its parameter."""
        first = self.shape[0] if self.length is None else self.length
        return (first, *self.shape[1:]), self.placements, self.start, self.start + self.shape[0]


@dataclass(frozen=True)
class Item:
    """What happens to one matrix: its index in the plan, its way and the rank of its owner (0 for "local")."""

    index: int
    way: Way
    owner: int


def senders(matrix: Matrix, mesh: tuple[int, ...], item: Item) -> tuple[int, ...]:
    """The owner of a matrix, and the ranks that send to it. Ranks that hold nothing send no more than Gram matrices."""
    found = sources(mesh, matrix.placements, item.owner)
    return found if item.way == "gram" else _with_entries(matrix.place, mesh, found, item.owner)


@lru_cache(maxsize=4096)
def _with_entries(place: Place, mesh: tuple[int, ...], ranks: tuple[int, ...], owner: int) -> tuple[int, ...]:
    return tuple(rank for rank in ranks if rank == owner or entries(held(place, mesh)[rank]))


def aligned(nbytes: int) -> int:
    """The bytes that a piece takes in a message."""
    return -(-nbytes // ALIGNED) * ALIGNED


def gram_there(matrix: Matrix) -> int:
    """Bytes of the Gram matrix that a rank sends to the owner of a "gram" matrix."""
    return HEADER + aligned(packed_entries(min(matrix.shape)) * matrix.width)


def gram_back(matrix: Matrix) -> int:
    """Bytes of the Q that the owner of a "gram" matrix sends to a rank."""
    n = min(matrix.shape)
    return HEADER + aligned((packed_entries(n) if matrix.symmetric else n * n) * matrix.width)


@lru_cache(maxsize=4096)
def _pieces(place: Place, mesh: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Bytes of the box of each rank in a message."""
    return tuple(aligned(entries(box) * itemsize) for box in held(place, mesh))


def there(matrix: Matrix, mesh: tuple[int, ...], item: Item, rank: int) -> int:
    """Bytes that a rank sends to the owner of a matrix."""
    if item.way == "local" or rank == item.owner or not sends(mesh, matrix.placements, rank, item.owner):
        return 0
    if item.way == "gram":
        return gram_there(matrix)
    return matrix.tensors * _pieces(matrix.place, mesh, matrix.itemsize)[rank]


def back(matrix: Matrix, mesh: tuple[int, ...], item: Item, rank: int) -> int:
    """Bytes that the owner of a matrix sends to a rank."""
    if item.way == "local" or rank == item.owner:
        return 0
    if item.way == "gram":
        return gram_back(matrix)
    return _pieces(matrix.place, mesh, matrix.itemsize)[rank] + aligned(matrix.extra)


def replies(matrix: Matrix, mesh: tuple[int, ...], item: Item) -> Sequence[int]:
    """Bytes that the owner of a matrix sends to each rank, except that it sends nothing to itself; see `back`."""
    if item.way != "owner":
        return [back(matrix, mesh, item, (item.owner + 1) % math.prod(mesh))] * math.prod(mesh)
    extra = aligned(matrix.extra)
    sizes = _pieces(matrix.place, mesh, matrix.itemsize)
    return [size + extra for size in sizes] if extra else sizes


def total(matrix: Matrix, mesh: tuple[int, ...], item: Item) -> tuple[int, int]:
    """Bytes of all pieces of a matrix: to the owner, and from the owner."""
    if item.way == "local":
        return 0, 0
    others = len(sources(mesh, matrix.placements, item.owner)) - 1
    if item.way == "gram":
        other = next(rank for rank in sources(mesh, matrix.placements, item.owner) if rank != item.owner)
        return others * there(matrix, mesh, item, other), (math.prod(mesh) - 1) * back(matrix, mesh, item, other)
    sizes = _pieces(matrix.place, mesh, matrix.itemsize)
    own, every, copies = sizes[item.owner], sum(sizes), math.prod(mesh) // (others + 1)
    return matrix.tensors * (every // copies - own), every - own + (math.prod(mesh) - 1) * aligned(matrix.extra)


def at_owner(matrix: Matrix, way: Way) -> int:
    """Bytes of the whole matrices at the owner: the inputs and the direction, or for "gram" M and Q."""
    whole = math.prod(matrix.shape) * (matrix.itemsize * matrix.tensors + 4)
    return 2 * min(matrix.shape) ** 2 * matrix.width if way == "gram" else whole


def way_of(matrix: Matrix, mesh: tuple[int, ...]) -> Way:
    """The way of a matrix: "local" if matrices are whole everywhere, else the one of the two that sends fewer bytes."""
    cut = {split.axis for split, size in zip(matrix.placements, mesh, strict=True) if split is not None and size > 1}
    if math.prod(mesh) == 1 or matrix.whole:
        return "local"
    if matrix.gram and len(matrix.shape) == 2 and cut == {int(matrix.shape[1] > matrix.shape[0])}:
        owner, gram = (sum(total(matrix, mesh, item)) for item in (Item(0, "owner", 0), Item(0, "gram", 0)))
        return "gram" if gram < owner else "owner"
    return "owner"


def assign(
    matrices: Sequence[Matrix],
    mesh: tuple[int, ...],
    known: Mapping[str, Item] | None = None,
    busy: Sequence[float] | None = None,
) -> tuple[Item, ...]:
    """The way and the owner of each matrix: the largest work first, each to the rank with the least work so far.

    A part of a stack gets an owner among the ranks that hold any of its matrices.

    Args:
        matrices: All matrices on the mesh, with or without a gradient, because state stays with the owner.
        mesh: The sizes of the mesh axes.
        known: {name: item} of matrices that have an owner already and keep it. Parts have no state, so none keep it.
        busy: Work that each rank has already, from matrices on other meshes of the same ranks.
    """
    known = known or {}
    ways: list[Way] = [way_of(matrix, mesh) for matrix in matrices]
    kept = {i: known[m.name].owner for i, m in enumerate(matrices) if m.length is None and m.name in known}
    owners = {i: 0 if way == "local" else kept[i] for i, way in enumerate(ways) if way == "local" or i in kept}
    loads, every = np.array(busy or [0.0] * math.prod(mesh)), list(range(math.prod(mesh)))
    for index, owner in owners.items():
        loads[owner] += matrices[index].work if ways[index] != "local" else 0.0
    for index in sorted(set(range(len(ways))) - set(owners), key=lambda i: (-matrices[i].work, i)):
        some = every if matrices[index].length is None else list(holders(matrices[index].place, mesh))
        owners[index] = some[int(loads[some].argmin())]
        loads[owners[index]] += matrices[index].work
    return tuple(Item(index, ways[index], owners[index]) for index in range(len(ways)))


def owned_work(matrices: Sequence[Matrix], items: Sequence[Item], ranks: int) -> list[float]:
    """Multiply-adds of the matrices that each rank owns."""
    found = [0.0] * ranks
    for matrix, item in zip(matrices, items, strict=True):
        found[item.owner] += matrix.work if item.way != "local" else 0.0
    return found


@dataclass(frozen=True)
class ExchangePlan:
    """The exchange of one step on one mesh.

    Attributes:
        mesh: The sizes of the mesh axes.
        matrices: The matrices of the step.
        items: The way and owner of each.
        rounds: Items that travel together, round by round. Matrices of the way "local" are in none.
    """

    mesh: tuple[int, ...]
    matrices: tuple[Matrix, ...]
    items: tuple[Item, ...]
    rounds: tuple[tuple[Item, ...], ...]

    def there(self, item: Item, rank: int) -> int:
        """Bytes that a rank sends to the owner of an item."""
        return there(self.matrices[item.index], self.mesh, item, rank)

    def back(self, item: Item, rank: int) -> int:
        """Bytes that the owner of an item sends to a rank."""
        return back(self.matrices[item.index], self.mesh, item, rank)

    def replies(self, item: Item) -> Sequence[int]:
        """Bytes that the owner of an item sends to each rank, except that it sends nothing to itself."""
        return replies(self.matrices[item.index], self.mesh, item)

    def traffic(self, rank: int) -> tuple[int, int]:
        """Bytes that a rank sends and receives in a step."""
        sent = received = 0
        for matrix, item in zip(self.matrices, self.items, strict=True):
            if item.owner == rank:
                incoming, outgoing = total(matrix, self.mesh, item)
                sent, received = sent + outgoing, received + incoming
            else:
                sent, received = sent + self.there(item, rank), received + self.back(item, rank)
        return sent, received

    def work(self, rank: int) -> float:
        """Multiply-adds of the matrices that a rank owns."""
        return owned_work(self.matrices, self.items, math.prod(self.mesh))[rank]

    def memory(self, rank: int) -> int:
        """The most bytes that messages and whole matrices take on a rank at one time: two rounds are in flight."""
        held = [sum(self._held(item, rank) for item in items) for items in self.rounds]
        return max((sum(pair) for pair in itertools.pairwise([*held, 0])), default=0)

    def _held(self, item: Item, rank: int) -> int:
        if item.owner != rank:
            return self.there(item, rank) + self.back(item, rank)
        matrix = self.matrices[item.index]
        return sum(total(matrix, self.mesh, item)) + at_owner(matrix, item.way)


def exchange_plan(
    matrices: Sequence[Matrix], mesh: tuple[int, ...], items: Sequence[Item] | None = None, limit: int = ROUND
) -> ExchangePlan:
    """Plan the exchange of the matrices of one step.

    Args:
        matrices: The matrices that move in this step.
        mesh: The sizes of the mesh axes.
        items: Their ways and owners, from `assign`; None assigns them.
        limit: Bytes of whole matrices that an owner receives in one round. A larger matrix has a round of its own.
    """
    items = assign(matrices, mesh) if items is None else items
    filled: dict[int, tuple[int, int]] = {}  # {owner: (its round, bytes in it)}
    rounds: dict[int, list[Item]] = {}
    largest: dict[str, float] = {}
    for matrix in matrices:
        largest[matrix.name] = max(matrix.work, largest.get(matrix.name, 0.0))

    def order(item: Item) -> tuple[object, ...]:
        """The parts of a stack one after the other, because its local shards are held from the first to the last."""
        matrix = matrices[item.index]
        return -largest[matrix.name], matrix.place[0], item.index

    for item in sorted((item for item in items if item.way != "local"), key=order):
        matrix = matrices[item.index]
        size = math.prod(matrix.shape) * matrix.itemsize * matrix.tensors
        number, held = filled.get(item.owner, (0, 0))
        if held and held + size > limit:
            number, held = number + 1, 0
        filled[item.owner] = (number, held + size)
        rounds.setdefault(number, []).append(item)
    return ExchangePlan(mesh, tuple(matrices), tuple(items), tuple(tuple(rounds[n]) for n in sorted(rounds)))
