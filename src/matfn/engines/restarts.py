"""Restarts: the steps after which the Gram engine starts again, from a scalar model of its rounding errors."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
import torch

from ..iteration.protocols import Iteration
from ..iteration.schedule import Schedule
from ..linalg.constant import constant

__all__ = ["amplification", "best_restarts", "fewest_restarts", "margins", "restarts_for"]

# Rounding errors of M and Q reach X multiplied by the amplification; they may reach 5 % of the result.
_TOLERATED = 0.05


def restarts_for(method: Iteration, dtype: torch.dtype) -> tuple[int, ...]:
    """Return the fewest restarts that keep (amplification) x (unit roundoff of `dtype`) below 5 %.

    A method without a schedule cannot be simulated; it restarts after every second step.
    """
    if not isinstance(method, Schedule):
        return tuple(range(2, method.steps, 2))
    return fewest_restarts(method, torch.finfo(dtype).eps / 2, _TOLERATED)


@lru_cache(maxsize=256)
def fewest_restarts(schedule: Schedule, unit_roundoff: float, tolerated: float) -> tuple[int, ...]:
    """Return the fewest restarts, at the best places, with (amplification) x (unit roundoff) <= `tolerated`.

    The unit roundoff is that of the dtype of the Gram matrix. If no places reach `tolerated`, every step restarts.
    """
    for restarts, worst in _best_of_each_count(schedule, unit_roundoff):
        if worst * unit_roundoff <= tolerated:
            return restarts
    return tuple(range(1, schedule.steps))


def best_restarts(schedule: Schedule, count: int, delta: float) -> tuple[tuple[int, ...], float]:
    """Return the positions of `count` restarts, below `steps`, with the least amplification, and this amplification.

    `schedule` is for p = 2; `delta` > 0 is the rounding error of the eigenvalues of the Gram matrix, relative to the
    largest.

    References:
        The restart chooser of the package gram-newton-schulz, which takes delta = 4e-4.
    """
    if not 0 <= count < schedule.steps:
        raise ValueError(f"{schedule.steps} steps have room for 0 to {schedule.steps - 1} restarts, got count={count}")
    return next(islice(_best_of_each_count(schedule, delta), count, None))


def amplification(schedule: Schedule, restarts: tuple[int, ...], delta: float) -> float:
    """Return the worst max|Q| / min|Q| over the steps, for singular values 1 .. 1e-10 whose squares lost `delta`.

    A polynomial made for positive eigenvalues lifts negative ones without bound, so a missing restart gives a huge or
    infinite number.
    """
    x, worst = schedule.upper * _singular_values(), 1.0
    for start, end in pairwise((0, *sorted(restarts), schedule.steps)):
        ratios, images = zip(*_run(schedule, start, end, x, delta), strict=True)
        x, worst = images[-1], max(worst, *ratios)
    return worst


def margins(method: Iteration, restarts: tuple[int, ...], dtype: torch.dtype) -> tuple[float, ...]:
    """For each restart, the factor by which rounding may lift a singular value: 1 + (unit roundoff) max|Q|.

    The rounding error of Q is relative to its largest entry, and reaches the largest singular values of X. Above the
    interval of the next step a minimax step diverges, so the restart divides X by the margin, at the price of a little
    of the lower end. In bfloat16 the margin is 1.12 for two quintic steps, in float32 it is 1 to six digits.

    All margins are 1 for a method without a schedule, which looks at M itself, and for partial fractions, which map
    everything above the interval into it.
    """
    if not isinstance(method, Schedule) or method.rational:
        return (1.0,) * len(restarts)
    return _margins(method, restarts, torch.finfo(dtype).eps / 2)


@constant
def _margins(schedule: Schedule, restarts: tuple[int, ...], unit_roundoff: float) -> tuple[float, ...]:
    x, found = schedule.upper * _singular_values(), []
    for start, end in pairwise((0, *sorted(restarts))):
        before = x
        *_, (_, x) = _run(schedule, start, end, x, 0.0)
        found.append(1 + unit_roundoff * float(np.abs(x / before).max()))
    return tuple(found)


def _best_of_each_count(schedule: Schedule, delta: float) -> Iterator[tuple[tuple[int, ...], float]]:
    """Find the best positions of 0, 1, 2, ... restarts in steps^3 / 6 simulated steps; all subsets would take 2^steps.

    Keeps only the best way to each place of the last restart. This is exact for one restart; beyond, it neglects that
    the singular values at a restart depend a little on the earlier restarts.
    """
    ways = {0: (1.0, (), schedule.upper * _singular_values())}
    for _ in range(schedule.steps):
        longer: dict[int, tuple[float, tuple[int, ...], np.ndarray]] = {}
        for start, (worst, restarts, x) in ways.items():
            for end, (ratio, image) in enumerate(_run(schedule, start, schedule.steps, x, delta), start + 1):
                worst = max(worst, ratio)
                if end not in longer or worst < longer[end][0]:
                    longer[end] = (worst, (*restarts, end), image)
        worst, restarts, _ = longer.pop(schedule.steps)
        yield restarts[:-1], worst
        ways = longer


def _run(schedule: Schedule, start: int, end: int, x: np.ndarray, delta: float) -> Iterator[tuple[float, np.ndarray]]:
    """Simulate steps from a restart at `start`: yield max|Q| / min|Q| and the x of a restart after each step."""
    Q = np.ones_like(x)
    with np.errstate(over="ignore", invalid="ignore"):
        m = x**2 - delta
    for row in schedule.rows[start:end]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            z = row(m)
            m, Q = m * z**2, Q * z
            ratio, image = float(np.abs(Q).max() / np.abs(Q).min()), x * Q
        yield (ratio if np.isfinite(ratio) else float("inf")), image


def _singular_values() -> np.ndarray:
    # A thousand points would miss the sharp extremes of |Q| by 2 %.
    return np.logspace(0, -10, 10001)
