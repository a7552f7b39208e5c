"""Momenta: the matrices that an optimizer orthogonalizes, taken from a training run at some of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matfn.lab import checkpoint
from matfn.lab.errors import LabError
from matfn.lab.lessons.tasks import load_task
from matfn.lab.recipes.recipe import Recipe
from matfn.lab.training.train import Trainer, Watcher
from matfn.optim import Entry, plan

__all__ = ["FILE", "Momentum", "capture", "load", "save"]

FILE = "momenta.pt"
_ROLES = ("embedding", "head", "tied head")  # shown beside the matrices, though AdamW moves them: what others capture


@dataclass(frozen=True)
class Momentum:
    """One matrix at one step.

    Attributes:
        name: Of the parameter, with its number where a parameter is several matrices.
        step: The training step, from 1, in which it was orthogonalized.
        matrix: mu B + (1 - mu) G (B alone without Nesterov's look ahead), (m, n) in float32: B the average of the
            gradients so far, B <- mu B + (1 - mu) G. For embeddings and head, which AdamW moves, the same average.
    """

    name: str
    step: int
    matrix: Tensor


class _Averages:
    """Momentum of every matrix of a model, kept apart from the optimizer's own, so that any optimizer may train it."""

    def __init__(self, entries: Sequence[Entry], momentum: float, nesterov: bool, at: Sequence[int]) -> None:
        self.found: list[Momentum] = []
        self._entries, self._momentum, self._nesterov, self._at = entries, momentum, nesterov, set(at)
        self._step, self._buffers = 0, [torch.zeros_like(e.parameter, dtype=torch.float32) for e in entries]

    def __call__(self, *_: Any) -> None:
        """Take in the gradients; called before each step of the optimizer."""
        self._step += 1
        for entry, B in zip(self._entries, self._buffers, strict=True):
            G = entry.parameter.grad
            if G is None:
                continue
            B.lerp_(G.detach().float(), 1 - self._momentum)
            if self._step in self._at:
                mixed = torch.lerp(G.detach().float(), B, self._momentum) if self._nesterov else B
                self._add(entry, mixed)

    def _add(self, entry: Entry, x: Tensor) -> None:
        parts = [x] if entry.layout is None else entry.layout.pieces(x)
        matrices = [m for part in parts for m in part.reshape(-1, *part.shape[-2:])]
        for number, matrix in enumerate(matrices):
            name = entry.name if len(matrices) == 1 else f"{entry.name}[{number}]"
            self.found.append(Momentum(name, self._step, matrix.detach().cpu().clone()))


def capture(
    recipe: Recipe, arm: str | None, *, at: Sequence[int], only: Sequence[str], directory: Path, watcher: Watcher
) -> list[Momentum]:
    """Train to the last of the steps and keep the momentum of the matrices on the way.

    Args:
        recipe: Model, data, loop and optimizer; its schedule is that of the whole run.
        arm: Which optimizer, see `Recipe.arm`; its momentum and nesterov are used for all matrices.
        at: Steps, from 1.
        only: Glob patterns of parameter names.
        directory: For the metrics of the run.
        watcher: Sees the progress.

    Raises:
        LabError: A step lies outside the run, a pattern matches nothing, or the loss diverged.
    """
    if not at or min(at) < 1 or max(at) > recipe.train.steps:
        raise LabError(f"--at must name steps from 1 to train.steps = {recipe.train.steps}, got {list(at)}")
    table = recipe.arm(arm)
    trainer = Trainer(recipe, table, load_task(recipe), seed=recipe.train.seed, directory=directory)
    entries = _chosen(plan(trainer.model).entries, only)
    averages = _Averages(entries, table.momentum, bool(table.nesterov), at)
    # Of several optimizers the first steps first: then every gradient is there, and none has been dropped.
    trainer.optimizers.members[0].register_step_pre_hook(averages)
    trainer.advance(max(at), watcher)
    return averages.found


def _chosen(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    matrices = [e for e in entries if e.rule == "matrix" or e.role in _ROLES]
    chosen = [e for e in matrices if any(fnmatchcase(e.name, pattern) for pattern in only)]
    if not chosen:
        names = ", ".join(e.name for e in matrices)
        raise LabError(f"--only {' '.join(only)} matches no matrix; known: {names}")
    return chosen


def save(folder: Path, momenta: Sequence[Momentum], source: str) -> Path:
    """Write the matrices; `source` says which run they are from."""
    checkpoint.save(folder / FILE, {"source": source, "momenta": [asdict(momentum) for momentum in momenta]})
    return folder / FILE


def load(path: Path) -> tuple[str, list[Momentum]]:
    """The source and the matrices of a file that `save` wrote, or of the folder it lies in.

    Raises:
        LabError: There is none, or it is another file.
    """
    if not path.exists():
        raise LabError(f"there is no {path}: give the folder that `matfn bench momenta` wrote")
    path = path / FILE if path.is_dir() else path
    state = checkpoint.load(path)
    try:
        return state["source"], [Momentum(**entry) for entry in state["momenta"]]
    except (KeyError, TypeError):
        raise LabError(f"{path} holds no momenta: give the folder that `matfn bench momenta` wrote") from None
