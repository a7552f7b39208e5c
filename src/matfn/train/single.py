"""`matfn train`: one run with a progress bar, and a checkpoint at Ctrl-C."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from matfn.train import TrainError, checkpoint, optimizers
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import CHECKPOINT, Trainer, pick_device
from matfn.train.outcome import outcome
from matfn.train.progress import Progressing, interrupt
from matfn.train.provenance import choice_of, conditions
from matfn.train.recipe import Recipe

RECIPE = "recipe.toml"


def recorded(folder: Path) -> Recipe:
    """The recipe of a run that wrote a checkpoint; its `[optimizer]` is the arm that was trained.

    Raises:
        TrainError: The folder holds no checkpoint.
    """
    if not (folder / CHECKPOINT).exists():
        raise TrainError(f"{folder} holds no {CHECKPOINT}; give the folder of a run that wrote one")
    return recipes.load(folder / RECIPE)


def run(recipe: Recipe, folder: Path, console: Console, *, arm: str | None = None) -> dict[str, Any]:
    """Train one arm (`Recipe.arm`) from step 0, or from the checkpoint in `folder`; the last checkpoint stays there.

    Returns:
        The last validation loss, timings, text and conditions, as plain values.

    Raises:
        TrainError: The folder holds another run, the optimizer is wrong, the loss diverged, or Ctrl-C was pressed
            (a checkpoint has been written).
    """
    table = recipe.arm(arm)
    chosen = replace(recipe, optimizer=table, arms=())
    if not (folder / CHECKPOINT).exists():
        if (folder / RECIPE).exists():
            raise TrainError(f"{folder} holds another run: choose another --out, or remove that folder")
    elif recorded(folder) != chosen:
        raise TrainError(
            f"{folder} holds a run by another recipe: choose another --out, or go on with --resume {folder}"
        )
    optimizers.check(table, recipe.place(table), pick_device(recipe.train.device))
    # The trainer makes the folder, so a wrong recipe leaves none behind.
    trainer = Trainer(chosen, table, load_corpus(chosen.data), seed=chosen.train.seed, directory=folder)
    checkpoint.replace_text(folder / RECIPE, recipes.text(chosen))
    with Progressing(console, chosen.train.steps) as watcher, interrupt() as ctrl_c:
        trainer.advance(chosen.train.steps, watcher, stop=ctrl_c.is_set)
    trainer.save()
    if trainer.step < chosen.train.steps:
        raise TrainError(f"stopped after step {trainer.step}; go on with: matfn train --resume {folder}")
    return _summary(trainer, console)


def _summary(trainer: Trainer, console: Console) -> dict[str, Any]:
    table, unit = trainer.table, trainer.corpus.unit
    result = outcome(trainer.history, arm=table.label, seed=trainer.seed, lr=table.lr)
    loss = f"validation loss {result.final:.4f} nats/{unit} after {trainer.step} steps"
    time = f"{result.step_seconds * 1e3:.1f} ms a step ({result.optimizer_share:.0%} optimizer)"
    rate = f"{trainer.recipe.tokens_per_step / result.step_seconds / 1e3:,.1f}k {unit}s/s"
    console.print(f"{table.label}: {loss}, {time}, {rate}", highlight=False)
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
        "data": trainer.corpus.facts,
        "conditions": conditions(trainer.device),
        "precision": choice.precision if choice is not None else None,
    }
