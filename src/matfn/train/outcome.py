"""The statistics of recorded runs: intervals over seeds, a table, paired differences, losses after equal time."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matfn.train.recipe import TrainTable


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % Student interval; None for a single value."""

    mean: float
    half_width: float | None
    count: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0; false for a single value."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def negative(self) -> Interval:
        """The interval of the values with their signs changed."""
        return Interval(-self.mean, self.half_width, self.count)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half_width is None else f" ± {self.half_width:.4f}")


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and its 95 % interval, of half-width t_{n-1} s / sqrt(n)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, len(values))
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, student(len(values) - 1) * spread, len(values))


@lru_cache
def student(freedom: int) -> float:
    """The t with P(|T| <= t) = 0.95 for Student's distribution with `freedom` degrees of freedom."""
    from mpmath import betainc, findroot

    def outside(t: Any) -> Any:
        return betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True)

    return float(findroot(lambda t: outside(t) - 0.05, (1, 13), solver="anderson"))


UNTOLD = 0.03  # nats; seeds of the demo differ by 0.01, so a lesser gap between two single runs is no difference
WARM = 5  # the first steps allocate and compile: no timing of a longer run includes them


@dataclass(frozen=True)
class Outcome:
    """One run; losses in nats per token.

    Attributes:
        arm: Name of the optimizer.
        seed: Seed of weights and batches.
        lr: Learning rate.
        train: (step, training loss) of every step.
        val: (step, validation loss, seconds of training before it) of every evaluation.
        step_seconds: The median time of forward and backward, whose work is constant, plus the mean time of the
            optimizer, whose work varies (roots, bases).
        optimizer_share: The optimizer's part of `step_seconds`.
        diverged: The step at which the loss was infinite or NaN; None if it never was.
    """

    arm: str
    seed: int
    lr: float
    train: tuple[tuple[int, float], ...]
    val: tuple[tuple[int, float, float], ...]
    step_seconds: float
    optimizer_share: float
    diverged: int | None

    @property
    def final(self) -> float | None:
        """The last validation loss; None for a run that diverged or was cut short."""
        return self.val[-1][1] if self.val and self.diverged is None else None


def outcome(lines: Sequence[dict[str, float]], *, arm: str, seed: int, lr: float) -> Outcome:
    """Sum up the lines of a metrics log."""
    steps = [line for line in lines if "loss" in line]
    timed = steps[WARM:] or steps
    lost = [int(line["step"]) for line in lines if "diverged" in line]
    passes = statistics.median(line["seconds"] - line["optimizer_seconds"] for line in timed) if timed else 0.0
    optimizer = statistics.fmean(line["optimizer_seconds"] for line in timed) if timed else 0.0
    return Outcome(
        arm=arm,
        seed=seed,
        lr=lr,
        train=tuple((int(line["step"]), line["loss"]) for line in steps),
        val=tuple((int(line["step"]), line["val_loss"], line["elapsed"]) for line in lines if "val_loss" in line),
        step_seconds=passes + optimizer,
        optimizer_share=optimizer / (passes + optimizer) if timed else 0.0,
        diverged=lost[0] if lost else None,
    )


@dataclass(frozen=True)
class Row:
    """One arm over all seeds: a row of the table. `val` is None if every seed diverged."""

    arm: str
    lr: float
    val: Interval | None
    step_seconds: float
    optimizer_share: float
    diverged: int


@dataclass(frozen=True)
class Difference:
    """Validation loss of `second` minus that of `first`, paired by seed: negative means `second` is better."""

    first: str
    second: str
    nats: Interval


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of the table, in the order of the recipe."""
    return [_row(arm, [o for o in outcomes if o.arm == arm]) for arm in dict.fromkeys(o.arm for o in outcomes)]


def _row(arm: str, runs: list[Outcome]) -> Row:
    finals = [run.final for run in runs if run.final is not None]
    return Row(
        arm=arm,
        lr=runs[0].lr,
        val=interval(finals) if finals else None,
        step_seconds=statistics.median(run.step_seconds for run in runs),
        optimizer_share=statistics.median(run.optimizer_share for run in runs),
        diverged=sum(run.diverged is not None for run in runs),
    )


def differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Every pair of arms, over the seeds with which neither diverged."""
    return differences_of({(o.arm, o.seed): o.final for o in outcomes if o.final is not None})


def differences_of(losses: Mapping[tuple[str, int], float]) -> list[Difference]:
    """Every pair of arms, over the seeds of which both have a loss; the keys of `losses` are (arm, seed)."""
    arms, pairs = list(dict.fromkeys(arm for arm, _ in losses)), []
    for first, second in itertools.combinations(arms, 2):
        paired = [losses[second, s] - losses[first, s] for a, s in losses if a == first and (second, s) in losses]
        if paired:
            pairs.append(Difference(first, second, interval(paired)))
    return pairs


def leaders(table: Sequence[Row], pairs: Sequence[Difference]) -> set[str]:
    """The best arms, to mark in a table: the lowest mean loss, and each arm without a clear difference from it."""
    alive = {row.arm: row.val.mean for row in table if row.val}
    if not alive:
        return set()
    best = min(alive, key=lambda arm: alive[arm])
    level = {best}
    for pair in pairs:
        gap = pair.nats
        told_apart = gap.resolved if gap.half_width is not None else abs(gap.mean) > UNTOLD
        if best in (pair.first, pair.second) and not told_apart:
            level |= {pair.first, pair.second}
    return level


def resolution(outcomes: Sequence[Outcome], steps: int) -> str:
    """The limits of the numbers in plain words, to print beside them."""
    seeds = len({o.seed for o in outcomes})
    if seeds == 1:
        spread = f"One seed has no error bar: seeds differ by about 0.01 here, so take gaps under {UNTOLD:g} for none."
    else:
        spread = f"Intervals are 95 % Student over {seeds} seeds; differences are paired by seed."
    return f"{spread} {steps} steps are a short run: short runs flatter optimizers that start fast."


@dataclass(frozen=True)
class TimeRow:
    """One arm at that moment: its step (a fraction between two), and its loss there, if known."""

    arm: str
    step: float
    val: Interval | None


@dataclass(frozen=True)
class TimeView:
    """All arms after the same `seconds` of forward, backward and optimizer; `moment` says why then."""

    moment: str
    seconds: float
    rows: tuple[TimeRow, ...]
    differences: tuple[Difference, ...]


def time_views(runs: Sequence[Outcome], table: Sequence[Row], train: TrainTable) -> list[TimeView]:
    """The arms after equal time, at two moments.

    The first is the end of the fastest arm's constant phase: every arm still has its full learning rate. The second is
    the end of the fastest arm's run. Slower arms have not cooled down by then, so a run planned for that time would end
    with a lower loss: theirs is an upper bound.
    """
    alive = [row for row in table if row.val and row.step_seconds]
    if not alive:
        return []
    fastest = min(row.step_seconds for row in alive)
    constant = train.steps - round(train.cooldown * train.steps)
    moments = {"the fastest arm has finished; the slower ones are still in mid-schedule": train.steps}
    if train.warmup < constant < train.steps:
        moments = {"no arm's learning rate has begun to fall": constant, **moments}
    return [
        _view(moment, {row.arm: steps * fastest / row.step_seconds for row in alive}, runs, seconds=steps * fastest)
        for moment, steps in moments.items()
    ]


def _view(moment: str, at: dict[str, float], runs: Sequence[Outcome], *, seconds: float) -> TimeView:
    losses = {(run.arm, run.seed): loss_at(run, at[run.arm]) for run in runs if run.arm in at}
    known = {key: loss for key, loss in losses.items() if loss is not None}
    rows = []
    for arm, step in at.items():
        values = [loss for (name, _), loss in known.items() if name == arm]
        rows.append(TimeRow(arm, step, interval(values) if values else None))
    return TimeView(moment, seconds, tuple(rows), tuple(differences_of(known)))


def loss_at(run: Outcome, step: float) -> float | None:
    """Validation loss at `step`, linear between evaluations; None before the first, or if the run diverged.

    A step beyond the last evaluation, by rounding, gets the last loss.
    """
    points = [(s, loss) for s, loss, _ in run.val if run.diverged is None]
    if not points or step < points[0][0]:
        return None
    for (left, before), (right, after) in itertools.pairwise(points):
        if left <= step < right:
            return before + (after - before) * (step - left) / (right - left)
    return points[-1][1]
