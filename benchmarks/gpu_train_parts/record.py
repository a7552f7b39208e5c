"""The rows of all runs, one line of JSON each, written to disk at once. An incomplete last line is removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.case import Row, plain
from benchmarks.gpu_train_parts.rules import Settings
from matfn.pages.files import write_text

__all__ = ["append", "begin", "calls", "read", "sizes"]

RUNS, CALLS, PARTS, PLAN = "runs.jsonl", "calls.jsonl", "parts.jsonl", "plan.json"


def begin(folder: Path, settings: Settings, text: dict[str, Any]) -> None:
    """Make the folder of results, or check that it belongs to the same settings and text.

    Raises:
        SystemExit: The folder holds runs of other settings or of another text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planned = plain({"settings": settings.plain(), "text": text})
    path = folder / PLAN
    if path.exists():
        there = json.loads(path.read_text())
        other = [key for key in planned if planned[key] != there.get(key)]
        if other:
            raise SystemExit(
                f"--out {folder} holds runs with other {' and '.join(other)} (see {path}): give another folder, or the "
                "same --arms, --seeds, --longer, --quick and --text"
            )
        return
    write_text(path, json.dumps(planned, indent=1) + "\n")


def append(folder: Path, row: Row, name: str = RUNS) -> None:
    """Add one row."""
    path = folder / name
    _mend(path)
    with path.open("a") as file:
        file.write(json.dumps(plain(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path, name: str = RUNS) -> list[Row]:
    """The rows so far."""
    path = folder / name
    if not path.exists():
        return []
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def calls(folder: Path) -> list[Row]:
    """The conditions of each call of the script that added to the folder."""
    return read(folder, CALLS)


def sizes(folder: Path) -> tuple[str, str]:
    """The names of the small and the large model."""
    path = folder / PLAN
    if not path.exists():
        return "small", "large"
    models = (json.loads(path.read_text())["settings"][name]["model"] for name in ("small", "large"))
    small, large = (f"{model['layers']} layers x {model['width']}" for model in models)
    return small, large


def _mend(path: Path) -> None:
    """Cut half a line at the end, so that the next row begins a line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
