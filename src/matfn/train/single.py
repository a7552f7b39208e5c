"""`matfn train`: one run with a progress bar, and a checkpoint when a signal stops it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from matfn.train import Stopped, TrainError, about, optimizers, processes, sizes
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import CHECKPOINT, METRICS, Trainer, pick_device
from matfn.train.metrics import complete, read_metrics
from matfn.train.outcome import outcome
from matfn.train.progress import Progressing, everywhere, interrupt
from matfn.train.provenance import choice_of, conditions, found
from matfn.train.recipe import Recipe
from matfn.train.terminal import safe

RECIPE = "recipe.toml"


def recorded(folder: Path) -> Recipe:
    """The recipe of a run; its `[optimizer]` is the arm that was trained.

    Raises:
        TrainError: The folder holds no run, or a comparison.
    """
    if not (folder / RECIPE).exists():
        if (folder / CHECKPOINT).exists():
            raise TrainError(f"{folder} has a {CHECKPOINT} and no {RECIPE}: restore it, or start in another folder")
        raise TrainError(f"{folder} holds no {CHECKPOINT} and no {RECIPE}; give the folder of a run")
    recipe = recipes.recorded(folder / RECIPE)[0]
    if recipe.arms:
        raise TrainError(
            f"{folder} holds a comparison: go on with matfn compare --resume {folder}, or choose another --out"
        )
    return recipe


def run(recipe: Recipe, folder: Path, console: Console, *, arm: str | None = None) -> dict[str, Any]:
    """Train one arm (`Recipe.arm`) from step 0, or from the checkpoint in `folder`; the last checkpoint stays there.

    A run that was killed before its first checkpoint starts again at step 0.

    Returns:
        The last validation loss, timings, text and conditions, as plain values.

    Raises:
        TrainError: The folder holds another run, the optimizer is wrong, or the loss diverged.
        Stopped: A signal asked the run to stop; a checkpoint has been written.
    """
    table = recipe.arm(arm)
    chosen = replace(recipe, optimizer=table, arms=())
    processes.from_first(lambda: _prepare(folder, chosen, console))
    device = pick_device(recipe.train.device)
    found(device)  # a wrong MATFN_MACHINE is told before the run
    optimizers.check(table, recipe.place(table), device)
    corpus = load_corpus(chosen.data)
    sizes.check(chosen, [table], corpus)
    # The recipe is recorded after the trainer is made, so that a wrong one leaves no file behind.
    trainer = Trainer(chosen, table, corpus, seed=chosen.train.seed, directory=folder)
    if processes.first():
        recipes.record(folder / RECIPE, chosen, corpus.order)
        about.write(folder, trainer.model, [(table.label, trainer.optimizers.members)], device)
    with Progressing(console, chosen.train.steps) as watcher, interrupt() as signalled:
        trainer.advance(chosen.train.steps, watcher, stop=everywhere(signalled))
        trainer.save()
    trainer.metrics.close()
    if trainer.step < chosen.train.steps:
        command = processes.line(f"train --resume {folder}")
        stopped = Stopped(f"stopped after step {trainer.step}; go on with: {command}")
        stopped.status = 128 + signalled.number
        raise stopped
    return _summary(trainer, console)


def _prepare(folder: Path, recipe: Recipe, console: Console) -> None:
    """Check that a run in the folder is a run of this recipe, and keep its log if it has no checkpoint.

    Raises:
        TrainError: The folder holds another run.
    """
    if (folder / CHECKPOINT).exists() or (folder / RECIPE).exists():
        if not recorded(folder).same_curve(recipe):
            raise TrainError(
                f"{folder} holds a run by another recipe: choose another --out, or go on with --resume {folder}"
            )
        _keep_whole_log(folder, recipe, console)


def _keep_whole_log(folder: Path, recipe: Recipe, console: Console) -> None:
    """Before a run without a checkpoint starts again: say so, and keep a log that was finished, under another name."""
    if (folder / CHECKPOINT).exists():
        return
    console.print(f"{safe(str(folder))} has no checkpoint: the run starts at step 0", highlight=False, soft_wrap=True)
    with contextlib.suppress(TrainError):  # a damaged log is of no use
        lines, train = read_metrics(folder / METRICS), recipe.train
        if complete(lines, until=train.steps, eval_every=train.eval_every, steps=train.steps):
            os.replace(folder / METRICS, folder / f"before-{METRICS}")


def _summary(trainer: Trainer, console: Console) -> dict[str, Any]:
    table, unit = trainer.table, trainer.corpus.unit
    result = outcome(trainer.history, arm=table.label, seed=trainer.seed, lr=table.lr)
    loss = f"validation loss {result.final:.4f} nats/{unit} after {trainer.step} steps"
    time = f"{result.step_seconds * 1e3:.1f} ms a step ({result.optimizer_share:.0%} optimizer)"
    rate = f"{trainer.recipe.tokens_per_step / result.step_seconds / 1e3:,.1f}k {unit}s/s"
    console.print(f"{safe(table.label)}: {loss}, {time}, {rate}", highlight=False)
    choice = choice_of(table, trainer.optimizers.members, trainer.device)
    if choice is not None:
        console.print(safe(str(choice)), highlight=False, soft_wrap=True)
    console.print(f"run  {safe(str(trainer.directory))}", highlight=False, soft_wrap=True)
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
