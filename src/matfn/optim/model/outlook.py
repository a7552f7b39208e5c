"""Outlook: what a step of an optimizer costs each process of a mesh, before a model trains there: work, bytes, memory.

The mesh need not exist. The counts come from the plan of the exchange that the optimizer itself follows. Only matrices
are counted: AdamW moves the other parameters on each process, without messages.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch

from ...engines import Direct, Gram
from ...engines.cost import computed, products_of
from ...iteration.schedule import Schedule
from ..matrices.buckets import working_dtype
from ..matrices.exchange_plan import ExchangePlan, Matrix, Way, assign, exchange_plan, owned_work
from ..matrices.forecast import Forecast, forecast, moved
from ..matrices.parts import parted
from ..matrices.shards import is_dtensor
from ..needs import needs
from ..rules.polar import Polar
from .meshes import Mesh, Placed, largest_mesh, mesh_of
from .table import by_sizes, columns

if TYPE_CHECKING:
    from ..optimizer import MatrixOptimizer
    from .plan import Entry

__all__ = ["Kind", "Outlook", "Pace", "outlook"]


@dataclass(frozen=True)
class Kind:
    """Matrix parameters of one shape that the mesh cuts in one way.

    Attributes:
        shape: The shape of each.
        count: How many there are.
        cut: The axes that the mesh cuts, in words.
        way: How they are exchanged; see `exchange_plan`.
        work: Multiply-adds of each; None if they are not counted.
        moved: Bytes that all ranks together send for each.
    """

    shape: tuple[int, ...]
    count: int
    cut: str
    way: Way
    work: float | None
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
            real = isinstance(value, Real) and not isinstance(value, bool) and 1e-30 <= float(value) <= 1e30
            if value is not None and not real:
                raise ValueError(f"Plan.outlook: {name} must be a number from 1e-30 to 1e30, got {value!r}.")


@dataclass(frozen=True)
class Outlook:
    """The counts of a step on a mesh, which print as a table.

    Attributes:
        mesh: The mesh.
        optimizer: The name of the optimizer.
        kinds: The matrices, by shape and cut.
        ranks: Numbers for each rank.
        counted: Whether the work of all matrices is counted. Only polynomial iterations are.
        pace: What is known of the machines.
    """

    mesh: Mesh
    optimizer: str
    kinds: tuple[Kind, ...]
    ranks: Forecast
    counted: bool
    pace: Pace = Pace()

    def seconds(self) -> tuple[float, float] | None:
        """The optimizer's step for matrices: if messages and products overlap fully, and if they do not at all.

        None if the work is not counted, without `tflops`, or without `gbps` where ranks send anything.
        """
        if not self.counted or self.pace.tflops is None or self.messages() is None:
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
        title = f"A step of {self.optimizer} on {self.mesh}"
        if not self.kinds:
            return f"{title} sends nothing: the plan has no matrices."
        return "\n".join([title, "", *self._kinds(), "", *self._ranks(), "", *self._times()])

    def _kinds(self) -> list[str]:
        rows: list[tuple[str, ...]] = [("matrices", "number", "cut", "way", "GFLOP each", "MB sent for each")]
        for kind in self.kinds:
            gflop = "" if kind.work is None else _number(2 * kind.work / 1e9)
            moved = _number(kind.moved / 1e6)
            rows.append((by_sizes(kind.shape), f"{kind.count:,}", kind.cut, kind.way, gflop, moved))
        return columns(rows, right=(1, 4, 5))

    def _ranks(self) -> list[str]:
        rows: list[tuple[str, ...]] = [("a rank", "least", "mean", "most")]
        per = (
            ("matrices owned", self.ranks.matrices, 1.0),
            *([("GFLOP", 2 * self.ranks.work, 1e9)] if self.counted else []),
            ("MB sent", self.ranks.sent, 1e6),
            ("MB received", self.ranks.received, 1e6),
            ("MB of extra memory", self.ranks.memory, 1e6),
        )
        for label, values, unit in per:
            rows.append((label, *(_number(value / unit) for value in (values.min(), values.mean(), values.max()))))
        return columns(rows, right=(1, 2, 3))

    def _times(self) -> list[str]:
        messages, seconds, training, share = self.messages(), self.seconds(), self.training(), self.share()
        lines = []
        if messages is None:
            lines.append("Time of the messages: give gbps, the gigabits per second of a rank.")
        elif self.pace.gbps is not None:
            lines.append(f"Messages take {_time(messages)} at {self.pace.gbps:.4g} Gbit/s a rank.")
        if not self.counted:
            lines.append("The products are not counted: only those of polynomial iterations are.")
        elif self.pace.tflops is None:
            lines.append("Time of the products: give tflops, the products of a rank in 10^12 operations per second.")
        elif seconds is not None:
            both = f"{_time(seconds[0])} if messages and products overlap, {_time(seconds[1])} if not"
            lines.append(f"The matrices take {both}, at {self.pace.tflops:.4g} TFLOP/s a rank.")
        if share is not None and training is not None:
            lines.append(
                f"That is {share[0]:.1%} to {share[1]:.1%} of a step: the model's products take {_time(training)}."
            )
        elif seconds is not None:
            lines.append("Share of a step: give tokens, the number of tokens of all ranks in a step.")
        return lines


def outlook(
    entries: Sequence["Entry"], mesh: Any = None, optimizer: "MatrixOptimizer | None" = None, pace: Pace = Pace()
) -> Outlook:
    """Plan the exchange of all matrices of a plan on a mesh, and count it for every rank.

    Args:
        entries: The entries of the plan. Matrices under rules that the optimizer lacks count as its own.
        mesh: As `mesh_of` takes it; None is the largest mesh of the sharded parameters.
        optimizer: The optimizer, whose rules and options decide. Its parameters need not be those of the plan. None is
            Muon with its defaults.
        pace: What is known of the machines. Without a number of active parameters, all parameters are.

    Raises:
        TypeError: If `optimizer` is none of matfn.
        ValueError: If there is no mesh, or a parameter is on a mesh that is no part of it.
    """
    mesh = largest_mesh(entries) if mesh is None else mesh_of(mesh, "Plan.outlook: mesh")
    from ..muon import Muon  # late, because optimizers import plans
    from ..optimizer import MatrixOptimizer

    optimizer = Muon([torch.zeros(1, 1)]) if optimizer is None else optimizer
    if not isinstance(optimizer, MatrixOptimizer):
        given = optimizer.__name__ if isinstance(optimizer, type) else f"an object of {type(optimizer).__name__}"
        raise TypeError(f"Plan.outlook: optimizer must be an optimizer of matfn, such as Muon(plan), got {given}.")
    if pace.active is None:
        pace = replace(pace, active=float(sum(entry.parameter.numel() for entry in entries)) or None)
    kinds: list[Kind] = []
    ranks, busy = forecast(exchange_plan([], (mesh.ranks,))), [0.0] * mesh.ranks
    for triples in _by_mesh(entries, mesh, optimizer):
        placed, parts = triples[0][0], parted([matrix for _, matrix, _ in triples], triples[0][0].sizes)
        shares = [
            (work or 0.0) * part.shape[0] / max(matrix.shape[0], 1)
            for (_, matrix, work), each in zip(triples, parts, strict=True)
            for part in each
        ]
        matrices = [part for each in parts for part in each]
        together = math.prod(placed.sizes) == mesh.ranks  # the same processes as those of other meshes
        items = assign(matrices, placed.sizes, busy=busy if together else None)
        if together:
            busy = [a + b for a, b in zip(busy, owned_work(matrices, items, mesh.ranks), strict=True)]
        plan = exchange_plan(matrices, placed.sizes, items)
        ranks += forecast(plan, shares).at(mesh.positions(placed))
        kinds += _kinds([(matrix, work) for _, matrix, work in triples], parts, plan)
    counted = all(kind.work is not None for kind in kinds)
    return Outlook(mesh, type(optimizer).__name__, tuple(kinds), ranks, counted, pace)


def _by_mesh(
    entries: Sequence["Entry"], mesh: Mesh, optimizer: "MatrixOptimizer"
) -> Iterable[list[tuple[Placed, Matrix, float | None]]]:
    """Placement, needs and multiply-adds of each matrix parameter, those on one mesh together."""
    meshes: dict[tuple[tuple[str, int], ...], list[tuple[Placed, Matrix, float | None]]] = {}
    group = {**optimizer.defaults, "rule": "matrix"}
    for entry in entries:
        if entry.is_matrix and entry.layout is not None:
            placed = mesh.placed(entry)
            known = entry.parameter in optimizer.layouts
            optimizer.layouts.setdefault(entry.parameter, entry.layout)
            own = {**group, "rule": entry.rule if entry.rule in optimizer.others else "matrix"}
            device = torch.device("cpu") if entry.parameter.is_meta else entry.parameter.device
            sharded = is_dtensor(entry.parameter) or mesh.cuts
            given = (optimizer, own, entry.name, entry.parameter, placed.sizes, placed.placements, device)
            matrix, _ = needs(*given, sharded=sharded)
            if not known:  # the optimizer belongs to the caller
                del optimizer.layouts[entry.parameter]
            work = _multiply_adds(optimizer, own["rule"], entry, device)
            meshes.setdefault(placed.axes, []).append((placed, matrix, work))
    return meshes.values()


def _multiply_adds(optimizer: "MatrixOptimizer", rule: str, entry: "Entry", device: torch.device) -> float | None:
    """The multiply-adds for a parameter by a polynomial iteration; None for other rules. Deflation is not counted."""
    polars = [link for link in optimizer.lender(rule).chain[1:] if isinstance(link, Polar)]
    if not polars or entry.layout is None:
        return None
    total = 0.0
    for b, m, n in entry.layout.matrices:
        plan = polars[0].plan((m, n), working_dtype(entry.parameter), device)
        engine = plan.engine
        if not isinstance(plan.iteration, Schedule) or plan.iteration.rational or not isinstance(engine, Direct | Gram):
            return None
        engine = engine.planned(plan.iteration, plan.precision) if isinstance(engine, Gram) else engine
        total += b * sum(computed(p, plan.products) for p in products_of(plan.iteration, engine, (m, n), plan.target))
    return total


def _kinds(
    pairs: Sequence[tuple[Matrix, float | None]], parts: Sequence[Sequence[Matrix]], plan: ExchangePlan
) -> list[Kind]:
    """The matrices of one mesh, equal ones counted together."""
    found: dict[tuple[object, ...], Kind] = {}
    items = iter(plan.items)
    for (matrix, work), each in zip(pairs, parts, strict=True):
        own = [next(items) for _ in each]
        key = (matrix.shape, matrix.placements, own[0].way, work)
        if key not in found:
            found[key] = Kind(matrix.shape, 0, _cut(matrix, plan.mesh), own[0].way, work, moved(plan, own))
        found[key] = replace(found[key], count=found[key].count + 1)
    return list(found.values())


def _cut(matrix: Matrix, mesh: tuple[int, ...]) -> str:
    """Which axes of a matrix are cut into how many parts, as "axis 0 in 8"."""
    parts: dict[int, int] = {}
    for split, size in zip(matrix.placements, mesh, strict=True):
        if split is not None and size > 1:
            parts[split.axis] = parts.get(split.axis, 1) * size
    copies = math.prod(mesh) // math.prod(parts.values())
    words = [f"axis {axis} in {count}" for axis, count in sorted(parts.items())]
    return ", ".join([*words, *([f"{copies} copies"] if copies > 1 else [])]) or "whole"


def _number(value: float) -> str:
    """Four digits, without an exponent where that is short: "1,240" or "0.05872"."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
