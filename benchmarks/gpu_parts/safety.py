"""Safety in half precision: the largest singular value of the result on spectra that break an unsafe iteration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Work
from benchmarks.gpu_parts.spectra import errors, spread_out
from benchmarks.gpu_parts.variants import METHODS, stack_work

__all__ = ["BOUND", "cases", "spectra"]

# Schedules end at up to 1.15, and deflation turns a little: what diverges goes to 11 and 19 (H200, 2026-11-26).
BOUND = 1.3


def cases(place: Place) -> list[Case]:
    """A case for each shape: wide, square and tall. All iterate in float16, also where the plan takes another dtype."""
    shapes = place.pick(((2, 512, 2048), (2, 768, 768), (2, 2048, 512)), ((2, 64, 160), (2, 96, 96)))
    return [Case(" x ".join(map(str, shape)), partial(_rows, shape)) for shape in shapes]


def spectra(n: int, device: str) -> dict[str, Tensor]:
    """Singular values by name."""
    i = torch.arange(1, n + 1, device=device, dtype=torch.float32)
    ones = torch.ones(n, device=device)
    found = {
        "flat": ones, "i^-0.75": i**-0.75, "i^-2": i**-2, "6 decades": torch.logspace(0, -6, n, device=device),
        "3 decades": torch.logspace(0, -3, n, device=device), "half zero": (i <= n / 2).float(),
        "rank 1": (i == 1).float(), "one outlier": torch.where(i == 1, 100.0, ones),
        "a tenth of outliers": torch.where(i <= n / 10, 100.0, ones), "zero": 0 * ones,
        "two levels, 1e-3": torch.where(i <= n / 2, 1.0, 1e-3 * ones),
        "two levels, 1e-5": torch.where(i <= n / 2, 1.0, 1e-5 * ones),
    }  # fmt: skip
    return found


def _rows(shape: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    for name, sigma in spectra(min(shape[1:]), bench.place.device).items():
        X, _ = spread_out(shape, bench.place.device, sigma)
        for method in METHODS:
            row: Row = {"shape": shape, "spectrum": name, "method": method}
            try:
                yield row | bench.attempt(f"{name}, {method}", partial(_row, X, sigma, method))
            except Skipped as why:
                yield row | {"skipped": str(why)}


def _row(X: Tensor, sigma: Tensor, method: str) -> Row:
    work: Work
    work, facts = stack_work(X, method, precision=torch.float16)
    U = work()
    if not bool(sigma.any()):
        return {"precision": facts["precision"], "largest": U.abs().max().item(), "passed": not bool(U.any())}
    found = errors(U, X, sigma)
    return {"precision": facts["precision"], **found, "passed": found["largest"] <= BOUND}
