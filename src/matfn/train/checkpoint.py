"""Files that are whole or absent, written beside and moved into place: checkpoints, text, logs; and their folders."""

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
    """`runs/NAME/` and the present time: where results go when the user names no folder."""
    return Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H%M%S")


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A folder for results, made before the work, so that a bad path costs no time; taken away if nothing was put in.

    Raises:
        TrainError: It cannot be made, or nothing can be written to it.
    """
    made: list[Path] = []
    try:
        made = _make(path)
        yield path
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for place in made:
                place.rmdir()


def _make(path: Path) -> list[Path]:
    """Make a folder and its parents; returns those that were made, innermost first."""
    try:
        made = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise TrainError(f"cannot make the folder {str(path)!r}: {reason}; choose another with --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise TrainError(f"cannot write to the folder {str(path)!r}: permission denied; choose another with --out")
    return made


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to, moved to `path` at the end; if something goes wrong, `path` stays as it was, alone."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        _to_disk(file.fileno())


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values; an older one stays until the new one is complete on disk."""
    with whole(path) as partial, partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        _to_disk(file.fileno())


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; it holds no code (torch's `weights_only`).

    Raises:
        TrainError: There is none, or it is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"no checkpoint at {path}: give the folder of a run that wrote one") from None
    except OSError:
        raise
    except Exception as error:  # torch raises half a dozen types for a damaged file, with advice that does not apply
        raise damaged(path) from error
    if not isinstance(state, dict):
        raise damaged(path)
    return state


def damaged(path: Path) -> TrainError:
    """What to say, and to do, about a file that this project wrote and that no longer reads as such."""
    return TrainError(
        f"{path} is damaged, or another version wrote it: restore a copy, or remove {path.parent} and start anew"
    )


class Metrics:
    """One JSON object a line: `{"step": 3, "loss": ...}` and `{"step": 50, "val_loss": ...}`."""

    def __init__(self, path: Path, keep_to: int = 0) -> None:
        """Open the log; lines past step `keep_to` (from a run that went on after its checkpoint) are dropped.

        Args:
            path: The file; made where it does not exist.
            keep_to: The step to resume from; 0 starts a new log.
        """
        kept = [json.dumps(line) for line in read_metrics(path) if line["step"] <= keep_to] if keep_to else []
        replace_text(path, "".join(line + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **values: float) -> None:
        """Append one line, whole, at once."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; further writes are errors."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All whole lines of a log; a last line cut short by a crash is left out.

    Raises:
        TrainError: A line is none that `Metrics` writes.
    """
    raw = path.read_bytes() if path.exists() else b""
    try:
        lines = [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
    except ValueError as error:
        raise damaged(path) from error
    if not all(isinstance(line, dict) and "step" in line for line in lines):
        raise damaged(path)
    return lines
