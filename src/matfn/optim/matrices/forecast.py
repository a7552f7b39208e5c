"""Forecast: what the exchange of a step costs every rank of a mesh, counted from its plan for thousands of ranks.

The sums are those of `ExchangePlan.traffic`, `work` and `memory`, for all ranks at once. Work on the parts that a rank
holds itself is added.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .exchange_plan import (
    ALIGNED,
    ExchangePlan,
    Item,
    Matrix,
    Place,
    Split,
    aligned,
    at_owner,
    boxes,
    gram_back,
    gram_there,
)

__all__ = ["Forecast", "forecast", "moved"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """Numbers for each rank of a mesh, in the order of its ranks.

    Attributes:
        matrices: Matrix parameters, and parts of stacks, that the rank owns; those of the way "local" are not counted.
        work: Multiply-adds of the matrix rules.
        sent: Bytes sent in a step.
        received: Bytes received in a step.
        memory: Bytes of messages and whole matrices at one time.
    """

    matrices: Numbers
    work: Numbers
    sent: Numbers
    received: Numbers
    memory: Numbers

    def at(self, positions: NDArray[np.int64]) -> "Forecast":
        """The numbers of the ranks at these positions."""
        return Forecast(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})

    def __add__(self, other: "Forecast") -> "Forecast":
        """Of two exchanges one after the other on the same ranks: all but the memory adds up."""
        sums = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return Forecast(**{**sums, "memory": np.maximum(self.memory, other.memory)})


def forecast(plan: ExchangePlan, work: Sequence[float] | None = None) -> Forecast:
    """Count what every rank of a plan owns, computes, sends, receives and holds.

    Args:
        plan: The plan of the exchange.
        work: Multiply-adds of each of its matrices; None takes `Matrix.work`, by which owners are chosen.
    """
    work = [matrix.work for matrix in plan.matrices] if work is None else work
    ranks = math.prod(plan.mesh)
    sums = {field.name: np.zeros(ranks) for field in fields(Forecast)}
    for item in plan.items:
        _add_work(sums["work"], plan.matrices[item.index], plan.mesh, item, work[item.index])
    before = np.zeros(ranks)
    for items in plan.rounds:
        held = np.zeros(ranks)
        for item in items:
            matrix = plan.matrices[item.index]
            there, back = _messages(matrix, plan.mesh, item)
            all_there, all_back = there.sum(), back.sum()
            sums["matrices"][item.owner] += 1
            sums["sent"] += there
            sums["received"] += back
            held += there
            held += back
            sums["sent"][item.owner] += all_back
            sums["received"][item.owner] += all_there
            held[item.owner] += all_there + all_back + at_owner(matrix, item.way)
        sums["memory"] = np.maximum(sums["memory"], before + held)
        before = held
    return Forecast(**sums)


def moved(plan: ExchangePlan, items: Iterable[Item]) -> float:
    """Bytes that all ranks together send for some of the matrices of a plan."""
    pairs = (_messages(plan.matrices[item.index], plan.mesh, item) for item in items if item.way != "local")
    return float(sum(there.sum() + back.sum() for there, back in pairs))


def _messages(matrix: Matrix, mesh: tuple[int, ...], item: Item) -> tuple[Numbers, Numbers]:
    """Bytes that each rank sends to the owner of a matrix, and that it gets back; 0 for the owner."""
    copies = _copies(mesh, matrix.placements)
    sends = copies == copies[item.owner]
    if item.way == "gram":
        there, back = sends * float(gram_there(matrix)), np.full(len(copies), float(gram_back(matrix)))
    else:
        sizes = _sizes(matrix.place, mesh, matrix.itemsize)
        there, back = sends * sizes * matrix.tensors, sizes + aligned(matrix.extra)
    there[item.owner] = back[item.owner] = 0
    return there, back


def _add_work(sums: Numbers, matrix: Matrix, mesh: tuple[int, ...], item: Item, work: float) -> None:
    """Add the multiply-adds for a matrix on each rank.

    The way "gram" shares the two products with the long side among the ranks. They are counted once, without restarts.
    """
    if item.way == "owner":
        sums[item.owner] += work
        return
    thin = min(2.0 * math.prod(matrix.shape) * min(matrix.shape), work) if item.way == "gram" else work
    sums += thin * _entries(matrix.place, mesh) / max(math.prod(matrix.shape), 1)
    sums[item.owner] += work - thin


@lru_cache(maxsize=2048)
def _sizes(place: Place, mesh: tuple[int, ...], itemsize: int) -> Numbers:
    """Bytes of what each rank holds of a matrix or part."""
    return np.ceil(_entries(place, mesh) * itemsize / ALIGNED) * ALIGNED


@lru_cache(maxsize=2048)
def _entries(place: Place, mesh: tuple[int, ...]) -> Numbers:
    """The number of entries that each rank holds of a matrix or part."""
    shape, placements, start, stop = place
    lengths, first, last = _lengths(shape, mesh, placements)
    return np.clip(np.minimum(last, stop) - np.maximum(first, start), 0, None) * lengths


@lru_cache(maxsize=512)
def _lengths(
    shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Split | None, ...]
) -> tuple[Numbers, Numbers, Numbers]:
    """For each rank's box of a parameter: the product of its lengths after axis 0, and its range on axis 0."""
    bounds = np.array(boxes(shape, mesh, placements), dtype=float)
    return (bounds[:, 1:, 1] - bounds[:, 1:, 0]).prod(1), bounds[:, 0, 0], bounds[:, 0, 1]


@lru_cache(maxsize=512)
def _copies(mesh: tuple[int, ...], placements: tuple[Split | None, ...]) -> NDArray[np.int64]:
    """The number of the copy to which each rank's box belongs: its index along the axes that replicate."""
    at = np.indices(mesh).reshape(len(mesh), -1)
    copies = np.zeros(at.shape[1], dtype=np.int64)
    for axis, (size, placement) in enumerate(zip(mesh, placements, strict=True)):
        copies = copies * size + at[axis] if placement is None else copies
    return copies
