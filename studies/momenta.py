"""Momenta: the matrices that an optimizer orthogonalizes, taken from a training run at some of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from matfn.optim import Entry, plan
from matfn.train import TrainError, checkpoint, files
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import Trainer, Watcher
from matfn.train.progress import Progressing
from matfn.train.recipe import Recipe
from matfn.train.terminal import Out, launch, screen, user_errors

__all__ = ["FILE", "Momentum", "app", "capture", "load", "save"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

FILE = "momenta.pt"
_ROLES = ("embedding", "head", "tied head")  # captured too, though AdamW moves them


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
        TrainError: A step lies outside the run, a pattern matches nothing, or the loss diverged.
    """
    if not at or min(at) < 1 or max(at) > recipe.train.steps:
        raise TrainError(f"--at must name steps from 1 to train.steps = {recipe.train.steps}, got {list(at)}")
    table = recipe.arm(arm)
    trainer = Trainer(recipe, table, load_corpus(recipe.data), seed=recipe.train.seed, directory=directory)
    entries = _chosen(plan(trainer.model).entries, only)
    averages = _Averages(entries, table.momentum, bool(table.nesterov), at)
    # A hook on the first optimizer runs when every gradient exists and none has been dropped.
    trainer.optimizers.members[0].register_step_pre_hook(averages)
    trainer.advance(max(at), watcher)
    return averages.found


def _chosen(entries: Sequence[Entry], only: Sequence[str]) -> list[Entry]:
    matrices = [e for e in entries if e.rule == "matrix" or e.role in _ROLES]
    chosen = [e for e in matrices if any(fnmatchcase(e.name, pattern) for pattern in only)]
    if not chosen:
        names = ", ".join(e.name for e in matrices)
        raise TrainError(f"--only {' '.join(only)} matches no matrix; known: {names}")
    return chosen


def save(folder: Path, momenta: Sequence[Momentum], source: str) -> Path:
    """Write the matrices; `source` says which run they are from."""
    checkpoint.save(folder / FILE, {"source": source, "momenta": [asdict(momentum) for momentum in momenta]})
    return folder / FILE


def load(path: Path) -> tuple[str, list[Momentum]]:
    """The source and the matrices of a file that `save` wrote, or of the folder it lies in.

    Raises:
        TrainError: There is none, or it is another file.
    """
    if not path.exists():
        raise TrainError(f"there is no {path}: give the folder that `python -m studies.momenta` wrote")
    path = path / FILE if path.is_dir() else path
    state = checkpoint.load(path)
    try:
        return state["source"], [Momentum(**entry) for entry in state["momenta"]]
    except (KeyError, TypeError):
        raise TrainError(f"{path} holds no momenta: give the folder that `python -m studies.momenta` wrote") from None


@app.command()
@user_errors
def main(
    recipe: Annotated[Path, typer.Argument(help="TOML recipe; see the project's recipes/ folder.")],
    arm: Annotated[str | None, typer.Option(help="Which of the recipe's \\[\\[arms]].", show_default=False)] = None,
    at: Annotated[list[int] | None, typer.Option(help="A training step; 20, 100 and 250 by default.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help='Names of matrices, e.g. "blocks.0.*"; all by default.')
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    out: Out = None,
) -> None:
    """Train by a recipe and keep the momentum matrices of some steps.

    studies.tune, studies.budget and benchmarks.step read them with --momenta.
    """
    checked, steps = recipes.load(recipe, set_ or []), sorted(set(at or (20, 100, 250)))
    if checked.train.threads:
        torch.set_num_threads(checked.train.threads)
    with files.folder(out or files.dated("momenta")) as folder:
        with Progressing(screen(), max(steps)) as watcher:
            found = capture(checked, arm, at=steps, only=only or ["*"], directory=folder, watcher=watcher)
        model = checked.model
        source = f"{recipe.stem}, {model.layers} layers of width {model.width}, {checked.arm(arm).label}"
        path = save(folder, found, source)
    screen().print(f"{len(found)} matrices  {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    launch(app)
