"""Rivals of the budget benchmark: every method that iterates by products, and the best composition of quintics."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from matfn import NewtonSchulz, PolarExpress, Prism, RitzMinimax, Tuned
from matfn.iteration.schedule import Schedule

__all__ = ["BUDGETS", "OTHERS", "OURS", "RIVALS", "TOLD", "perfect", "rival"]

BUDGETS = (2, 3, 4, 5, 6)
OURS, TOLD = "RitzMinimax", "Polar Express, told"
OTHERS = ("Polar Express", "PRISM-5", "Jordan")  # the targets compare with these
_PUBLISHED = {5: "you", 6: "you6"}  # sets of a fixed length

Rival = Callable[[int, float], Any]

RIVALS: dict[str, Rival] = {
    "Newton-Schulz": lambda steps, least: NewtonSchulz(5, steps),
    "Jordan": lambda steps, least: Tuned("jordan", steps),
    "You": lambda steps, least: Tuned(_PUBLISHED[steps]) if steps in _PUBLISHED else None,
    "Polar Express": lambda steps, least: PolarExpress(steps=steps),
    TOLD: lambda steps, least: PolarExpress(steps=steps, lower=least),
    "PRISM-3": lambda steps, least: Prism(degree=3, steps=steps),
    "PRISM-5": lambda steps, least: Prism(degree=5, steps=steps),
    OURS: lambda steps, least: RitzMinimax(steps=steps),
}


def rival(name: str, steps: int, least: float = 1e-3) -> Any:
    """A method at a budget, or None if it has no form of that length.

    Args:
        name: A key of `RIVALS`.
        steps: One of `BUDGETS`.
        least: The least singular value over the Frobenius norm, for the method that is told it. Values below the
            roundoff of float32 are raised to it: lifting smaller ones shows rounding errors only.
    """
    floor = 2 * torch.finfo(torch.float32).eps
    return RIVALS[name](steps, min(max(least, floor), 0.99))


# Lower ends over the upper one, even in log(l / (1 - l)). Errors above 1e-3 are 1 % off at most.
_LOWER = 1 / (1 + np.exp(-np.linspace(-20.0, 6.0, 105)))


def perfect(spectrum: np.ndarray) -> list[float]:
    """The least rms(1 - s) after each budget over all lower ends of the first interval, in exact arithmetic.

    No composition of minimax quintics can do better, however well the spectrum is measured.

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
