"""Several optimizers on the same data, weights and batches: search rates, train in turns, sum up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from matfn.train import TrainError, checkpoint, optimizers
from matfn.train import recipe as recipes
from matfn.train.data import Corpus, load_corpus
from matfn.train.loop import CHECKPOINT, METRICS, Diverged, Trainer, Watcher, pick_device
from matfn.train.model import make_model
from matfn.train.outcome import Difference, Outcome, Row, TimeView, differences, outcome, resolution, rows, time_views
from matfn.train.provenance import Choice, choice_of, conditions
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.settings import plain

RECIPE = "recipe.toml"
GRID_FOLDER = "grid"
TURN = 10  # steps in a turn: so few that a busy spell of the machine slows every arm


class Stopped(Exception):
    """Ctrl-C. Every unfinished run has a checkpoint."""


@dataclass(frozen=True)
class Comparison:
    """The content of a report."""

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
        """The name of an arm in the table: its label, with the precision if it is not the optimizer's own."""
        return next((choice.name for choice in self.choices if choice.arm == arm), arm)

    def table(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "recipe": plain(self.recipe)}


def run(recipe: Recipe, directory: Path, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> Comparison:
    """Train every arm with every seed in `directory`, or continue an interrupted comparison there.

    Args:
        recipe: At least two arms.
        directory: Holds a folder for each run and, at the end, `result.json`.
        watcher: Sees every step.
        stop: Asked between steps; if it returns true, the unfinished runs write checkpoints.

    Raises:
        TrainError: There are fewer than two arms, an arm is wrong, or the folder belongs to another recipe.
        Stopped: `stop` returned true.
    """
    if len(recipe.arms) < 2:
        raise TrainError(f"there is nothing to compare: the recipe has {len(recipe.arms)} [[arms]], add at least two")
    if (directory / RECIPE).exists() and (directory / RECIPE).read_text(encoding="utf-8") != recipes.text(recipe):
        raise TrainError(f"{directory} holds a comparison by another recipe: choose another folder with --out")
    for arm in recipe.arms:
        optimizers.check(arm, recipe.place(arm), pick_device(recipe.train.device))
    trials, corpus = trials_of(recipe, directory), load_corpus(recipe.data)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_text(directory / RECIPE, recipes.text(recipe))
    arms, searches, runs = [], [], []
    for arm, tried in zip(recipe.arms, trials, strict=True):
        steps = recipe.compare.grid.steps or recipe.train.steps
        best, found = best_rate(arm, steps, train_in_turns(tried, corpus, watcher, stop))
        arms.append(best)
        searches += [found] if found else []
    for together in _rounds(recipe, arms, directory):
        runs += train_in_turns(together, corpus, watcher, stop)
    comparison = _summarize(recipe, corpus, runs, searches)
    checkpoint.replace_text(directory / "result.json", json.dumps(comparison.table(), indent=1, ensure_ascii=False))
    return comparison


def remaining(recipe: Recipe, directory: Path) -> tuple[int, int]:
    """The number of unfinished runs of the comparison in `directory`, and the number of their steps."""
    planned = [*trials_of(recipe, directory), *_rounds(recipe, recipe.arms, directory)]
    left = [job for together in planned for job in together if not job.over]
    return len(left), sum(job.recipe.train.steps for job in left)


def _rounds(recipe: Recipe, arms: Sequence[OptimizerTable], directory: Path) -> list[list[Job]]:
    """The runs of all seeds; those of one list take turns."""
    found = []
    for seed in recipe.compare.seeds:
        ones = [Job(recipe, arm, seed, directory / folder_name(arm.label, seed)) for arm in arms]
        found += [[one] for one in ones] if recipe.compare.order == "sequential" else [ones]
    return found


def _summarize(recipe: Recipe, corpus: Corpus, runs: list[Outcome], searches: Sequence[Search]) -> Comparison:
    table = rows(runs)
    unlike = optimizers.unlike(recipe, corpus.vocabulary)
    told = (resolution(runs, recipe.train.steps), unlike, edge_warnings(searches))
    device = pick_device(recipe.train.device)
    return Comparison(
        recipe=recipe,
        data=corpus.facts,
        unit=corpus.unit,
        runs=tuple(runs),
        rows=tuple(table),
        differences=tuple(differences(runs)),
        searches=tuple(searches),
        equal_time=tuple(time_views(runs, table, recipe.train)),
        note=" ".join(filter(None, told)),
        conditions=conditions(device),
        choices=tuple(_choices(recipe, corpus, device)),
    )


def _choices(recipe: Recipe, corpus: Corpus, device: torch.device) -> Iterator[Choice]:
    """The precision of each arm for the model's matrices on this machine."""
    context, seed = recipe.data.context, recipe.compare.seeds[0]
    model = make_model(recipe.model, corpus.vocabulary, context=context, seed=seed).to(device)
    for arm in recipe.arms:
        choice = choice_of(arm, optimizers.make_optimizers(arm, model, recipe.train).members, device)
        if choice is not None:
            yield choice


@dataclass(frozen=True)
class Job:
    """One run and the folder of its log."""

    recipe: Recipe
    arm: OptimizerTable
    seed: int
    folder: Path

    @property
    def over(self) -> bool:
        """Whether the log ends with the last evaluation or with a divergence."""
        lines = checkpoint.read_metrics(self.folder / METRICS)
        if not lines:
            return False
        return "diverged" in lines[-1] or (lines[-1]["step"] == self.recipe.train.steps and "val_loss" in lines[-1])

    def outcome(self) -> Outcome:
        """The summary of the log."""
        lines = checkpoint.read_metrics(self.folder / METRICS)
        return outcome(lines, arm=self.arm.label, seed=self.seed, lr=self.arm.lr)


def folder_name(label: str, seed: int) -> str:
    """The name of a run's folder: its label in letters, digits and dashes, and the seed."""
    safe = "".join(c if c.isalnum() else "-" for c in label.lower())
    return f"{safe}-seed{seed}"


def train_in_turns(jobs: Sequence[Job], corpus: Corpus, watcher: Watcher, stop: Callable[[], bool]) -> list[Outcome]:
    """Train the unfinished jobs in turns, with all their models in memory; when one diverges the others continue.

    Raises:
        Stopped: `stop` returned true; every unfinished job has a checkpoint.
    """
    active = live = [
        (job, Trainer(job.recipe, job.arm, corpus, seed=job.seed, directory=job.folder)) for job in jobs if not job.over
    ]
    while active:
        for _, trainer in active:
            try:
                trainer.advance(trainer.step + TURN, watcher, stop=stop)
            except Diverged:
                continue  # the log records it, and the table will show it
        if stop():
            for _, trainer in active:
                trainer.save()
            raise Stopped
        active = [(job, trainer) for job, trainer in active if not job.over]
    for job, trainer in live:
        trainer.metrics.close()
        (job.folder / CHECKPOINT).unlink(missing_ok=True)  # only an interrupted run needs it
    return [job.outcome() for job in jobs]


@dataclass(frozen=True)
class Search:
    """The learning rates of one arm, ascending, and the final validation loss of each trial: None if it diverged.

    `best` is the rate of the lowest loss, or the lowest rate if every trial diverged.
    """

    arm: str
    steps: int
    rates: tuple[float, ...]
    losses: tuple[float | None, ...]
    best: float

    @property
    def warning(self) -> str:
        """The reason why a better rate may lie outside the grid; empty if the best is inside."""
        if all(loss is None for loss in self.losses):
            return f"{self.arm} (all of them diverged)"
        if self.best not in (self.rates[0], self.rates[-1]):
            return ""
        where = "lowest" if self.best == self.rates[0] else "highest"
        return f"{self.arm} ({self.best:g} is the {where})"


def trials_of(recipe: Recipe, directory: Path) -> list[list[Job]]:
    """The trials of each arm: one run for each of its `rates`, with the steps and the seed of `[compare.grid]`."""
    table = recipe.compare.grid
    shorter = replace(recipe, train=replace(recipe.train, steps=table.steps or recipe.train.steps))
    found = []
    for arm in recipe.arms:
        trials = [replace(arm, name=f"{arm.label} at {rate:g}", lr=rate, rates=()) for rate in arm.rates]
        places = [directory / GRID_FOLDER / folder_name(trial.label, table.seed) for trial in trials]
        found.append([Job(shorter, t, table.seed, place) for t, place in zip(trials, places, strict=True)])
    return found


def best_rate(arm: OptimizerTable, steps: int, trials: Sequence[Outcome]) -> tuple[OptimizerTable, Search | None]:
    """The arm with the best of its rates, and its grid; without trials the arm as it is, and None."""
    if not trials:
        return arm, None
    losses = tuple(trial.final for trial in trials)
    values = [math.inf if loss is None else loss for loss in losses]
    best = arm.rates[values.index(min(values))]
    return replace(arm, lr=best, rates=()), Search(arm.label, steps, arm.rates, losses, best)


def edge_warnings(searches: Sequence[Search]) -> str:
    """The warnings of all grids in one sentence; empty if there are none."""
    found = [search.warning for search in searches if search.warning]
    return f"At the edge of the grid, so that a better rate may lie outside: {', '.join(found)}." if found else ""
