"""Findings from the rows: paired differences with intervals, times of steps, and the error bar of the large model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_train_parts.contenders import OURS, THEIRS
from benchmarks.gpu_train_parts.rules import loss_of
from studies.tournament.statistics import Interval, at, by_seed, student

__all__ = ["Arm", "at_equal_time", "compared", "error_bar", "large", "median", "primary"]


@dataclass(frozen=True)
class Arm:
    """One arm over the paired seeds.

    Attributes:
        name: The arm.
        lr: Its rate.
        losses: Seed -> last validation loss, infinite if the run diverged or failed.
        rows: Its rows that have losses.
        difference: Minus the loss of torch.optim.Muon; None for that arm.
    """

    name: str
    lr: float
    losses: dict[int, float]
    rows: tuple[Row, ...]
    difference: Interval | None

    @property
    def mean(self) -> float:
        """The mean loss."""
        return statistics.fmean(self.losses.values())

    @property
    def seconds(self) -> float:
        """Training time of a whole run: its steps times the median step."""
        return self.rows[0]["steps"] * median(self.rows, "step_seconds") if self.rows else math.nan


def compared(rows: Sequence[Row]) -> list[Arm]:
    """The arms of the paired seeds in the order of their first runs; intervals are corrected for their number."""
    own = [row for row in rows if row["stage"] == "seeds"]
    names = list(dict.fromkeys(row["arm"] for row in own))
    losses = {name: {row["seed"]: loss_of(row) for row in own if row["arm"] == name} for name in names}
    found = []
    for name in names:
        difference = None
        if name != THEIRS and THEIRS in losses:
            difference = by_seed(losses[name], losses[THEIRS], comparisons=max(1, len(names) - 1))
        mine = [row for row in own if row["arm"] == name]
        trained = tuple(row for row in mine if row.get("loss") is not None)
        found.append(Arm(name, mine[0]["lr"], losses[name], trained, difference))
    return found


def primary(rows: Sequence[Row]) -> Interval | None:
    """The primary number: one comparison, named before the run, so its interval is not corrected."""
    losses = {arm.name: arm.losses for arm in compared(rows)}
    return by_seed(losses[OURS], losses[THEIRS], comparisons=1) if {OURS, THEIRS} <= losses.keys() else None


def at_equal_time(arm: Arm, arms: Sequence[Arm]) -> float:
    """The mean loss at the time at which the fastest arm ends; NaN where a curve is unknown.

    The rate has not come down by then, so the number speaks against the slower arm.
    """
    fastest = min((other.seconds for other in arms if other.rows), default=math.nan)
    if not arm.rows or not math.isfinite(arm.mean):
        return math.nan
    step = arm.rows[0]["steps"] * fastest / arm.seconds
    try:
        return statistics.fmean(at([(s, v) for s, v in row["val"]], step) for row in arm.rows)
    except ValueError:
        return math.nan


def error_bar(rows: Sequence[Row]) -> float:
    """How far one pair of runs differs by chance in 95 % of cases: from the pairs of the primary number.

    It is carried over to the large model, where each arm has one run.
    """
    found = primary(rows)
    if found is None or found.pairs < 2:
        return math.nan
    return student(0.05, found.pairs - 1) * found.deviation


def large(rows: Sequence[Row]) -> list[Row]:
    """The runs of the large model; of an arm with two rates the better one."""
    best: dict[str, Row] = {}
    for row in rows:
        if row["stage"] == "large" and (row["arm"] not in best or loss_of(row) < loss_of(best[row["arm"]])):
            best[row["arm"]] = row
    return list(best.values())


def median(rows: Sequence[Row], key: str) -> float:
    """The median of an entry over rows that have it; NaN without any."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else math.nan
