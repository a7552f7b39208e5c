"""Rivals of the budget benchmark: every method that iterates by products, at a budget of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from matfn import NewtonSchulz, PolarExpress, Prism, RitzMinimax, Tuned

__all__ = ["BUDGETS", "OTHERS", "OURS", "RIVALS", "TOLD", "rival"]

BUDGETS = (2, 3, 4, 5, 6)
OURS, TOLD = "RitzMinimax", "Polar Express, told"
OTHERS = ("Polar Express", "PRISM-5", "Jordan")  # what the targets are set against
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
    """A method at a budget, or None where it has no form of that length.

    Args:
        name: A key of `RIVALS`.
        steps: One of `BUDGETS`.
        least: The least singular value over the Frobenius norm, which one of them is told. Smaller ones than the
            roundoff of float32 are no better known, and lifting them shows rounding errors alone.
    """
    floor = 2 * torch.finfo(torch.float32).eps
    return RIVALS[name](steps, min(max(least, floor), 0.99))
