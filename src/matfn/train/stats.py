"""Means, Student intervals and paired differences: what a handful of seeds can and cannot say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its 95 % Student interval; None for a single value, which has no interval."""

    mean: float
    half_width: float | None
    count: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0; False for a single value."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def negative(self) -> Interval:
        """The interval of the values with their signs changed."""
        return Interval(-self.mean, self.half_width, self.count)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half_width is None else f" ± {self.half_width:.4f}")


def interval(values: Sequence[float]) -> Interval:
    """The mean of independent values and its 95 % interval, t_{n-1} s / sqrt(n)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, len(values))
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, student(len(values) - 1) * spread, len(values))


@lru_cache
def student(freedom: int, level: float = 0.95) -> float:
    """The quantile t with P(|T| <= t) = level for `freedom` degrees of freedom, by bisection on the beta integral."""
    from mpmath import betainc

    def outside(t: float) -> float:
        return float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))

    low, high = 0.0, 1.0
    while outside(high) > 1 - level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) > 1 - level else (low, middle)
    return (low + high) / 2
