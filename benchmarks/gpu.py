"""One script for one GPU: correctness, speed and safety of kernels, methods and optimizers, in 6 minutes.

    PYTHONPATH=src python -m benchmarks.gpu --out gpu.json
    python -m benchmarks.gpu --show gpu.json

Needs torch, numpy, mpmath and filelock; peers that are not installed are rows that say so. Each part runs in a process
of its own. A part that crashes or hangs is killed, and the others go on; an attempt that costs a process its life (a
failed capture, a broken context) is left out when the part begins again. Parts that only check run side by side; parts
that time run alone. Seconds that a part leaves go to the later ones.

Rows are written one by one to OUT.parts/, and OUT is rewritten whole every few seconds, so an interrupted run keeps its
rows. Without a GPU the script stops and says so; `--device cpu --quick` runs the same code small, to test the script
itself: its times mean nothing.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

if __name__ == "__main__" and not __package__:  # run as a file: the package `benchmarks` lies in the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.gpu_parts.case import Part, Row, plain
from benchmarks.gpu_parts.conditions import clocks, conditions
from benchmarks.gpu_parts.events import Place, wrong_device
from benchmarks.gpu_parts.processes import Running, together
from matfn.minimax.cache import directory
from matfn.pages.files import write_text

_IN = "benchmarks.gpu_parts."
# Turns, the most telling first: seconds, and the parts that run side by side in them.
TURNS: tuple[tuple[float, tuple[Part, ...]], ...] = (
    (
        75,
        (
            Part("kernels", f"{_IN}kernels:cases", "Full products and fused kernels against float64, entry by entry."),
            Part("triton", f"{_IN}kernels:triton", "Triton's symmetric products against float64, entry by entry."),
            Part("quack", f"{_IN}kernels:quack", "quack's symmetric products against float64, entry by entry."),
            Part("contract", f"{_IN}contract:cases", "Methods and verbs against the CPU in float64."),
            Part("trajectories", f"{_IN}trajectories:cases", "Weights after 20 steps, GPU against CPU."),
            Part("safety", f"{_IN}safety:cases", "Largest singular values on hostile spectra, in float16."),
            Part("compiling", f"{_IN}stacks:first_calls", "First calls of what is timed later, which compile."),
        ),
    ),
    (100, (Part("stacks", f"{_IN}stacks:cases", "Orthogonalization of stacks: time beside error."),)),
    (70, (Part("steps", f"{_IN}steps:cases", "Whole steps of Muon on the matrices of models."),)),
    (25, (Part("rates", f"{_IN}rates:cases", "Products: share of the device's matmul rate."),)),
    (20, (Part("looks", f"{_IN}looks:cases", "RitzMinimax beside as many fixed steps."),)),
    (15, (Part("roots", f"{_IN}roots:cases", "Inverse roots of Shampoo's shapes: time and error."),)),
    (45, (Part("training", f"{_IN}training:cases", "A short training run by all optimizers in turns."),)),
)
_FAULTS = ("killed", "not begun")  # how a part ends that lacks rows
PARTS = {part.name: part for _, parts in TURNS for part in parts}


def write(result: Row, path: Path) -> None:
    """Whole or not at all, down to the disk."""
    write_text(path, json.dumps(plain(result), indent=1) + "\n")


def line(row: Row) -> str:
    """A row to read: short numbers, without what is only in the file."""
    shown = []
    for key, value in row.items():
        if isinstance(value, float):
            shown.append(f"{key} {value:.4g}")
        elif isinstance(value, str | int | bool | tuple) and not key.endswith(("_calls", "steps", "products")):
            shown.append(f"{key} {value}")
    return "  ".join(shown)


def measure(place: Place, seconds: float, names: list[str], out: Path) -> Row:
    """Run the turns that have a named part, each until its seconds are gone, and write the result as it grows."""
    result: Row = {"conditions": conditions(place, seconds), "parts": {}}
    folder = out.with_suffix(".parts")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    turns = [(share, [part for part in parts if part.name in names]) for share, parts in TURNS]
    turns = [(share, parts) for share, parts in turns if parts]
    whole = sum(share for share, _ in turns)
    until = time.monotonic()
    for share, parts in turns:
        until += seconds * share / whole
        if time.monotonic() >= until:
            result["parts"] |= {part.name: {"rows": [], "ended": "not begun: no time was left"} for part in parts}
            continue
        print(f"{', '.join(part.name for part in parts)}: {until - time.monotonic():.0f} s", flush=True)
        # Parts side by side disturb each other: what they find to be the quickest kernel is kept apart from the cache.
        apart = {"MATFN_CACHE_DIR": str(_cache(folder.resolve() / "cache"))} if len(parts) > 1 else {}
        threads = max(1, torch.get_num_threads() // len(parts))
        at_work = [Running(part, place, until, folder, apart, threads) for part in parts]
        together(at_work, _show, partial(_save, result, out))
        for part in parts:
            result["parts"][part.name] |= {"clocks": clocks(place)}
            print(f"  {part.name}: {result['parts'][part.name]['ended']}", flush=True)
    write(result, out)
    shutil.rmtree(folder)
    return result


def _cache(folder: Path) -> Path:
    """A new cache that has the coefficients of polynomials of the usual one, but no times of kernels."""
    folder.mkdir(exist_ok=True)
    known = directory()
    for path in known.glob("minimax-*.json") if known else ():
        with contextlib.suppress(OSError):  # another file system: they are computed again
            os.link(path, folder / path.name)
    return folder


def _show(name: str, row: Row) -> None:
    print(f"  {name}  {line(row)}", flush=True)


def _save(result: Row, out: Path, parts: list[Running]) -> None:
    result["parts"] |= {running.part.name: running.result() for running in parts}
    write(result, out)


def _mistake(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the arguments, and what is wanted; None if they can be used."""
    if not 0 < arguments.seconds < math.inf:
        return f"--seconds must be a positive number, got {arguments.seconds:g}"
    if mistake := wrong_device(arguments.device):
        return mistake
    if arguments.out.is_dir():
        return f"--out must be a file, got the folder {arguments.out}: name a file in it"
    return None


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and few calls, to test the script")
    parser.add_argument("--seconds", type=float, default=350.0, help="for everything")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="these parts, with all the time")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--show", type=Path, metavar="FILE", help="print tables of a file, and write a page and plots")
    arguments = parser.parse_args()
    if arguments.show:
        from benchmarks.gpu_parts.show import show  # late: it needs matplotlib, which measuring does not

        show(arguments.show)
        return
    if mistake := _mistake(arguments):
        parser.error(mistake)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped from outside; the file has the rows so far"))
    begin = time.monotonic()
    place = Place(arguments.device, arguments.quick)
    try:
        parts = measure(place, arguments.seconds, arguments.only or list(PARTS), arguments.out)["parts"]
    except KeyboardInterrupt:
        raise SystemExit("stopped by Ctrl-C; the file has the rows so far") from None
    failed = [row for part in parts.values() for row in part["rows"] if row.get("passed") is False]
    broken = [name for name, part in parts.items() if part.get("failures") or part["ended"].startswith(_FAULTS)]
    print(
        f"{time.monotonic() - begin:.0f} s in all; checks failed: {len(failed)}; parts with faults: {broken or 'none'}"
    )
    for row in failed:
        print(f"  FAILED {line(row)}")
    raise SystemExit(1 if failed or broken else 0)


if __name__ == "__main__":
    main()
