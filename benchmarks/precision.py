"""Precision: is the default of each optimizer as quick as the better of its own precisions on this machine?

    python -m benchmarks.precision --out docs/results/precision.md

One step of Muon, NorMuon, AdaMuon and PolarGrad on stacks of equal matrices, with the default precision, in bfloat16
and in float32, in turns. `MATFN_MACHINE` forces another profile; the products are those of this processor all the same,
unless torch and oneDNN are told to do without instructions (ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.timing import Pace, Timing, interleaved
from matfn.optim import AdaMuon, Muon, NorMuon, PolarGrad
from matfn.run.machine import machine, processor

OPTIMIZERS = {"Muon": Muon, "NorMuon": NorMuon, "AdaMuon": AdaMuon, "PolarGrad": PolarGrad}
PRECISIONS = {"default": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
SHAPES = ((32, 32, 32), (32, 64, 64), (16, 64, 256), (8, 128, 512), (4, 256, 256), (2, 512, 512), (1, 768, 768))


def stepper(kind: str, precision: torch.dtype | None, number: int, m: int, n: int) -> Callable[[], object]:
    """One step on `number` matrices m x n."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.zeros(m, n)) for _ in range(number)]
    for weight in weights:
        weight.grad = torch.randn(m, n, generator=generator)
    optimizer = OPTIMIZERS[kind](weights, lr=1e-3, precision=precision)
    optimizer.step()
    return optimizer.step


def measured(shape: tuple[int, int, int], pace: Pace) -> dict[str, dict[str, Timing]]:
    """The times of each optimizer in each precision."""
    found = {}
    for kind in OPTIMIZERS:
        works = {name: stepper(kind, precision, *shape) for name, precision in PRECISIONS.items()}
        found[kind] = interleaved(works, "default", pace)
    return found


def table(rows: dict[tuple[int, int, int], dict[str, dict[str, Timing]]]) -> str:
    """Milliseconds of a step, and the default by the better precision."""
    chosen = machine(torch.device("cpu"))
    lines = [
        "# The default precision beside the others",
        "",
        f"{processor()[1] or 'processor unknown'}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}; profile `{chosen.name}`, which iterates in "
        f"{str(chosen.narrow).removeprefix('torch.')}. Milliseconds of one step, the least of the rounds, in turns; "
        "made by `python -m benchmarks.precision`.",
        "",
        "| matrices | optimizer | default | bfloat16 | float32 | default / best |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for (number, m, n), kinds in rows.items():
        for kind, timings in kinds.items():
            least = {name: 1e3 * timing.least for name, timing in timings.items()}
            best = min(least["bfloat16"], least["float32"])
            cells = " | ".join(f"{least[name]:.2f}" for name in PRECISIONS)
            lines.append(f"| {number} x {m} x {n} | {kind} | {cells} | {least['default'] / best:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--out", type=Path, help="file for the table, in Markdown")
    asked = parser.parse_args()
    if asked.threads is not None and not 1 <= asked.threads <= 1024:
        parser.error(f"--threads is from 1 to 1024, got {asked.threads}")
    if asked.threads:
        torch.set_num_threads(asked.threads)
    rows = {}
    for shape in SHAPES:
        rows[shape] = measured(shape, Pace(rounds=asked.rounds, repeats=1, limit=5.0))
        print(table({shape: rows[shape]}).splitlines()[-len(OPTIMIZERS) :], flush=True)
    text = table(rows)
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    from matfn.train.terminal import guarded

    guarded(main)
