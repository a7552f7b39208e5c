"""Loss at equal time: every run cut at the time at which the fastest arm ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from studies.tournament.runs import GRID_SEED, Run
from studies.tournament.statistics import Interval, at, compared, curve, difference

__all__ = ["Timed", "cut", "equal_time"]


@dataclass(frozen=True)
class Timed:
    """An arm at the time at which the fastest arm ends.

    Attributes:
        arm: Its name.
        seconds: Of a step.
        end: Mean loss at the last step; infinite if all seeds diverged.
        step: The step that it has reached at that time.
        loss: Mean loss there, on the straight line between two validations.
        against: The loss there minus the loss of the older arm at the same time, paired by seed.
    """

    arm: str
    seconds: float
    end: float
    step: float
    loss: float
    against: Interval


def equal_time(runs: Sequence[Run], seconds: Mapping[str, float], older: str, *, comparisons: int) -> list[Timed]:
    """All arms with compared seeds, the fastest first. `seconds` are those of a step of each arm."""
    arms = [arm for arm in sorted(seconds, key=lambda arm: seconds[arm]) if compared(runs, arm)]
    if not arms:
        return []
    time = seconds[arms[0]] * max(run.val[-1][0] for arm in arms for run in compared(runs, arm))
    shorter = cut(runs, seconds, time)
    found = []
    for arm in arms:
        whole, short = curve(runs, arm), curve(shorter, arm)
        ends = (whole[-1][1], *short[-1]) if whole and short else (math.inf, math.nan, math.inf)
        against = difference(shorter, arm, older, comparisons=comparisons)
        found.append(Timed(arm, seconds[arm], *ends, against))
    return found


def cut(runs: Sequence[Run], seconds: Mapping[str, float], time: float) -> list[Run]:
    """The runs up to `time` seconds. Runs of a grid stay whole, because they choose the rate; so do runs that diverged.

    A run planned for that time would have let its rate fall to zero there, and would have lost less by being cut.
    """
    shorter = []
    for run in runs:
        if run.seed == GRID_SEED or math.isinf(run.loss):
            shorter.append(run)
            continue
        step = min(time / seconds[run.arm], run.val[-1][0])
        before = tuple(point for point in run.val if point[0] < step)
        shorter.append(replace(run, val=(*before, (step, at(run.val, step)))))
    return shorter
