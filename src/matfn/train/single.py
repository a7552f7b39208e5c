"""`matfn train`: one run with its progress bar, a checkpoint at Ctrl-C, and where to go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from matfn.train import checkpoint, optimizers
from matfn.train import recipe as recipes
from matfn.train.chosen import choice_of
from matfn.train.errors import TrainError
from matfn.train.loop import CHECKPOINT, Trainer, pick_device
from matfn.train.outcome import outcome
from matfn.train.progress import Interrupt, Progressing
from matfn.train.provenance import conditions
from matfn.train.recipe import Recipe
from matfn.train.task import Task

RECIPE = "recipe.toml"


def recorded(folder: Path) -> Recipe:
    """The recipe of a run that wrote a checkpoint, whose `[optimizer]` is the arm it was started with.

    Raises:
        TrainError: The folder holds no run to go on with.
    """
    if not (folder / CHECKPOINT).exists():
        raise TrainError(f"{folder} holds no {CHECKPOINT}; give the folder of a run that wrote one")
    return recipes.load(folder / RECIPE)


def run(recipe: Recipe, folder: Path, console: Console, *, arm: str | None = None) -> dict[str, Any]:
    """Train from step 0, or from the checkpoint in `folder`; the final checkpoint stays there.

    Args:
        recipe: Model, data, loop and optimizers.
        folder: Where metrics, checkpoint and recipe go.
        console: Where progress is shown.
        arm: Which optimizer, see `Recipe.arm`.

    Returns:
        The last validation loss, timings, text and conditions, as plain values.

    Raises:
        TrainError: The folder holds another run, the optimizer cannot be made, the loss diverged, or Ctrl-C was pressed
            (after writing a checkpoint).
    """
    table = recipe.arm(arm)
    chosen = replace(recipe, optimizer=table, arms=())
    _refuse_other_runs(folder, chosen)
    optimizers.check(table, recipe.place(table), pick_device(recipe.train.device))
    # The trainer makes the folder, when all that can be wrong with a recipe has been found.
    trainer = Trainer(chosen, chosen.arm(None), Task(chosen), seed=chosen.train.seed, directory=folder)
    checkpoint.replace_text(folder / RECIPE, recipes.text(chosen))
    with Progressing(console, chosen.train.steps) as watcher, Interrupt() as ctrl_c:
        trainer.advance(chosen.train.steps, watcher, stop=lambda: ctrl_c.wanted)
    trainer.save()
    if trainer.step < chosen.train.steps:
        raise TrainError(f"stopped after step {trainer.step}; go on with: matfn train --resume {folder}")
    return _summary(trainer, console)


def _refuse_other_runs(folder: Path, recipe: Recipe) -> None:
    resuming = (folder / CHECKPOINT).exists()
    if not resuming and (folder / RECIPE).exists():
        raise TrainError(f"{folder} holds another run: choose another --out, or remove that folder")
    if resuming and recorded(folder) != recipe:
        raise TrainError(
            f"{folder} holds a run by another recipe: choose another --out, or go on with --resume {folder}"
        )


def _summary(trainer: Trainer, console: Console) -> dict[str, Any]:
    table, unit = trainer.table, trainer.task.unit
    result = outcome(trainer.history, arm=table.label, seed=trainer.seed, lr=table.lr)
    rate = trainer.tokens_per_step / result.step_seconds
    console.print(
        f"{table.label}: validation loss {result.final:.4f} nats/{unit} after {trainer.step} steps, "
        f"{result.step_seconds * 1e3:.1f} ms a step ({result.optimizer_share:.0%} optimizer), "
        f"{rate / 1e3:,.1f}k {unit}s/s",
        highlight=False,
    )
    choice = choice_of(table, trainer.optimizers.members, trainer.device)
    if choice is not None:
        console.print(str(choice), highlight=False, soft_wrap=True)
    console.print(f"run  {trainer.directory}", highlight=False, soft_wrap=True)
    return {
        "arm": table.label,
        "val_loss": result.final,
        "step_seconds": result.step_seconds,
        "optimizer_share": result.optimizer_share,
        "folder": str(trainer.directory),
        "data": trainer.task.facts,
        "conditions": conditions(trainer.device),
        "precision": choice.precision if choice is not None else None,
    }
