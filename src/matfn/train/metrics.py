"""Metrics: the log of a run, one JSON object a line. It is verified by its record (size, sha256) in the checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from matfn.train import TrainError
from matfn.train.checkpoint import damaged
from matfn.train.files import read, replace_text, unwritten, whole

Lines = list[dict[str, float]]
_STEP, _EVALUATION = ("loss", "lr", "seconds", "optimizer_seconds"), ("val_loss", "elapsed")


class Metrics:
    """A log that is open for writing, with lines such as `{"step": 3, "loss": ...}` or `{"step": 50, "val_loss": ...}`.

    Attributes:
        history: The lines so far.
    """

    def __init__(self, path: Path, start: bytes = b"") -> None:
        """Write the file anew; it begins with the verified lines `start`."""
        self.path, self.history = path, parse(start, path)
        self._changed = False
        self._begin(start)

    def _begin(self, start: bytes) -> None:
        with whole(self.path) as file:
            file.write(start)
        self._bytes, self._digest = len(start), hashlib.sha256(start)
        self._file = self.path.open("ab")

    def write(self, **values: float) -> None:
        """Append one line and flush it.

        Raises:
            TrainError: The disk is full.
        """
        raw = json.dumps(values).encode() + b"\n"
        try:
            self._file.write(raw)
            self._file.flush()
        except OSError as error:
            raise unwritten(self.path, error, "the lines before the checkpoint stay; ") from None
        self.history.append(values)
        self._bytes += len(raw)
        self._digest.update(raw)

    def sync(self) -> dict[str, Any]:
        """Put all lines on disk and return their record: size and sha256.

        A log that somebody else removed or changed is written again from memory; `verify` then raises an error.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritten(self.path, error, "the lines before the checkpoint stay; ") from None
        if not self._intact():
            self._file.close()
            self._changed = True
            self._begin(b"".join(json.dumps(line).encode() + b"\n" for line in self.history))
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def _intact(self) -> bool:
        try:
            raw = read(self.path)
        except (OSError, TrainError):
            return False
        return len(raw) == self._bytes and hashlib.sha256(raw).digest() == self._digest.digest()

    def verify(self) -> None:
        """Raise an error if `sync` found that somebody else removed or changed the log.

        Raises:
            TrainError: The log is not the one that this run wrote.
        """
        if self._changed:
            raise TrainError(
                f"somebody else removed or changed {self.path} during the run: it was written again from memory, and "
                "the run was saved; let no other program write there, then go on with --resume"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Unwritten(Metrics):
    """The log of a process that writes no file: the lines only."""

    def __init__(self, path: Path, start: bytes = b"") -> None:
        """Begin with the verified lines `start`; `path` is for messages."""
        self.path, self.history = path, parse(start, path)

    def write(self, **values: float) -> None:
        """Append one line."""
        self.history.append(values)

    def sync(self) -> dict[str, Any]:
        """The record of a log without a file: none."""
        return {}

    def verify(self) -> None:
        """Do nothing: there is no file that somebody could change."""

    def close(self) -> None:
        """Do nothing: there is no file to close."""


def read_metrics(path: Path) -> Lines:
    """The lines of a log, without a last line that a crash cut short; none if there is no file.

    Raises:
        TrainError: The log is damaged.
    """
    return parse(_raw(path), path)


def _raw(path: Path) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        return b""


def parse(raw: bytes, path: Path) -> Lines:
    """The whole lines of a log; `path` is for messages.

    Raises:
        TrainError: A line is no JSON, or lacks one of its numbers.
    """
    try:
        lines = [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
    except (ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from None
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or not _numbers(line):
            raise damaged(path, f"line {number} is {json.dumps(line)[:80]}")
    return lines


def _numbers(line: dict[str, Any]) -> bool:
    """Whether a line has a step and the numbers of a step, of an evaluation or of a divergence."""
    wanted = next((keys for keys in (_STEP, _EVALUATION) if keys[0] in line), ("diverged",))
    return type(line.get("step")) is int and all(
        type(line.get(key)) in (int, float) and math.isfinite(line[key]) for key in wanted
    )


def verified(path: Path, record: dict[str, Any] | None, *, until: int, eval_every: int, steps: int) -> bytes:
    """The lines up to step `until`, the step of a checkpoint; the lines after it are left out.

    Args:
        path: The log.
        record: The record of these lines in the checkpoint. Checkpoints of earlier versions have none: None.
        until: The step of the checkpoint.
        eval_every: Steps between two evaluations.
        steps: The length of the run, which ends with an evaluation.

    Raises:
        TrainError: Lines are missing, changed or doubled.
    """
    if record is not None:
        raw = _recorded(path, record)
    else:
        raw = _raw(path)
        lines = [line for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]
        raw = b"".join(line for line, found in zip(lines, parse(raw, path), strict=True) if found["step"] <= until)
    if not complete(parse(raw, path), until=until, eval_every=eval_every, steps=steps):
        raise damaged(path, f"it does not have one line for each step and evaluation up to the checkpoint's {until}")
    return raw


def recorded_lines(path: Path, record: Any) -> Lines:
    """The lines of the log of a finished run; a line beyond the record is an error.

    Raises:
        TrainError: The log is not the one of the record.
    """
    raw = _recorded(path, record)
    if len(_raw(path)) != len(raw):
        raise damaged(path, "lines were added after the run ended")
    return parse(raw, path)


def _recorded(path: Path, record: Any) -> bytes:
    """The first bytes of a log, verified by the size and the sha256 in `record`."""
    known = isinstance(record, dict) and set(record) == {"bytes", "sha256"}
    if not (known and type(record["bytes"]) is int and record["bytes"] >= 0):
        raise damaged(path, "the record of it is no size and sha256")
    raw = _raw(path)[: record["bytes"]]
    if len(raw) < record["bytes"] or hashlib.sha256(raw).hexdigest() != record["sha256"]:
        raise damaged(path, f"its first {record['bytes']} bytes are not those that were recorded")
    return raw


def complete(lines: Lines, *, until: int, eval_every: int, steps: int) -> bool:
    """Whether a log has exactly one line for each step up to `until`, and one for each evaluation, in order."""
    if len(lines) != until + until // eval_every + (until == steps and steps % eval_every > 0):
        return False  # checked first: a damaged file could make the list below too long for the memory
    wanted = []
    for step in range(1, until + 1):
        wanted.append((step, "loss"))
        if step % eval_every == 0 or step == steps:
            wanted.append((step, "val_loss"))
    return [(line["step"], "loss" if "loss" in line else "val_loss") for line in lines] == wanted


def cut(path: Path, step: int) -> None:
    """Remove the lines after `step` from a log of JSON lines of any kind, such as telemetry's.

    Raises:
        TrainError: A line is no JSON object with a step.
    """
    lines = [line for line in _raw(path).splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        kept = [line for line in lines if json.loads(line)["step"] <= step]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from None
    replace_text(path, b"".join(kept).decode())
