"""Files that are whole or absent: checkpoints, text and logs, and their folders."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from matfn.train import TrainError


def dated(name: str) -> Path:
    """The default folder of results: `runs/NAME/` and the present time."""
    return Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H%M%S")


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Make a folder for results before the work, so that a bad path costs no time; remove it again if it stays empty.

    Raises:
        TrainError: The folder cannot be made or written to.
    """
    try:
        made = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise TrainError(f"cannot make the folder {str(path)!r}: {reason}; choose another with --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise TrainError(f"cannot write to the folder {str(path)!r}: permission denied; choose another with --out")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # the first folder with content ends the loop
            for place in made:
                place.rmdir()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, moved to `path` at the end. After an error `path` is unchanged and nothing else remains."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file, whole even after a crash."""
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values; the older one stays until the new one is on disk."""
    with whole(path) as partial, partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU.

    Raises:
        TrainError: The file is missing or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"no checkpoint at {path}: give the folder of a run that wrote one") from None
    except OSError:
        raise
    except Exception as error:  # torch raises many types for a damaged file
        raise damaged(path) from error
    if not isinstance(state, dict):
        raise damaged(path)
    return state


def damaged(path: Path) -> TrainError:
    """The error for a file of a run that cannot be read any more."""
    return TrainError(
        f"{path} is damaged, or another version wrote it: restore a copy, or remove {path.parent} and start anew"
    )


class Metrics:
    """One JSON object a line: `{"step": 3, "loss": ...}` and `{"step": 50, "val_loss": ...}`."""

    def __init__(self, path: Path, keep_to: int = 0) -> None:
        """Open the log, or start one, without the lines after step `keep_to`, the step of the checkpoint."""
        kept = [json.dumps(line) for line in read_metrics(path) if line["step"] <= keep_to] if keep_to else []
        replace_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: float) -> None:
        """Append one line and flush it."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a log, without a last line that a crash cut short.

    Raises:
        TrainError: The log is damaged.
    """
    raw = path.read_bytes() if path.exists() else b""
    try:
        lines = [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
    except ValueError as error:
        raise damaged(path) from error
    if not all(isinstance(line, dict) and "step" in line for line in lines):
        raise damaged(path)
    return lines
