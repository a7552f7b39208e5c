"""Processes: each part runs in one of its own, is killed at its limit, and starts anew after an attempt was lost."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.case import SPOILED, Bench, Part, Row, work_through
from benchmarks.gpu_parts.events import Place

__all__ = ["Running", "together"]

_AGAIN = 4.0  # seconds that a new process needs at least
_POLL = 0.1


@dataclass
class Running:
    """A part at work, seen from outside.

    Attributes:
        part: The part.
        place: Device and sizes.
        until: When it is killed, by `time.monotonic`.
        folder: Of its lines and of what its processes print.
        environment: Variables of its processes.
        threads: Of torch in its processes; 0 leaves what it takes.
        ended: How the part ended; empty while it runs.
        lost: Attempts that were lost, and why.
    """

    part: Part
    place: Place
    until: float
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0
    ended: str = ""
    lost: dict[str, str] = field(default_factory=dict)
    failures: list[Row] = field(default_factory=list)
    processes: int = 0
    _tries: dict[int, list[list[Row]]] = field(default_factory=dict)
    _case: int = 0
    _doing: str | None = None
    _since: float = 0.0
    _silent: bool = True
    _read: int = 0
    _process: Any = None
    _begun: float = 0.0
    _seconds: float = 0.0

    @property
    def rows(self) -> list[Row]:
        """The rows so far: of a case that was begun again, the try with most of them, the latest if equal."""
        return [row for _, tries in sorted(self._tries.items()) for row in max(reversed(tries), key=len)]

    def result(self) -> Row:
        """The part as it stands in the file."""
        found: Row = {"about": self.part.about, "ended": self.ended or "cut while it ran", "seconds": self._seconds}
        found |= {"processes": self.processes, "lost": self.lost, "failures": self.failures, "rows": self.rows}
        return found | ({} if self.ended == "complete" else {"printed": self._printed()})

    def start(self, first: int = 0) -> None:
        """Start a process on the cases from number `first` on.

        The process is forked: torch is imported once, here, and never used here, so the child may use CUDA and threads.
        """
        self._begun = self._begun or time.monotonic()
        self._doing, self._since, self._case, self._silent = None, time.monotonic(), first, True
        bench = Bench(self.place, self.until, dict(self.lost), self._lines())
        self._process = multiprocessing.get_context("fork").Process(target=_child, args=(self, bench, first))
        self._process.start()
        self.processes += 1

    def poll(self, show: Callable[[str, Row], None]) -> None:
        """Read what is new, and end or restart the process if it must be; `ended` tells whether the part still runs."""
        alive = self._process.is_alive()
        self._listen(show)
        now, self._seconds = time.monotonic(), time.monotonic() - self._begun
        if self.ended:
            self.stop()
        elif now >= self.until:
            self.stop()
            self.ended = f"killed at its limit{self._during()}"
        elif alive and self._doing is not None and now - self._since > self.part.patience:
            self.stop()
            self._go_on(f"killed after {self.part.patience:g} s")
        elif not alive:
            status = self._process.exitcode
            self.stop()
            self._go_on(f"the process ended with {_status(status)}" if status != SPOILED else "")

    def stop(self) -> None:
        """Kill the process and all that it started."""
        if self._process is None or self._process.pid is None:
            return
        for kill in (lambda pid: os.killpg(pid, signal.SIGKILL), lambda pid: os.kill(pid, signal.SIGKILL)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self._process.pid)
        self._process.join()

    def _go_on(self, why: str) -> None:
        """Note what was lost, and start again: at the same case without the lost attempt, or at the next case."""
        case = self._case
        if self._silent:
            self.ended = f"failed: {why} before its first case"
            return
        if self._doing is not None:
            self.lost.setdefault(self._doing, why or "failed")
        else:
            self.failures += [{"case": case, "failed": why}] if why else []
            case += 1
        if self.until - time.monotonic() < self.place.pick(_AGAIN, 0.0):
            self.ended = f"stopped: no time to begin again{self._during()}"
        else:
            self.start(case)

    def _during(self) -> str:
        return f", during: {self._doing}" if self._doing else ""

    def _listen(self, show: Callable[[str, Row], None]) -> None:
        """Take in the new lines; half a line waits for its end."""
        if not self._lines().exists():
            return
        with self._lines().open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line), show)

    def _take(self, line: Row, show: Callable[[str, Row], None]) -> None:
        if "case" in line:
            self._case, self._silent = line["case"], False
            self._tries.setdefault(self._case, []).append([])
        elif "doing" in line:
            self._doing, self._since = line["doing"], time.monotonic()
        elif "row" in line:
            self._tries[self._case][-1].append(line["row"])
            show(self.part.name, line["row"])
        elif "spoiled" in line:
            self.lost[self._doing or f"case {self._case}"] = line["spoiled"]
        elif "failed" in line:
            self.failures.append({"case": self._case, **line})
            show(self.part.name, {"failed": line["failed"]})
        else:
            self.ended = line["ended"]

    def _lines(self) -> Path:
        return self.folder / f"{self.part.name}.jsonl"

    @property
    def log(self) -> Path:
        """The file of what its processes print."""
        return self.folder / f"{self.part.name}.log"

    def _printed(self) -> str:
        """The last that its processes printed."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def _child(running: Running, bench: Bench, first: int) -> None:
    """Measure in a group of processes of its own; what is printed goes to the log."""
    os.setsid()
    os.environ.update(running.environment)
    if running.threads:
        torch.set_num_threads(running.threads)
    file = running.log.open("a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file  # the parent's may have been replaced by what captures them
    faulthandler.enable(file)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = work_through(running.part, bench, first)
    file.flush()
    os._exit(status)  # without the clean-up of libraries, which may wait for what is lost


def _status(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
    return f"status {status}"


def together(
    parts: list[Running], show: Callable[[str, Row], None], save: Callable[[list[Running]], None], every: float = 5.0
) -> None:
    """Run parts side by side until each has ended; save now and then, and at the end, however it comes."""
    saved = time.monotonic()
    try:
        for running in parts:
            running.start()
        while at_work := [running for running in parts if not running.ended]:
            for running in at_work:
                running.poll(show)
            time.sleep(_POLL)
            if time.monotonic() - saved > every:
                save(parts)
                saved = time.monotonic()
    finally:
        for running in parts:
            running.stop()
        save(parts)
