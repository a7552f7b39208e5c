"""Progress of a stage of the tournament: the runs that the rules plan, and the runs that have ended."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studies.tournament.arms import ARMS
from studies.tournament.run import ALWAYS, FAR, Stage
from studies.tournament.runs import GRID_SEED, Run
from studies.tournament.statistics import best, grid

__all__ = ["Progress", "left", "progress"]


@dataclass(frozen=True)
class Progress:
    """Runs of a stage.

    Attributes:
        done: How many of the planned runs have ended.
        planned: How many the rules ask for. While grids are searched: at most, unless a grid widens.
        open_grids: The arms whose grid has not ended, or has its best rate at an edge.
    """

    done: int
    planned: int
    open_grids: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether all planned runs have ended."""
        return self.done == self.planned and not self.open_grids


def progress(stage: Stage, runs: Sequence[Run]) -> Progress:
    """What the rules of docs/tournament.md plan for a stage, given its runs so far."""
    ended = {(run.arm, run.lr, run.seed) for run in runs}
    if stage.fixed is not None:
        wanted = {(arm, stage.fixed, seed) for arm in stage.arms for seed in stage.seeds}
        return Progress(len(wanted & ended), len(wanted), ())
    searching = tuple(arm for arm in stage.arms if not searched(arm, runs))
    least = min((found.loss for arm in stage.arms if (found := best(runs, arm))), default=math.inf)
    done = planned = 0
    for arm in stage.arms:
        found, rates = best(runs, arm), set(ARMS[arm].rates) | set(grid(runs, arm))
        if arm in searching and found is not None and set(ARMS[arm].rates) <= set(grid(runs, arm)):
            rates.add(found.lr / 2 if found.lr == min(rates) else 2 * found.lr)
        far = arm not in searching and found is not None and not found.loss <= least + FAR
        seeds = [seed for seed in stage.seeds if seed < ALWAYS or not far]
        keys = {(arm, rate, GRID_SEED) for rate in rates}
        if found is not None and arm not in searching:
            keys |= {(arm, found.lr, seed) for seed in seeds}
        done += len(keys & ended)
        planned += len(rates) + len(seeds)
    return Progress(done, planned, searching)


def searched(arm: str, runs: Sequence[Run]) -> bool:
    """Whether the grid of an arm has all its rates and the best one inside."""
    found = best(runs, arm)
    return found is not None and found.inside and set(ARMS[arm].rates) <= set(grid(runs, arm))


def left(folder: Path, missing: int, *, recent: int = 12) -> float:
    """The hours until `missing` more runs have ended, at the pace of the last `recent` files; NaN if there are too few.

    Runs of one stage take nearly the same time, and how many processes share the work shows in the pace.
    """
    ends = sorted(path.stat().st_mtime for path in folder.glob("*-seed*.json"))[-recent:]
    if len(ends) < 3:
        return math.nan
    return missing * (ends[-1] - ends[0]) / (len(ends) - 1) / 3600
