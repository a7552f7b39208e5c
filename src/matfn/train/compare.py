"""Several optimizers on the same data, weights and batches: search rates, train in turns, sum up, write down."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from matfn.train import checkpoint, optimizers
from matfn.train import recipe as recipes
from matfn.train.chosen import Choice, choice_of
from matfn.train.errors import TrainError
from matfn.train.loop import CHECKPOINT, METRICS, Diverged, Trainer, Watcher, pick_device
from matfn.train.outcome import Difference, Outcome, Row, TimeView, differences, outcome, resolution, rows, time_views
from matfn.train.provenance import conditions
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.task import Task

RECIPE = "recipe.toml"
GRID_FOLDER = "grid"
TURN = 10  # steps an arm makes before the next has its turn: short enough that a busy spell hits all of them


class Stopped(Exception):
    """Ctrl-C: every run under way has been checkpointed."""


@dataclass(frozen=True)
class Comparison:
    """Everything a report says: the recipe, the data, each run, the table's rows, the differences, the precisions."""

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
    choices: tuple[Choice, ...]

    def name(self, arm: str) -> str:
        """The name of an arm in the table: its label, with the precision where that is not the optimizer's own."""
        return next((choice.name for choice in self.choices if choice.arm == arm), arm)

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
    trials, task = trials_of(recipe, directory), Task(recipe)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_text(directory / RECIPE, recipes.text(recipe))
    arms, searches, runs = [], [], []
    for arm, tried in zip(recipe.arms, trials, strict=True):
        steps = recipe.compare.grid.steps or recipe.train.steps
        best, found = best_rate(arm, steps, train_in_turns(tried, task, watcher, stop))
        arms.append(best)
        searches += [found] if found else []
    for together in _rounds(recipe, arms, directory):
        runs += train_in_turns(together, task, watcher, stop)
    comparison = summarize(recipe, task, runs, searches)
    checkpoint.replace_text(directory / "result.json", json.dumps(comparison.table(), indent=1, ensure_ascii=False))
    return comparison


def _refuse_other_recipes(path: Path, recipe: Recipe) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != recipes.text(recipe):
        raise TrainError(f"{path.parent} holds a comparison by another recipe: choose another folder with --out")


def remaining(recipe: Recipe, directory: Path) -> tuple[int, int]:
    """How many runs of the comparison in `directory`, and steps of them, are still to be made or to be finished."""
    planned = [*trials_of(recipe, directory), *_rounds(recipe, recipe.arms, directory)]
    left = [job for together in planned for job in unfinished(together)]
    return len(left), sum(job.recipe.train.steps for job in left)


def _rounds(recipe: Recipe, arms: Sequence[OptimizerTable], directory: Path) -> list[list[Job]]:
    """The runs of the seeds, those together that take turns."""
    found = []
    for seed in recipe.compare.seeds:
        ones = [Job(recipe, arm, seed, directory / folder_name(arm.label, seed)) for arm in arms]
        found += [[one] for one in ones] if recipe.compare.order == "sequential" else [ones]
    return found


def summarize(recipe: Recipe, task: Task, runs: list[Outcome], searches: Sequence[Search] = ()) -> Comparison:
    """Table, differences and notes of finished runs, and the grids their rates come from."""
    table = rows(runs)
    told = (resolution(runs, recipe.train.steps), task.unlike(), edge_warnings(searches))
    device = pick_device(recipe.train.device)
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
        conditions=conditions(device),
        choices=tuple(_choices(recipe, task, device)),
    )


def _choices(recipe: Recipe, task: Task, device: torch.device) -> Iterator[Choice]:
    """What each arm chooses for the matrices of the model on this machine."""
    model = task.model(recipe.compare.seeds[0]).to(device)
    for arm in recipe.arms:
        choice = choice_of(arm, optimizers.make_optimizers(arm, model, recipe.train).members, device)
        if choice is not None:
            yield choice


@dataclass(frozen=True)
class Job:
    """One run: model, data and loop, the optimizer, the seed, and the folder that holds its log."""

    recipe: Recipe
    arm: OptimizerTable
    seed: int
    folder: Path

    @property
    def over(self) -> bool:
        """Whether the log ends with its last evaluation, or with a loss that is not finite."""
        lines = checkpoint.read_metrics(self.folder / METRICS)
        if not lines:
            return False
        return "diverged" in lines[-1] or (lines[-1]["step"] == self.recipe.train.steps and "val_loss" in lines[-1])

    def outcome(self) -> Outcome:
        """The summary of the log."""
        lines = checkpoint.read_metrics(self.folder / METRICS)
        return outcome(lines, arm=self.arm.label, seed=self.seed, lr=self.arm.lr)


def folder_name(label: str, seed: int) -> str:
    """The name of a run's folder: letters, digits and dashes of its label, and the seed."""
    safe = "".join(c if c.isalnum() else "-" for c in label.lower())
    return f"{safe}-seed{seed}"


def train_in_turns(jobs: Sequence[Job], task: Task, watcher: Watcher, stop: Callable[[], bool]) -> list[Outcome]:
    """Train the jobs in turns; one that diverges is recorded and the others go on. Jobs that are over are left alone.

    Args:
        jobs: With models small enough to live at the same time.
        task: What all of them learn.
        watcher: Sees every step.
        stop: Asked between steps.

    Raises:
        Stopped: `stop` said so; all jobs under way have been checkpointed.
    """
    live = [(job, Trainer(job.recipe, job.arm, task, seed=job.seed, directory=job.folder)) for job in unfinished(jobs)]
    active = live
    while active:
        for _, trainer in active:
            try:
                trainer.advance(trainer.step + TURN, watcher, stop=stop)
            except Diverged:
                continue  # its log says so, and so will the table
        if stop():
            for _, trainer in active:
                trainer.save()
            raise Stopped
        active = [(job, trainer) for job, trainer in active if not job.over]
    for job, trainer in live:
        trainer.metrics.close()
        (job.folder / CHECKPOINT).unlink(missing_ok=True)  # only an interrupted run needs one
    return [job.outcome() for job in jobs]


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that have not finished."""
    return [job for job in jobs if not job.over]


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
        """Why a better rate may lie outside the grid; empty if both neighbours of the best were tried."""
        if all(loss is None for loss in self.losses):
            return f"{self.arm} (all of them diverged)"
        if self.best not in (self.rates[0], self.rates[-1]):
            return ""
        where = "lowest" if self.best == self.rates[0] else "highest"
        return f"{self.arm} ({self.best:g} is the {where})"


def trials_of(recipe: Recipe, directory: Path) -> list[list[Job]]:
    """The trials of each arm that has a grid: shorter runs, if the recipe says so, with a seed of their own."""
    table = recipe.compare.grid
    shorter = replace(recipe, train=replace(recipe.train, steps=table.steps or recipe.train.steps))
    found = []
    for arm in recipe.arms:
        trials = [replace(arm, name=f"{arm.label} at {rate:g}", lr=rate, rates=()) for rate in arm.rates]
        places = [directory / GRID_FOLDER / folder_name(trial.label, table.seed) for trial in trials]
        found.append([Job(shorter, t, table.seed, place) for t, place in zip(trials, places, strict=True)])
    return found


def best_rate(arm: OptimizerTable, steps: int, trials: Sequence[Outcome]) -> tuple[OptimizerTable, Search | None]:
    """The arm with the best of its rates, and the grid it comes from; the arm as it is where it has none."""
    if not trials:
        return arm, None
    losses = tuple(trial.final for trial in trials)
    values = [math.inf if loss is None else loss for loss in losses]
    best = arm.rates[values.index(min(values))]
    return replace(arm, lr=best, rates=()), Search(arm.label, steps, arm.rates, losses, best)


def edge_warnings(searches: Sequence[Search]) -> str:
    """The warnings of all grids in one sentence, to print beside the table; empty if there are none."""
    found = [search.warning for search in searches if search.warning]
    return f"At the edge of the grid, so that a better rate may lie outside: {', '.join(found)}." if found else ""
