"""Statistics of the tournament: the best rate of each arm, and differences paired by seed with their intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import mpmath

from studies.tournament.runs import GRID_SEED, Run, read

__all__ = [
    "Best",
    "Interval",
    "arms",
    "at",
    "best",
    "by_seed",
    "compared",
    "curve",
    "detectable",
    "difference",
    "diverged",
    "grid",
    "losses",
    "paired",
    "read",
    "student",
]


@dataclass(frozen=True)
class Best:
    """The rate of the least loss in a grid.

    Attributes:
        lr: The rate.
        loss: The loss there.
        inside: Whether the grid has a smaller and a larger rate.
    """

    lr: float
    loss: float
    inside: bool


@dataclass(frozen=True)
class Interval:
    """A mean difference and its interval of 95 %, or of more where it is corrected for several comparisons.

    Attributes:
        mean: Mean of the differences. Infinite if a run of one side diverged.
        low: Lower end; NaN with fewer than two pairs, and if a run diverged.
        high: Upper end, likewise.
        deviation: Standard deviation of the differences, likewise.
        pairs: Number of differences.
        comparisons: Number of comparisons that the interval is corrected for.
    """

    mean: float
    low: float
    high: float
    deviation: float
    pairs: int
    comparisons: int = 1

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0. An interval that is not known excludes nothing."""
        return self.low > 0 or self.high < 0

    @property
    def word(self) -> str:
        """What the interval says, in words."""
        if math.isinf(self.mean):
            return "diverged" if self.mean > 0 else "the other diverged"
        if not self.apart:
            return "not told apart"
        return "lower" if self.mean < 0 else "higher"


def arms(runs: Sequence[Run]) -> list[str]:
    """The names of the arms, sorted."""
    return sorted({run.arm for run in runs})


def grid(runs: Sequence[Run], arm: str) -> dict[float, float]:
    """The last loss of each rate that an arm was searched at, by rising rate."""
    found = {run.lr: run.loss for run in runs if run.arm == arm and run.seed == GRID_SEED}
    return dict(sorted(found.items()))


def best(runs: Sequence[Run], arm: str) -> Best | None:
    """The best rate of an arm's grid; None without a grid."""
    found = grid(runs, arm)
    if not found:
        return None
    lr = min(found, key=lambda rate: found[rate])
    return Best(lr, found[lr], min(found) < lr < max(found))


def compared(runs: Sequence[Run], arm: str) -> list[Run]:
    """The runs of an arm that take part in the comparison: its best rate, or the one rate of an arm without a grid.

    Raises:
        ValueError: An arm without a grid has runs at several rates.
    """
    taken, of = best(runs, arm), [run for run in runs if run.arm == arm and run.seed != GRID_SEED]
    if taken is not None:
        of = [run for run in of if run.lr == taken.lr]
    rates = sorted({run.lr for run in of})
    if len(rates) > 1:
        raise ValueError(f"compared: the arm {arm!r} has no grid but runs at the rates {rates}; keep the runs of one")
    return sorted(of, key=lambda run: run.seed)


def losses(runs: Sequence[Run], arm: str) -> dict[int, float]:
    """The primary number of each compared seed; infinite where the run diverged."""
    return {run.seed: run.loss for run in compared(runs, arm)}


def diverged(runs: Sequence[Run], *, searched: bool = False) -> list[Run]:
    """The runs that diverged, among the compared seeds or, `searched`, in the grids."""
    return [run for run in runs if math.isinf(run.loss) and (run.seed == GRID_SEED) == searched]


def curve(runs: Sequence[Run], arm: str) -> list[tuple[int, float]]:
    """(step, mean validation loss) over the compared seeds that did not diverge."""
    whole = [run.val for run in compared(runs, arm) if math.isfinite(run.loss)]
    if not whole:
        return []
    return [(points[0][0], statistics.fmean(loss for _, loss in points)) for points in zip(*whole, strict=True)]


def paired(a: Sequence[float], b: Sequence[float], *, comparisons: int = 1) -> Interval:
    """The mean of a - b with the interval of Student, at the level 1 - .05 / `comparisons` (Bonferroni).

    A run that diverged counts as infinite: the mean is infinite and the interval unknown. A pair in which both diverged
    is left out.

    Raises:
        ValueError: The sides have different lengths, or `comparisons` is less than 1.
    """
    if len(a) != len(b):
        raise ValueError(f"paired: wanted two sides of equal length, got {len(a)} and {len(b)} losses; match the seeds")
    if comparisons < 1:
        raise ValueError(f"paired: comparisons is at least 1, got {comparisons}")
    values = [x - y for x, y in zip(a, b, strict=True) if math.isfinite(x) or math.isfinite(y)]
    count = len(values)
    if count == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0, comparisons)
    if not all(map(math.isfinite, values)):
        lost = {value for value in values if math.isinf(value)}
        mean = lost.pop() if len(lost) == 1 else math.nan
        return Interval(mean, math.nan, math.nan, math.nan, count, comparisons)
    mean = statistics.fmean(values)
    if count == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1, comparisons)
    deviation = statistics.stdev(values)
    half = student(0.05 / comparisons, count - 1) * deviation / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, deviation, count, comparisons)


def difference(runs: Sequence[Run], arm: str, other: str, *, comparisons: int = 1) -> Interval:
    """The loss of `arm` minus the loss of `other`, paired on the seeds that both have."""
    return by_seed(losses(runs, arm), losses(runs, other), comparisons=comparisons)


def by_seed(a: Mapping[int, float], b: Mapping[int, float], *, comparisons: int = 1) -> Interval:
    """The mean of a - b, as by `paired`, over the seeds that both have."""
    seeds = sorted(a.keys() & b.keys())
    return paired([a[s] for s in seeds], [b[s] for s in seeds], comparisons=comparisons)


@cache
def student(outside: float, freedom: int) -> float:
    """The t beyond whose two sides lies the probability `outside`, for Student's distribution.

    scipy.stats.t.isf(outside / 2, freedom) is the same number; mpmath has no such function, so the tail, an incomplete
    beta function of freedom / (freedom + t^2), is inverted by bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        tail = mpmath.betainc(freedom / 2, 0.5, 0, middle, regularized=True)
        low, high = (middle, high) if tail < outside else (low, middle)
    return math.sqrt(freedom * (1 - low) / low)


def detectable(interval: Interval, *, power: float = 0.8) -> float:
    """The true difference that as many pairs with this deviation would tell from 0 with the probability `power`.

    The usual approximation, (t of the level + t of the power) deviation / sqrt(pairs). NaN if the deviation is unknown.
    """
    if math.isnan(interval.deviation):
        return math.nan
    freedom = interval.pairs - 1
    level = student(0.05 / interval.comparisons, freedom)
    return (level + student(2 * (1 - power), freedom)) * interval.deviation / math.sqrt(interval.pairs)


def at(points: Sequence[tuple[int, float]], step: float) -> float:
    """The loss at a step between two points of a validation curve, on the straight line between them.

    Raises:
        ValueError: The curve does not reach the step.
    """
    for (s0, y0), (s1, y1) in pairwise(points):
        if s0 <= step <= s1:
            return y0 + (y1 - y0) * (step - s0) / (s1 - s0)
    first, last = points[0][0], points[-1][0]
    raise ValueError(f"at: the curve has steps {first} to {last}, got {step:g}; ask for a step between them")
