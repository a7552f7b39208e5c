"""One script for one GPU: tests kernels and engines there, times them, and trains a GPT.

    PYTHONPATH=src python benchmarks/gpu.py --out gpu.json

Needs torch, numpy and mpmath only, and under 8 minutes. Every part has some seconds and leaves the unused ones to
later parts. A part without seconds left is stopped or left out, and says so. The file is rewritten after each part and
every few rows, so an interrupted run keeps its rows. Without a GPU the script stops and says so;
`--device cpu --quick` runs the same code small, to test the script itself: its times mean nothing.
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import matfn

if __name__ == "__main__":  # run as a file: the package `benchmarks` lies beside it, in the root of the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.gpu_parts import optimizers, polar, products, training
from benchmarks.timing import Place

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Rows to measure, and the seconds they get: a share of the whole."""

    name: str
    share: float
    rows: Callable[[Place, float], Iterator[Row]]


def _untimed(rows: Callable[[Place], Iterator[Row]]) -> Callable[[Place, float], Iterator[Row]]:
    return lambda place, _: rows(place)


PARTS = (
    Part("kernel correctness", 0.13, _untimed(products.correctness)),
    Part("method correctness", 0.08, _untimed(polar.correctness)),
    Part("products", 0.10, _untimed(products.rates)),
    Part("optimizer steps", 0.10, _untimed(optimizers.steps)),
    Part("orthogonalization", 0.25, _untimed(polar.orthogonalization)),
    Part("ritz-minimax overhead", 0.04, _untimed(polar.measuring)),
    Part("shampoo roots", 0.07, _untimed(optimizers.roots)),
    Part("training", 0.23, training.training),
)


def write(result: Row, path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1, default=str) + "\n")
    os.replace(temporary, path)


def _save(result: Row, path: Path, name: str, found: Row) -> None:
    result["parts"][name] = found
    write(result, path)


def run(part: Part, place: Place, until: float, save: Callable[[Row], None]) -> Row:
    """The rows of a part, as far as its time reaches; an error ends the part and not the run."""
    start = time.monotonic()
    found: Row = {"rows": [], "ended": "cut while it ran"}
    try:
        for row in part.rows(place, until - start):
            found["rows"].append(row)
            print(f"  {line(row)}", flush=True)
            if len(found["rows"]) % 20 == 0:
                save(found)
            if time.monotonic() > until:
                found["ended"] = f"stopped after {len(found['rows'])} rows: its seconds were gone"
                break
        else:
            found["ended"] = "complete"
    except Exception as error:
        found |= {"ended": f"failed: {error!r}", "traceback": traceback.format_exc()}
        print(found["traceback"], flush=True)
    return found | {"seconds": time.monotonic() - start}


def line(row: Row) -> str:
    """A row to read: short numbers, without the long values, which are in the file."""
    shown = []
    for key, value in row.items():
        if isinstance(value, float):
            shown.append(f"{key} {value:.4g}")
        elif isinstance(value, str | int | bool | tuple) and not key.endswith("_calls"):
            shown.append(f"{key} {value}")
    return "  ".join(shown)


def conditions(place: Place, seconds: float) -> Row:
    """The conditions of the run."""
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "not installed"
    found = {"torch": torch.__version__, "triton": version, "matfn": matfn.__version__, "seconds": seconds,
             "python": platform.python_version(), "device": place.device, "quick": place.quick}  # fmt: skip
    if place.cuda:
        device = torch.cuda.get_device_properties(place.device)
        memory, cores = device.total_memory, device.multi_processor_count
        found |= {"gpu": device.name, "capability": (device.major, device.minor), "multiprocessors": cores,
                  "memory": memory, "cuda": torch.version.cuda}  # fmt: skip
    return found | {"measured": "on a GPU" if place.cuda else "on a CPU, to test the script: no GPU number"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few calls, to test the script")
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything")
    parser.add_argument(
        "--only", nargs="*", choices=[part.name for part in PARTS], help="these parts, with all the time"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no CUDA device is seen by torch; --device cpu --quick runs the same code small")
    place = Place(arguments.device, arguments.quick)
    parts = [part for part in PARTS if not arguments.only or part.name in arguments.only]
    shares = sum(part.share for part in parts)
    result: Row = {"conditions": conditions(place, arguments.seconds), "parts": {}}
    begin = until = time.monotonic()
    for part in parts:
        until += arguments.seconds * part.share / shares
        if time.monotonic() >= until:
            result["parts"][part.name] = {"rows": [], "ended": "not begun: no time was left"}
        else:
            print(f"{part.name}: {until - time.monotonic():.0f} s", flush=True)
            save = partial(_save, result, arguments.out, part.name)
            save(run(part, place, until, save))
        print(f"  {result['parts'][part.name]['ended']}", flush=True)
    write(result, arguments.out)
    failed = [row for part in result["parts"].values() for row in part["rows"] if row.get("passed") is False]
    broken = [name for name, part in result["parts"].items() if part["ended"].startswith("failed")]
    print(
        f"{time.monotonic() - begin:.0f} s in all; {len(failed)} checks failed; parts that failed: {broken or 'none'}"
    )
    for row in failed:
        print(f"  FAILED {line(row)}")
    raise SystemExit(1 if failed or broken else 0)


if __name__ == "__main__":
    main()
