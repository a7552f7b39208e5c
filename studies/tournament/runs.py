"""The runs of the tournament as files: one JSON a run while they are trained, one JSON a stage where they are kept."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GRID_SEED", "Run", "collect", "of", "read", "restore"]

GRID_SEED = 1000  # the seed of the grids of learning rates; `studies.tournament.run` trains it


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        arm: Its name in `studies.tournament.arms.ARMS`.
        lr: Learning rate.
        seed: Of the weights and the batches.
        val: (step, validation loss); the loss is infinite where the run diverged.
        train: Training loss of every tenth step.
        step_seconds: Processor time of a step, median of the run.
        optimizer_seconds: Processor time of the optimizer in a step, median of the run.
    """

    arm: str
    lr: float
    seed: int
    val: tuple[tuple[int, float], ...]
    train: tuple[float, ...]
    step_seconds: float
    optimizer_seconds: float

    @property
    def loss(self) -> float:
        """The last validation loss; infinite if the run diverged."""
        return self.val[-1][1]


def of(row: dict[str, Any]) -> Run:
    """The run of a row that `studies.tournament.run` wrote."""
    val = tuple((int(step), _loss(loss)) for step, loss in row["val"])
    numbers = row["step_seconds"], row["optimizer_seconds"]
    return Run(row["arm"], row["lr"], row["seed"], val, tuple(row["train"]), *numbers)


def _loss(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.inf


def read(runs: Path, stage: str) -> list[Run]:
    """The runs of a stage, by arm, rate and seed: from `runs`/`stage`.json, or else from the files in `runs`/`stage`.

    No runs yet is an empty list.
    """
    return sorted((of(row) for row in _rows(runs, stage)), key=lambda run: (run.arm, run.lr, run.seed))


def _rows(runs: Path, stage: str) -> list[dict[str, Any]]:
    kept = runs / f"{stage}.json"
    if kept.exists():
        return json.loads(kept.read_text())["runs"]
    return [json.loads(path.read_text()) for path in sorted((runs / stage).glob("*-seed*.json"))]


def collect(folder: Path, stage: str, out: Path) -> Path:
    """Write the runs in `folder`/`stage` into `out`/`stage`.json, one run a line, and return that path.

    Losses are rounded to six digits, seconds to four: a loss of five seeds is known to three.

    Raises:
        FileNotFoundError: `folder` has no runs of the stage.
    """
    paths = sorted((folder / stage).glob("*-seed*.json"))
    if not paths:
        raise FileNotFoundError(f"collect: {folder / stage} has no runs; train some with studies.tournament.run")
    lines = [json.dumps(_short(json.loads(path.read_text()))) for path in paths]
    corpus = folder / stage / "corpus.json"
    facts = json.loads(corpus.read_text()) if corpus.exists() else {}
    facts = {key: value for key, value in facts.items() if "/" not in str(value)}  # no path of the machine
    out.mkdir(parents=True, exist_ok=True)
    head = f'{{"stage": {json.dumps(stage)}, "corpus": {json.dumps(facts)}, "runs": [\n'
    path = out / f"{stage}.json"
    path.write_text(head + ",\n".join(lines) + "\n]}\n")
    return path


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row with fewer digits; infinity and NaN, which JSON does not have, become null."""
    val = [(step, _digits(_loss(loss), 6)) for step, loss in row["val"]]
    seconds = {key: _digits(row[key], 4) for key in ("step_seconds", "optimizer_seconds")}
    return {**row, "val": val, "train": [_digits(_loss(loss), 6) for loss in row["train"]], **seconds}


def _digits(value: float, count: int) -> float | None:
    return float(f"{value:.{count}g}") if math.isfinite(value) else None


def restore(kept: Path, folder: Path) -> int:
    """Write each run of a kept stage as a file again, so that `studies.tournament.run` goes on; returns the number.

    A run that is in the folder already stays as it is.
    """
    stage = json.loads(kept.read_text())
    place, number = folder / stage["stage"], 0
    place.mkdir(parents=True, exist_ok=True)
    for row in stage["runs"]:
        path = place / f"{row['arm']}@{row['lr']:g}-seed{row['seed']}.json"
        if not path.exists():
            path.write_text(json.dumps(row) + "\n")
            number += 1
    return number
