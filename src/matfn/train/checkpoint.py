"""Checkpoints: tensors and plain values in one file, whole or absent, whose checksums are verified before loading."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from matfn.train import TrainError
from matfn.train.files import opened, whole


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values; the older one stays until the new one is on disk.

    Raises:
        TrainError: The file cannot be written, as on a full disk.
    """
    with whole(path) as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's writer hides the system's error
            reason = error.__context__ or error.__cause__
            short = "the file system took only a part of it (a full disk?)"
            raise reason if isinstance(reason, OSError) else OSError(None, short) from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Torch does not verify the checksums of its parts, so they are verified first.

    Raises:
        TrainError: The file is missing or damaged.
    """
    try:
        with opened(path) as file:
            with zipfile.ZipFile(file) as parts:
                if (part := parts.testzip()) is not None:
                    raise ValueError(f"the checksum of {part} is wrong")
            file.seek(0, os.SEEK_SET)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise TrainError(f"no checkpoint at {path}: give the folder of a run that wrote one") from None
    except (OSError, TrainError, MemoryError):
        raise
    except Exception as error:  # torch and zipfile raise many types for a damaged file
        raise damaged(path, str(error)) from error
    if not isinstance(state, dict):
        raise damaged(path, f"it holds a {type(state).__name__}, wanted a dict")
    return state


def damaged(path: Path, reason: str = "") -> TrainError:
    """The error for a file of a run that cannot be read any more."""
    told = f" ({' '.join(reason.split())[:200]})" if reason else ""
    return TrainError(
        f"{path} is damaged, or another version wrote it{told}: restore a copy, or remove {path.parent} and start anew"
    )
