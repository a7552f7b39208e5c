"""The runs of a comparison as values, trained in turns of a few steps, each to its log and what that amounts to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matfn.train import checkpoint
from matfn.train.loop import CHECKPOINT, METRICS, Diverged, Trainer, Watcher
from matfn.train.outcome import Outcome, outcome
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.task import Task

TURN = 10  # steps an arm makes before the next has its turn: short enough that a busy spell hits all of them


class Stopped(Exception):
    """Ctrl-C: every run under way has been checkpointed."""


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
        """What the log amounts to."""
        lines = checkpoint.read_metrics(self.folder / METRICS)
        return outcome(lines, arm=self.arm.label, seed=self.seed, lr=self.arm.lr)


def folder_name(label: str, seed: int) -> str:
    """The name of a run's folder: letters, digits and dashes of its label, and the seed."""
    safe = "".join(c if c.isalnum() else "-" for c in label.lower())
    return f"{safe}-seed{seed}"


def train(jobs: Sequence[Job], task: Task, watcher: Watcher, stop: Callable[[], bool]) -> list[Outcome]:
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
    """Those still to be made or to be finished."""
    return [job for job in jobs if not job.over]
