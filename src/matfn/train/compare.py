"""Several optimizers on the same data, weights and batches: run them, sum them up, write everything down."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matfn.train import checkpoint, jobs, optimizers, search
from matfn.train import recipe as recipes
from matfn.train.errors import TrainError
from matfn.train.jobs import Job, Stopped
from matfn.train.loop import Watcher, pick_device
from matfn.train.outcome import Difference, Outcome, Row, differences, resolution, rows
from matfn.train.provenance import conditions
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.search import Search
from matfn.train.task import Task, load_task
from matfn.train.views import TimeView, time_views

__all__ = ["Comparison", "Stopped", "remaining", "run", "summarize"]

RECIPE = "recipe.toml"


@dataclass(frozen=True)
class Comparison:
    """Everything a report says: the recipe, the data, each run, the table's rows, the paired differences."""

    recipe: Recipe
    data: dict[str, Any]
    unit: str
    runs: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    searches: tuple[Search, ...]
    equal_time: tuple[TimeView, ...]
    note: str
    conditions: dict[str, str]

    def table(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "recipe": recipes.to_table(self.recipe)}


def run(recipe: Recipe, directory: Path, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> Comparison:
    """Train every arm with every seed in `directory`, going on where an interrupted comparison left off.

    Args:
        recipe: At least two arms.
        directory: Holds a folder per run and, afterwards, `result.json`.
        watcher: Sees every step.
        stop: Asked between steps; where it says yes, the runs under way are checkpointed.

    Raises:
        TrainError: Fewer than two arms, an arm that cannot be made, or the folder belongs to another recipe.
        Stopped: `stop` said so.
    """
    if len(recipe.arms) < 2:
        raise TrainError(f"there is nothing to compare: the recipe has {len(recipe.arms)} [[arms]], add at least two")
    _refuse_other_recipes(directory / RECIPE, recipe)
    for arm in recipe.arms:
        optimizers.check(arm, recipe.place(arm), pick_device(recipe.train.device))
    trials, task = search.grid(recipe, directory), load_task(recipe)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_text(directory / RECIPE, recipes.text(recipe))
    arms, searches, runs = [], [], []
    for arm, tried in zip(recipe.arms, trials, strict=True):
        steps = recipe.compare.grid.steps or recipe.train.steps
        best, found = search.chosen(arm, steps, jobs.train(tried, task, watcher, stop))
        arms.append(best)
        searches += [found] if found else []
    for together in _rounds(recipe, arms, directory):
        runs += jobs.train(together, task, watcher, stop)
    comparison = summarize(recipe, task, runs, searches)
    checkpoint.replace_text(directory / "result.json", json.dumps(comparison.table(), indent=1, ensure_ascii=False))
    return comparison


def _refuse_other_recipes(path: Path, recipe: Recipe) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != recipes.text(recipe):
        raise TrainError(f"{path.parent} holds a comparison by another recipe: choose another folder with --out")


def remaining(recipe: Recipe, directory: Path) -> tuple[int, int]:
    """How many runs of the comparison in `directory`, and steps of them, are still to be made or to be finished."""
    planned = [*search.grid(recipe, directory), *_rounds(recipe, recipe.arms, directory)]
    left = [job for together in planned for job in jobs.unfinished(together)]
    return len(left), sum(job.recipe.train.steps for job in left)


def _rounds(recipe: Recipe, arms: Sequence[OptimizerTable], directory: Path) -> list[list[Job]]:
    """The runs of the seeds, those together that take turns."""
    found = []
    for seed in recipe.compare.seeds:
        ones = [Job(recipe, arm, seed, directory / jobs.folder_name(arm.label, seed)) for arm in arms]
        found += [[one] for one in ones] if recipe.compare.order == "sequential" else [ones]
    return found


def summarize(recipe: Recipe, task: Task, runs: list[Outcome], searches: Sequence[Search] = ()) -> Comparison:
    """Table, differences and notes of finished runs, and the grids their rates come from."""
    table = rows(runs)
    told = (resolution(runs, recipe.train.steps), task.unlike(), search.warnings(searches))
    return Comparison(
        recipe=recipe,
        data=task.facts,
        unit=task.unit,
        runs=tuple(runs),
        rows=tuple(table),
        differences=tuple(differences(runs)),
        searches=tuple(searches),
        equal_time=tuple(time_views(runs, table, recipe.train)),
        note=" ".join(filter(None, told)),
        conditions=conditions(pick_device(recipe.train.device)),
    )
