"""Budget: divides the seconds of a benchmark among its cases, and leaves contenders out to keep to them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.timing import Pace

__all__ = ["LEAST_ROUNDS", "Budget"]

LEAST_ROUNDS = 3  # below that a median says no more than one call
_AROUND = 2  # calls beside the rounds: one to warm up, one by which `interleaved` sets the number of calls


class Budget:
    """Shares the time out, case by case, and foretells a contender's time from the cases before.

    A case gets what is left divided by the cases left, so that what small ones do not use goes to the large ones: put
    them in order of size. Within it the first contenders are the last to be left out; nobody is without a line that
    says why.

    Args:
        seconds: For all cases.
        cases: How many.
        limit: Seconds of one call beyond which a contender is not called at all, if that can be foretold.
        clock: Seconds.
    """

    def __init__(
        self, seconds: float, cases: int, limit: float = math.inf, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clock, self._limit, self._cases = clock, limit, cases
        self._end = clock() + seconds
        self._until = self._end
        self._seen: dict[tuple[str, str], tuple[float, float, str]] = {}
        self._promised = 0.0

    def open(self) -> None:
        """A case begins."""
        now = self._clock()
        self._until = now + max(0.0, self._end - now) / max(1, self._cases)
        self._cases -= 1
        self._promised = 0.0

    def refusal(self, name: str, dtype: str, volume: float, extra: int, first: int) -> str:
        """Why a contender is left out of this case, empty if it is not.

        Args:
            name: Of the contender.
            dtype: Its times in another one say nothing.
            volume: b n^2 m of a stack of b matrices, n the short side, m the long one: time grows with it.
            extra: Calls for its errors, before it is timed.
            first: How many have been admitted to the case; the first two, the baseline and the library's choice, are
                left out for a single call above the limit, or at the end of the whole run.
        """
        known = self._seen.get((name, dtype))
        if known is None:
            return ""
        seconds, before, case = known
        call = seconds * volume / before
        if call > self._limit:
            return f"left out: about {call:.3g} s a call, foretold from {case}, where at most {self._limit:g} s are due"
        if self._clock() + (_AROUND + extra) * call > self._end:
            return f"left out: the time of the run is used up (about {call:.3g} s a call, foretold from {case})"
        whole = (_AROUND + extra + LEAST_ROUNDS) * call
        if first >= 2 and self._clock() + self._promised + whole > self._until:
            return f"left out: the time of this case is used up (about {call:.3g} s a call, foretold from {case})"
        return ""

    def called(self, name: str, dtype: str, volume: float, case: str, seconds: float) -> None:
        """A contender was called once; its rounds are promised."""
        known = self._seen.get((name, dtype))
        if known is None or volume >= known[1]:
            self._seen[name, dtype] = seconds, volume, case
        self._promised += (LEAST_ROUNDS + 1) * seconds

    def pace(self, pace: Pace, seconds: Sequence[float]) -> Pace:
        """As many rounds as the rest of the case's time has room for, at least one, and repeats if they fit too.

        Args:
            pace: What is wanted.
            seconds: Of a call of each contender.
        """
        left = (self._until - self._clock()) / max(sum(seconds), 1e-9)
        room = int(min(left, 1e6)) - 1  # turns of everyone, beside the one by which `interleaved` counts
        rounds = min(pace.rounds, max(1, room))
        repeats = min(pace.repeats, max(0, room - rounds) // (2 * rounds))
        return replace(pace, rounds=rounds, repeats=repeats)
