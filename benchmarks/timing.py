"""Timing: works in turns, on a machine that others use too."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

Clock = Callable[[], float]
_SAMPLE = 2e-3  # seconds; a shorter work is called several times in a sample, for the clock is coarse


@dataclass(frozen=True)
class Pace:
    """How long is measured.

    Attributes:
        rounds: Samples of everything, at least 1; in each round everything takes its turn.
        bound: Quartile range by median above which a row is measured again.
        repeats: How often at most; 2, because a third time says more about the machine than about the code.
        limit: Seconds; what takes longer in one call is not called again, and its row says so.
        seconds: Of a whole part of the benchmark; rounds, repeats and contenders are left out to keep to it.
    """

    rounds: int = 9
    bound: float = 0.1
    repeats: int = 2
    limit: float = 60.0
    seconds: float = math.inf

    def __post_init__(self) -> None:
        """Refuse settings that measure nothing."""
        if self.rounds < 1 or self.repeats < 0 or not min(self.bound, self.limit, self.seconds) > 0:
            raise ValueError(f"rounds and bound must be positive, repeats not negative, got {self}: Pace(rounds=5)")


@dataclass(frozen=True)
class Timing:
    """The samples of one piece of work.

    Attributes:
        seconds: Of one call, a sample each.
        ratios: Seconds of the baseline by seconds of this, round by round: above 1 this is quicker.
        attempts: How often it was measured; the attempt that scatters least is the one kept, with its own ratios.
    """

    seconds: tuple[float, ...]
    ratios: tuple[float, ...]
    attempts: int = 1

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """Seconds of the quickest sample, which other work on the machine disturbs least."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Quartile range over median; 0 for a single sample."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def interleaved(
    works: Mapping[str, Callable[[], object]],
    baseline: str,
    pace: Pace,
    *,
    clock: Clock = time.perf_counter,
    prepare: Callable[[str], object] | None = None,
) -> dict[str, Timing]:
    """Time everything in turns.

    A machine that slows down slows all of a round, so ratios within it stay; each round starts with another one, so
    that none always follows the same one through the cache. Everything has been called once before (the caller warms
    up, and looks at the result then); the first call here decides how many make a sample.

    Args:
        works: What to call, by name.
        baseline: The name whose time the ratios are taken to.
        pace: How long.
        clock: Seconds.
        prepare: Called with the name before each call, outside the time; with it a sample is one call.

    Returns:
        In the order of `works`. What took longer than `pace.limit` has that one sample.
    """
    watch = _Stopwatch(works, clock, prepare)
    first = {name: watch.sample(name, 1) for name in works}
    quick = [name for name, seconds in first.items() if seconds <= pace.limit]
    measure = partial(_rounds, watch, first, baseline, pace.rounds)
    timings = {name: Timing((seconds,), (first[baseline] / seconds,)) for name, seconds in first.items()}
    return {**timings, **(_calmed(measure, quick, baseline, pace) if quick else {})}


@dataclass(frozen=True)
class _Stopwatch:
    """What takes samples of works by name: the preparation of each is outside the time."""

    works: Mapping[str, Callable[[], object]]
    clock: Clock
    prepare: Callable[[str], object] | None

    def sample(self, name: str, calls: int) -> float:
        """Seconds of one call, the mean over some in a row."""
        if self.prepare is not None:
            self.prepare(name)
        start = self.clock()
        for _ in range(calls):
            self.works[name]()
        return (self.clock() - start) / calls

    def calls(self, seconds: float) -> int:
        """How many calls of that long make a sample: one after each preparation."""
        return 1 if self.prepare is not None else min(1000, math.ceil(_SAMPLE / max(seconds, 1e-9)))


def _rounds(
    watch: _Stopwatch, first: Mapping[str, float], baseline: str, rounds: int, names: list[str]
) -> dict[str, Timing]:
    """Samples in turns, each round starting with another name; `first` says how long a call of each takes."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(watch.sample(name, watch.calls(first[name])))
    base = found.get(baseline, [first[baseline]] * rounds)
    return {name: Timing(tuple(ts), _ratios(base, ts)) for name, ts in found.items()}


def _calmed(
    measure: Callable[[list[str]], dict[str, Timing]], names: list[str], baseline: str, pace: Pace
) -> dict[str, Timing]:
    """Time all works once, and works that scatter again, each beside the baseline."""
    timings = measure(names)
    for name in names:
        for attempt in range(2, 2 + pace.repeats):
            if timings[name].spread <= pace.bound:
                break
            pair = [name] if name == baseline or baseline not in names else [baseline, name]
            again = measure(pair)[name]
            best = min(timings[name], again, key=lambda timing: timing.spread)
            timings[name] = Timing(best.seconds, best.ratios, attempt)
    return timings


def _ratios(base: list[float], seconds: list[float]) -> tuple[float, ...]:
    return tuple(b / s for b, s in zip(base, seconds, strict=True))
