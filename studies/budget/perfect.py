"""A perfect choice: what the best composition of minimax quintics could do for a spectrum that is known exactly."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from matfn import PolarExpress
from matfn.iteration.schedule import Schedule
from studies.budget.rivals import BUDGETS

__all__ = ["perfect"]

# Lower ends over the upper one, even in log(l / (1 - l)). Errors above 1e-3 are 1 % off at most.
_LOWER = 1 / (1 + np.exp(-np.linspace(-20.0, 6.0, 105)))


def perfect(spectrum: np.ndarray) -> list[float]:
    """The least rms(1 - s) after each budget over all lower ends of the first interval, in exact arithmetic.

    No measurement can do better with quintics that are minimax one by one: it bounds what is to be hoped for.

    Args:
        spectrum: Singular values without zeros, the greatest 1.
    """
    errors = np.array([[_rms(after) for after in schedule.trace(spectrum)] for schedule in _compositions()])
    return [float(f"{errors[:, steps - 1].min():.4g}") for steps in BUDGETS]


@lru_cache(maxsize=1)
def _compositions() -> tuple[Schedule, ...]:
    made = (PolarExpress(steps=max(BUDGETS), lower=float(lower), safety=1, cushion=0) for lower in _LOWER)
    return tuple(method.schedule() for method in made)


def _rms(s: np.ndarray) -> float:
    return float(np.sqrt(np.mean((1 - s) ** 2)))
