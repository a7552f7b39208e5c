"""The search for a learning rate: every rate of an arm's grid trained once, the best of them, and a word of warning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matfn.train.jobs import Job, folder_name
from matfn.train.outcome import Outcome
from matfn.train.recipe import OptimizerTable, Recipe

__all__ = ["Search", "chosen", "grid", "warnings"]

FOLDER = "grid"


@dataclass(frozen=True)
class Search:
    """One arm's grid.

    Attributes:
        arm: Name of the optimizer.
        steps: Length of each trial.
        rates: What was tried, ascending.
        losses: Final validation loss of each; None for one that diverged.
        best: The rate of the lowest loss; the lowest rate, where all diverged.
    """

    arm: str
    steps: int
    rates: tuple[float, ...]
    losses: tuple[float | None, ...]
    best: float

    @property
    def warning(self) -> str:
        """What keeps the best from being known to be the best; empty where both its neighbours were tried."""
        if all(loss is None for loss in self.losses):
            return f"{self.arm} (all of them diverged)"
        if self.best not in (self.rates[0], self.rates[-1]):
            return ""
        where = "lowest" if self.best == self.rates[0] else "highest"
        return f"{self.arm} ({self.best:g} is the {where})"


def grid(recipe: Recipe, directory: Path) -> list[list[Job]]:
    """The trials of each arm that has a grid: shorter runs, if the recipe says so, with a seed of their own."""
    table = recipe.compare.grid
    shorter = replace(recipe, train=replace(recipe.train, steps=table.steps or recipe.train.steps))
    found = []
    for arm in recipe.arms:
        trials = [replace(arm, name=f"{arm.label} at {rate:g}", lr=rate, rates=()) for rate in arm.rates]
        places = [directory / FOLDER / folder_name(trial.label, table.seed) for trial in trials]
        found.append([Job(shorter, t, table.seed, place) for t, place in zip(trials, places, strict=True)])
    return found


def chosen(arm: OptimizerTable, steps: int, trials: Sequence[Outcome]) -> tuple[OptimizerTable, Search | None]:
    """The arm with the best of its rates, and the grid it comes from; the arm as it is where it has none."""
    if not trials:
        return arm, None
    losses = tuple(trial.final for trial in trials)
    values = [math.inf if loss is None else loss for loss in losses]
    best = arm.rates[values.index(min(values))]
    return replace(arm, lr=best, rates=()), Search(arm.label, steps, arm.rates, losses, best)


def warnings(searches: Sequence[Search]) -> str:
    """All of them in a sentence, to print beside the table; empty where there are none."""
    found = [search.warning for search in searches if search.warning]
    return f"At the edge of the grid, so that a better rate may lie outside: {', '.join(found)}." if found else ""
