"""Files that are whole or absent: checkpoints, text and the metrics log, written beside, then moved into place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from matfn.lab.errors import LabError


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        _to_disk(file.fileno())
    os.replace(partial, path)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values; an older one stays until the new one is complete on disk."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        _to_disk(file.fileno())
    os.replace(partial, path)


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; it holds no code (torch's `weights_only`).

    Raises:
        LabError: There is none, or it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LabError(f"no checkpoint at {path}: give the folder of a run that wrote one") from None
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise LabError(f"{path} cannot be read as a checkpoint: {error}") from error


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
    """All whole lines of a log; a last line cut short by a crash is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
