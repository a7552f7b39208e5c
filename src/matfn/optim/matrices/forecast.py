"""Forecast: what the exchange of a step costs every rank of a mesh, counted from its plan for thousands of ranks.

The sums are those of `ExchangePlan.traffic`, `work` and `memory`, for all ranks at once. Work on the parts that a rank
holds itself is added.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .exchange_plan import HEADER, ExchangePlan, Item, Matrix, Split, aligned, boxes, entries, gram_back
from .triangle import packed_entries

__all__ = ["Forecast", "forecast"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """Numbers for each rank of a mesh, in the order of its ranks.

    Attributes:
        matrices: Matrix parameters that the rank owns, those of the way "local" not counted.
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
        matrix = plan.matrices[item.index]
        sums["work"] += _work(matrix, plan.mesh, item, work[item.index])
        if item.way != "local":
            sums["matrices"][item.owner] += 1
            there, back = _messages(matrix, plan.mesh, item)
            sums["sent"] += there
            sums["received"] += back
            sums["sent"][item.owner] += back.sum()
            sums["received"][item.owner] += there.sum()
    held = [sum((_held(plan, item) for item in items), np.zeros(ranks)) for items in plan.rounds]
    for first, second in itertools.pairwise([*held, np.zeros(ranks)]):
        sums["memory"] = np.maximum(sums["memory"], first + second)
    return Forecast(**sums)


def _messages(matrix: Matrix, mesh: tuple[int, ...], item: Item) -> tuple[Numbers, Numbers]:
    """Bytes that each rank sends to the owner of a matrix, and that it gets back; 0 for the owner."""
    copies = _copies(mesh, matrix.placements)
    sends = copies == copies[item.owner]
    sends[item.owner] = False
    others = np.ones(len(copies))
    others[item.owner] = 0
    if item.way == "gram":
        gram = HEADER + aligned(packed_entries(min(matrix.shape)) * matrix.width)
        return sends * float(gram), others * float(HEADER + gram_back(matrix))
    sizes = _sizes(matrix.shape, mesh, matrix.placements, matrix.itemsize)
    return sends * sizes * matrix.tensors, others * (sizes + aligned(matrix.extra))


def _held(plan: ExchangePlan, item: Item) -> Numbers:
    """Bytes that each rank holds for a matrix: messages, and at the owner the whole matrix."""
    matrix = plan.matrices[item.index]
    there, back = _messages(matrix, plan.mesh, item)
    held = there + back
    held[item.owner] = there.sum() + back.sum() + math.prod(matrix.shape) * (matrix.itemsize * matrix.tensors + 4)
    return held


def _work(matrix: Matrix, mesh: tuple[int, ...], item: Item, work: float) -> Numbers:
    """Multiply-adds for a matrix on each rank.

    The way "gram" shares the two products with the long side among the ranks. They are counted once, without restarts.
    """
    shares = _shares(matrix.shape, mesh, matrix.placements)
    if item.way == "local":
        return work * shares
    thin = min(2.0 * math.prod(matrix.shape) * min(matrix.shape), work) if item.way == "gram" else 0.0
    shared = thin * shares
    shared[item.owner] += work - thin
    return shared


@lru_cache(maxsize=512)
def _sizes(
    shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Split | None, ...], itemsize: int
) -> Numbers:
    return np.array([aligned(entries(box) * itemsize) for box in boxes(shape, mesh, placements)], dtype=float)


@lru_cache(maxsize=512)
def _shares(shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Split | None, ...]) -> Numbers:
    """The share of the entries that each rank holds."""
    return np.array([entries(box) for box in boxes(shape, mesh, placements)], dtype=float) / max(math.prod(shape), 1)


@lru_cache(maxsize=512)
def _copies(mesh: tuple[int, ...], placements: tuple[Split | None, ...]) -> NDArray[np.int64]:
    """The number of the copy to which each rank's box belongs: its index along the axes that replicate."""
    at = np.indices(mesh).reshape(len(mesh), -1)
    copies = np.zeros(at.shape[1], dtype=np.int64)
    for axis, (size, placement) in enumerate(zip(mesh, placements, strict=True)):
        copies = copies * size + at[axis] if placement is None else copies
    return copies
