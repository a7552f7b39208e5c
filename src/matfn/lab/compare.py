"""Several optimizers on the same text, weights and batches: run them, sum them up, write everything down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matfn.lab import checkpoint, optimizers
from matfn.lab import recipe as recipes
from matfn.lab.data import Corpus, load_corpus
from matfn.lab.errors import LabError
from matfn.lab.fairness import unlike
from matfn.lab.outcome import Difference, Outcome, Row, differences, outcome, resolution, rows
from matfn.lab.provenance import conditions
from matfn.lab.recipe import OptimizerTable, Recipe
from matfn.lab.train import CHECKPOINT, METRICS, Diverged, Trainer, Watcher, pick_device

RECIPE = "recipe.toml"
TURN = 10  # steps an arm makes before the next has its turn: short enough that a busy spell hits all of them


@dataclass(frozen=True)
class Comparison:
    """Everything a report says: the recipe, the text, each run, the table's rows, the paired differences."""

    recipe: Recipe
    text: dict[str, Any]
    unit: str
    runs: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    note: str
    conditions: dict[str, str]

    def table(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "recipe": recipes.to_table(self.recipe)}


class Stopped(Exception):
    """Ctrl-C: every run under way has been checkpointed."""


def run(recipe: Recipe, directory: Path, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> Comparison:
    """Train every arm with every seed in `directory`, going on where an interrupted comparison left off.

    Args:
        recipe: At least two arms.
        directory: Holds a folder per run and, afterwards, `result.json`.
        watcher: Sees every step.
        stop: Asked between steps; where it says yes, the runs under way are checkpointed.

    Raises:
        LabError: Fewer than two arms, an arm that cannot be made, or the folder belongs to another recipe.
        Stopped: `stop` said so.
    """
    if len(recipe.arms) < 2:
        raise LabError(f"there is nothing to compare: the recipe has {len(recipe.arms)} [[arms]], add at least two")
    _refuse_other_recipes(directory / RECIPE, recipe)
    for arm in recipe.arms:
        optimizers.check(arm, recipe.place(arm), pick_device(recipe.train.device))
    corpus, runs = load_corpus(recipe.data), []
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint.replace_text(directory / RECIPE, recipes.text(recipe))
    for seed in recipe.compare.seeds:
        arms = [[arm] for arm in recipe.arms] if recipe.compare.order == "sequential" else [list(recipe.arms)]
        for together in arms:
            runs += _together(recipe, together, corpus, seed=seed, directory=directory, watcher=watcher, stop=stop)
    comparison = summarize(recipe, corpus, runs)
    checkpoint.replace_text(directory / "result.json", json.dumps(comparison.table(), indent=1, ensure_ascii=False))
    return comparison


def _refuse_other_recipes(path: Path, recipe: Recipe) -> None:
    if path.exists() and path.read_text(encoding="utf-8") != recipes.text(recipe):
        raise LabError(f"{path.parent} holds a comparison by another recipe: choose another folder with --out")


def summarize(recipe: Recipe, corpus: Corpus, runs: list[Outcome]) -> Comparison:
    """Table, differences and notes of finished runs."""
    return Comparison(
        recipe=recipe,
        text=corpus.facts,
        unit=corpus.unit,
        runs=tuple(runs),
        rows=tuple(rows(runs)),
        differences=tuple(differences(runs)),
        note=" ".join(filter(None, (resolution(runs, recipe.train.steps), unlike(recipe, corpus.vocabulary)))),
        conditions=conditions(pick_device(recipe.train.device)),
    )


def run_folder(arm: OptimizerTable, seed: int) -> str:
    """The name of a run's folder: letters, digits and dashes of its label, and the seed."""
    safe = "".join(c if c.isalnum() else "-" for c in arm.label.lower())
    return f"{safe}-seed{seed}"


def unfinished(recipe: Recipe, directory: Path) -> int:
    """How many runs of the comparison in `directory` are still to be made or to be finished."""
    folders = (directory / run_folder(arm, seed) for arm in recipe.arms for seed in recipe.compare.seeds)
    return sum(not _over(folder, recipe.train.steps) for folder in folders)


def _together(
    recipe: Recipe,
    arms: list[OptimizerTable],
    corpus: Corpus,
    *,
    seed: int,
    directory: Path,
    watcher: Watcher,
    stop: Callable[[], bool],
) -> list[Outcome]:
    """Train the arms in turns of a few steps; a run that diverges is recorded and the others go on."""
    folders = {arm.label: directory / run_folder(arm, seed) for arm in arms}
    live = [
        Trainer(recipe, arm, corpus, seed=seed, directory=folders[arm.label])
        for arm in arms
        if not _over(folders[arm.label], recipe.train.steps)
    ]
    active = live
    while active:
        for trainer in active:
            try:
                trainer.advance(trainer.step + TURN, watcher, stop=stop)
            except Diverged:
                continue  # its log says so, and so will the table
        if stop():
            for trainer in active:
                trainer.save()
            raise Stopped
        active = [trainer for trainer in active if not _over(trainer.directory, recipe.train.steps)]
    for trainer in live:
        trainer.metrics.close()
        (trainer.directory / CHECKPOINT).unlink(missing_ok=True)  # only an interrupted run needs one
    logs = {label: checkpoint.read_metrics(folder / METRICS) for label, folder in folders.items()}
    return [outcome(logs[arm.label], arm=arm.label, seed=seed, lr=arm.lr) for arm in arms]


def _over(folder: Path, steps: int) -> bool:
    """Whether a run's log ends with its last evaluation, or with its loss."""
    lines = checkpoint.read_metrics(folder / METRICS)
    return bool(lines) and ("diverged" in lines[-1] or (lines[-1]["step"] == steps and "val_loss" in lines[-1]))
