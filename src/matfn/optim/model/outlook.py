"""Outlook: what a step of Muon costs each process of a mesh, before a model trains there: work, bytes, memory, time.

The mesh need not exist. The counts come from the plan of the exchange that the optimizer itself follows.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from numbers import Real
from operator import add
from typing import TYPE_CHECKING

from ..matrices.exchange_plan import Item, Matrix, Split, Way, exchange_plan
from ..matrices.forecast import Forecast, forecast
from .meshes import Mesh
from .table import by_sizes, columns

if TYPE_CHECKING:
    from .plan import Entry

__all__ = ["Kind", "Outlook", "Pace", "outlook"]

MatrixOf = Callable[["Entry", tuple[Split | None, ...]], Matrix]


@dataclass(frozen=True)
class Kind:
    """Matrix parameters of one shape that the mesh cuts in one way.

    Attributes:
        shape: The shape of each.
        count: How many there are.
        cut: The axes that the mesh cuts, in words.
        way: How they are exchanged; see `exchange_plan`.
        work: Multiply-adds of each.
        moved: Bytes that all ranks together send for each.
    """

    shape: tuple[int, ...]
    count: int
    cut: str
    way: Way
    work: float
    moved: float


@dataclass(frozen=True)
class Pace:
    """What is known of the machines.

    Attributes:
        gbps: Gigabits per second that each rank sends, and receives at the same time.
        tflops: 10^12 floating-point operations per second of a rank's matrix products.
        tokens: Tokens of all ranks in one training step.
        active: Parameters that a token uses; each costs 6 operations, forward and backward.
    """

    gbps: float | None = None
    tflops: float | None = None
    tokens: float | None = None
    active: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            real = isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
            if value is not None and not real:
                raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")


@dataclass(frozen=True)
class Outlook:
    """The counts of a step on a mesh, which print as a table.

    Attributes:
        mesh: The mesh.
        kinds: The matrices, by shape and cut.
        ranks: Numbers for each rank.
        pace: What is known of the machines.
    """

    mesh: Mesh
    kinds: tuple[Kind, ...]
    ranks: Forecast
    pace: Pace = Pace()

    def seconds(self) -> tuple[float, float] | None:
        """The optimizer's step for matrices: if messages and products overlap fully, and if they do not at all.

        None without `tflops`, or without `gbps` where ranks send anything.
        """
        messages = self.messages()
        if self.pace.tflops is None or messages is None:
            return None
        work = 2 * self.ranks.work / (self.pace.tflops * 1e12)
        bits = 8 * self.ranks.sent.clip(self.ranks.received) / ((self.pace.gbps or math.inf) * 1e9)
        return float(work.clip(bits).max()), float((work + bits).max())

    def messages(self) -> float | None:
        """Seconds that the messages of the busiest rank take; None if that needs `gbps`."""
        most = float(self.ranks.sent.clip(self.ranks.received).max())
        if most and self.pace.gbps is None:
            return None
        return 8 * most / ((self.pace.gbps or math.inf) * 1e9)

    def training(self) -> float | None:
        """Seconds of the products of one training step without the optimizer's; None if that needs more numbers."""
        pace = self.pace
        if pace.tokens is None or pace.tflops is None or pace.active is None:
            return None
        return 6 * pace.active * pace.tokens / self.mesh.ranks / (pace.tflops * 1e12)

    def share(self) -> tuple[float, float] | None:
        """The optimizer's share of a step, at best and at worst overlap; None if that needs more numbers."""
        seconds, training = self.seconds(), self.training()
        if seconds is None or training is None:
            return None
        low, high = (s / (s + training) if s else 0.0 for s in seconds)
        return low, high

    def __str__(self) -> str:
        return "\n".join([f"A step on {self.mesh}", "", *self._kinds(), "", *self._ranks(), "", *self._times()])

    def _kinds(self) -> list[str]:
        rows: list[tuple[str, ...]] = [("matrices", "number", "cut", "way", "GFLOP each", "MB sent for each")]
        for kind in self.kinds:
            gflop, moved = f"{2 * kind.work / 1e9:,.3g}", f"{kind.moved / 1e6:,.3g}"
            rows.append((by_sizes(kind.shape), f"{kind.count:,}", kind.cut, kind.way, gflop, moved))
        return columns(rows, right=(1, 4, 5))

    def _ranks(self) -> list[str]:
        rows: list[tuple[str, ...]] = [("a rank", "least", "mean", "most")]
        per = (
            ("matrices owned", self.ranks.matrices, 1.0),
            ("GFLOP", 2 * self.ranks.work, 1e9),
            ("MB sent", self.ranks.sent, 1e6),
            ("MB received", self.ranks.received, 1e6),
            ("MB held more", self.ranks.memory, 1e6),
        )
        for label, values, unit in per:
            rows.append((label, *(f"{value / unit:,.4g}" for value in (values.min(), values.mean(), values.max()))))
        return columns(rows, right=(1, 2, 3))

    def _times(self) -> list[str]:
        messages, seconds, training, share = self.messages(), self.seconds(), self.training(), self.share()
        lines = []
        if messages is None:
            lines.append("Time of the messages: give gbps, the gigabits per second of a rank.")
        elif self.pace.gbps is not None:
            lines.append(f"Messages take {_time(messages)} at {self.pace.gbps:g} Gbit/s a rank.")
        if self.pace.tflops is None:
            lines.append("Time of the products: give tflops, the products of a rank in 10^12 operations per second.")
        elif seconds is not None:
            both = f"{_time(seconds[0])} if messages and products overlap, {_time(seconds[1])} if not"
            lines.append(f"The matrices take {both}, at {self.pace.tflops:g} TFLOP/s a rank.")
        if share is not None and training is not None:
            lines.append(
                f"That is {share[0]:.1%} to {share[1]:.1%} of a step: the model's products take {_time(training)}."
            )
        elif seconds is not None:
            lines.append("Share of a step: give tokens, those of all ranks in a step.")
        return lines


def outlook(entries: Iterable["Entry"], mesh: Mesh, matrix_of: MatrixOf, pace: Pace = Pace()) -> Outlook:
    """Plan the exchange of all matrices of a plan on a mesh, and count it for every rank.

    Args:
        entries: The entries of the plan.
        mesh: The mesh.
        matrix_of: What the plan of the exchange needs of an entry with such placements.
        pace: What is known of the machines.
    """
    meshes: dict[tuple[int, ...], list[Matrix]] = {}
    for entry in entries:
        if entry.is_matrix:
            sizes, placements = mesh.placed(entry)
            meshes.setdefault(sizes, []).append(matrix_of(entry, placements))
    kinds: list[Kind] = []
    forecasts = []
    for sizes, matrices in meshes.items():
        plan = exchange_plan(matrices, sizes)
        forecasts.append(forecast(plan))
        kinds += _kinds(matrices, plan.items, sizes)
    if not forecasts:
        forecasts = [forecast(exchange_plan([], (mesh.ranks,)))]
    return Outlook(mesh, tuple(kinds), reduce(add, forecasts), pace)


def _kinds(matrices: Sequence[Matrix], items: Sequence[Item], mesh: tuple[int, ...]) -> list[Kind]:
    """The matrices of one mesh, equal ones counted together."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, (matrix, item) in enumerate(zip(matrices, items, strict=True)):
        alike.setdefault((matrix.shape, matrix.placements, item.way, matrix.work), []).append(index)
    kinds = []
    for indices in alike.values():
        matrix, item = matrices[indices[0]], items[indices[0]]
        one = forecast(exchange_plan([matrix], mesh, [Item(0, item.way, item.owner)]))
        moved = float(one.sent.sum())
        kinds.append(Kind(matrix.shape, len(indices), _cut(matrix, mesh), item.way, matrix.work, moved))
    return kinds


def _cut(matrix: Matrix, mesh: tuple[int, ...]) -> str:
    """Which axes of a matrix are cut into how many parts, as "axis 0 in 8"."""
    parts: dict[int, int] = {}
    for split, size in zip(matrix.placements, mesh, strict=True):
        if split is not None and size > 1:
            parts[split.axis] = parts.get(split.axis, 1) * size
    copies = math.prod(mesh) // math.prod(parts.values())
    words = [f"axis {axis} in {count}" for axis, count in sorted(parts.items())]
    return ", ".join([*words, *([f"{copies} copies"] if copies > 1 else [])]) or "whole"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
