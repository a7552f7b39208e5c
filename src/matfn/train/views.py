"""Equal time beside equal steps: validation losses of the same runs after the same seconds of training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from matfn.train.outcome import Difference, Outcome, Row, differences_of
from matfn.train.recipe import TrainTable
from matfn.train.stats import Interval, interval

__all__ = ["TimeRow", "TimeView", "loss_at", "time_views"]


@dataclass(frozen=True)
class TimeRow:
    """One arm at that moment: the step it has come to (a fraction between two), and its loss there, if known."""

    arm: str
    step: float
    val: Interval | None


@dataclass(frozen=True)
class TimeView:
    """All arms after `seconds` of forward, backward and optimizer; evaluation and data are not counted.

    Attributes:
        moment: Why this moment, in words.
        seconds: Since the first step, by each arm's own seconds a step.
        rows: In the order of the recipe.
        differences: Paired by seed.
    """

    moment: str
    seconds: float
    rows: tuple[TimeRow, ...]
    differences: tuple[Difference, ...]


def time_views(runs: Sequence[Outcome], table: Sequence[Row], train: TrainTable) -> list[TimeView]:
    """The two moments at which a comparison by time says something.

    The first is the end of the fastest arm's constant phase: no learning rate has begun to fall, so no arm is seen in
    the middle of its schedule. The second is the end of the fastest arm's run. Slower arms have not cooled down by
    then, which costs them loss that a run planned for that time would not have lost: it bounds them from above.
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
    """Validation loss at `step`, linear between evaluations; None before the first, and for a run that diverged.

    After the last it is the last: `step` is a quotient of times, which may be a rounding error too large.
    """
    points = [(s, loss) for s, loss, _ in run.val if run.diverged is None]
    if not points or step < points[0][0]:
        return None
    for (left, before), (right, after) in itertools.pairwise(points):
        if left <= step < right:
            return before + (after - before) * (step - left) / (right - left)
    return points[-1][1]
