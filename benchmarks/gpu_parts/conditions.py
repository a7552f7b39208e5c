"""The conditions of a run: the card, its driver and clocks, versions, and the state of the sources."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import matfn
from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_parts.events import Place

__all__ = ["NO_NUMBER", "clocks", "conditions"]

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "triton", "numpy", "quack-kernels", "nvidia-cutlass-dsl", "gram-newton-schulz", "pytorch_optimizer", "filelock",
)  # fmt: skip
CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "temperature.gpu", "power.draw", "power.limit")
NO_NUMBER = "on a CPU, to test the script: its times mean nothing"


def conditions(place: Place, seconds: float) -> Row:
    """The conditions of the run.

    Raises:
        SystemExit: If the device is not seen by torch.
    """
    found = {
        "measured": "on a GPU" if place.cuda else NO_NUMBER, "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "torch": torch.__version__, "matfn": matfn.__version__, "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "commit": _git("rev-parse", "HEAD"), "changed": bool(_git("status", "--porcelain")), "sources": _digest(),
        "seconds": seconds, "device": place.device, "quick": place.quick, "processors": os.cpu_count(),
        "threads": torch.get_num_threads(), "named machine": os.environ.get("MATFN_MACHINE"),
    }  # fmt: skip
    if not place.cuda:
        return found
    card = _asked(place)
    if card is None:
        raise SystemExit("no CUDA device is seen by torch; --device cpu --quick runs the same code small")
    return {**found, **card, **clocks(place)}


def clocks(place: Place) -> Row:
    """Driver, clocks, temperature and power as nvidia-smi says, or nothing."""
    if not place.cuda:
        return {}
    query = ["nvidia-smi", f"--query-gpu=driver_version,{','.join(CLOCKS)}", "--format=csv,noheader"]
    answer = _printed(query)
    return dict(zip(("driver", *CLOCKS), answer.splitlines()[0].split(", "), strict=False)) if answer else {}


def _asked(place: Place) -> Row | None:
    """What torch says of the card, asked in a process of its own: a process that used CUDA could not be forked."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(place.device, theirs))
    process.start()
    theirs.close()
    answer: Any = None
    with contextlib.suppress(EOFError):
        answer = ours.recv() if ours.poll(120) else None
    if process.is_alive():
        process.join(5)
        process.kill()
    process.join()
    return answer


def _tell(device: str, pipe: Any) -> None:
    answer = None
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(torch.device(device))
        answer = {
            "gpu": card.name, "capability": [card.major, card.minor], "multiprocessors": card.multi_processor_count,
            "memory": card.total_memory, "cuda": torch.version.cuda,
        }  # fmt: skip
    pipe.send(answer)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*words: str) -> str:
    return _printed(["git", "-C", str(ROOT), *words])


def _printed(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _digest() -> str:
    """Of the package's and the benchmarks' files, for a tree without its history."""
    found = hashlib.sha256()
    for folder in ("src", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:16]
