"""Restarts: after which steps the Gram engine must rebuild, from a scalar model of its rounding errors."""

from functools import lru_cache
from itertools import combinations

import numpy as np
import torch

from ..method import Iteration
from ..schedule import Schedule

__all__ = ["amplification", "best_restarts", "restarts_for"]

# Rounding errors of M and Q reach X multiplied by the amplification; half of them may be lost, not more than 5 %.
_TOLERATED = 0.05


def restarts_for(method: Iteration, dtype: torch.dtype) -> tuple[int, ...]:
    """The fewest restarts that keep (amplification) x (unit roundoff of `dtype`) below 5 %.

    Args:
        method: An iteration for p = 2; without a schedule there is nothing to simulate, and every second step restarts.
        dtype: The dtype the Gram matrix is kept in.
    """
    if not isinstance(method, Schedule):
        return tuple(range(2, method.steps, 2))
    return _cached(method, torch.finfo(dtype).eps / 2)


@lru_cache(maxsize=256)
def _cached(schedule: Schedule, unit_roundoff: float) -> tuple[int, ...]:
    for count in range(schedule.steps):
        restarts, worst = best_restarts(schedule, count, unit_roundoff)
        if worst * unit_roundoff <= _TOLERATED:
            return restarts
    return tuple(range(1, schedule.steps))


def best_restarts(schedule: Schedule, count: int, delta: float) -> tuple[tuple[int, ...], float]:
    """The positions of `count` restarts with the least amplification, and that amplification.

    Args:
        schedule: A schedule for p = 2.
        count: How many restarts, from 0 to steps - 1.
        delta: By how much rounding lowers the eigenvalues of the Gram matrix, relative to the largest (> 0).

    References:
        Polar Express specification 3.3 (the chooser of Gram Newton-Schulz, with delta = 4e-4).
    """
    positions = combinations(range(1, schedule.steps), count)
    return min(((r, amplification(schedule, r, delta)) for r in positions), key=lambda pair: pair[1])


def amplification(schedule: Schedule, restarts: tuple[int, ...], delta: float) -> float:
    """The worst max|Q| / min|Q| over the steps, for singular values 1 .. 1e-10 whose squares lost `delta` to rounding.

    Negative eigenvalues grow without bound under any polynomial made for positive ones, so a missing restart shows as a
    huge or infinite number.
    """
    x = np.logspace(0, -10, 1001)
    m, Q, worst = x**2 - delta, np.ones_like(x), 1.0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for k, row in enumerate(schedule.rows):
            if k in restarts:
                x = x * Q
                m, Q = x**2 - delta, np.ones_like(x)
            z = row(m)
            m, Q = m * z**2, Q * z
            ratio = np.abs(Q).max() / np.abs(Q).min()
            worst = max(worst, float(ratio) if np.isfinite(ratio) else float("inf"))
    return worst
