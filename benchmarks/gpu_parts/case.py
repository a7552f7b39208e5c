"""Parts, their cases, and the lines of JSON that a process writes about them; the lines outlive the process."""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmarks.gpu_parts.events import Place, Work, captured

__all__ = ["Bench", "Case", "Part", "Row", "Skipped", "Spoiled", "plain", "reason", "work_through"]

Row = dict[str, Any]
T = TypeVar("T")
SPOILED = 75  # exit status of a process that must not go on


@dataclass(frozen=True)
class Part:
    """Rows to measure.

    Attributes:
        name: Key in the result, and what `--only` takes.
        source: "module:function"; the function of the place returns the same list of cases in every process.
        about: What is measured, in one sentence.
        patience: Seconds for one attempt; then the process is killed and the part goes on without the attempt.
    """

    name: str
    source: str
    about: str
    patience: float = 60.0


@dataclass(frozen=True)
class Case:
    """A piece of a part that is measured in one go, and again from its start if its process was lost."""

    name: str
    rows: Callable[[Bench], Iterator[Row]]


class Skipped(Exception):
    """An attempt that gave nothing; the text says why."""


class Spoiled(Exception):
    """An attempt after which the process must end: its CUDA context or its random generator may be broken."""


@dataclass
class Bench:
    """What a case knows of its process.

    Attributes:
        place: Device and sizes.
        until: When the seconds of the part are gone, by `time.monotonic`.
        broken: Attempts that cost an earlier process of this part its life, and why.
        path: The file of lines.
        case: The name of the case at work.
    """

    place: Place
    until: float = math.inf
    broken: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    case: str = ""
    _synced: float = 0.0

    @property
    def left(self) -> float:
        """Seconds left to the part."""
        return self.until - time.monotonic()

    def say(self, line: Row) -> None:
        """Write a line, which outlives the process; once a second down to the disk, to outlive the machine."""
        if self.path is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(plain(line)) + "\n")
            file.flush()
            if time.monotonic() - self._synced > 1.0:
                os.fsync(file.fileno())
                self._synced = time.monotonic()

    def attempt(self, label: str, work: Callable[[], T], *, fragile: bool = False) -> T:
        """Return `work()`.

        Args:
            label: Unique within the case; a later process leaves out an attempt that was lost.
            work: What may fail, hang or break the process.
            fragile: Whether any error spoils the process, as in a capture.

        Raises:
            Skipped: With the reason, if `work` failed here or in an earlier process.
            Spoiled: If the process must end.
        """
        label = f"{self.case}: {label}"
        if label in self.broken:
            raise Skipped(self.broken[label])
        self.say({"doing": label})
        try:
            return work()
        except (Skipped, Spoiled):
            raise
        except Exception as error:
            if self.place.cuda and (fragile or breaks(error)):
                raise Spoiled(reason(error)) from error
            raise Skipped(reason(error)) from error
        finally:
            if sys.exc_info()[0] is not Spoiled:
                self.say({"doing": None})

    def graph(self, label: str, work: Work) -> Work:
        """Return the replay of a CUDA graph of one call; a failed capture ends the process, and the case starts anew.

        Raises:
            Skipped: If there is no GPU, or the capture failed before.
            Spoiled: If the capture fails.
        """
        if not self.place.cuda:
            raise Skipped("CUDA graphs need a GPU")
        return self.attempt(f"{label}, graph", lambda: captured(work), fragile=True)


def breaks(error: Exception) -> bool:
    """Whether an error may have broken the CUDA context, so that later calls fail; running out of memory does not."""
    return isinstance(error, RuntimeError) and "CUDA" in str(error) and "out of memory" not in str(error)


def reason(error: BaseException) -> str:
    """An error as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]


def plain(value: Any) -> Any:
    """A value for JSON: dtypes and the like as text, floats that are not finite as text too."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def work_through(part: Part, bench: Bench, first: int) -> int:
    """Measure the cases of a part from number `first` on; return the exit status of the process.

    An error of a case ends the case. The lines say which case is at work, what it attempts, its rows, and the end.
    """
    try:
        module, function = part.source.split(":")
        cases = getattr(import_module(module), function)(bench.place)
    except Exception as error:
        bench.say({"failed": reason(error), "traceback": traceback.format_exc()})
        bench.say({"ended": f"failed: {reason(error)}"})
        return 1
    for number, case in enumerate(cases):
        if number < first:
            continue
        if bench.left <= 0:
            bench.say({"ended": "stopped: its seconds were gone"})
            return 0
        bench.case = case.name
        if bench.place.cuda:
            gc.collect()
            torch.cuda.empty_cache()
        bench.say({"case": number, "name": case.name})
        try:
            for row in case.rows(bench):
                bench.say({"row": {"case": case.name, **row}})
                if bench.left <= 0:
                    bench.say({"ended": "stopped: its seconds were gone"})
                    return 0
        except Spoiled as error:
            bench.say({"spoiled": str(error)})
            return SPOILED
        except Exception as error:
            bench.say({"failed": reason(error), "traceback": traceback.format_exc()})
            if bench.place.cuda and breaks(error):
                return SPOILED
    bench.say({"ended": "complete"})
    return 0
