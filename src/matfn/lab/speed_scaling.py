"""Part four of the speed benchmark: growth with size and batch, and the fraction of this machine's matmul rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import matfn
from matfn.engines.cost import share
from matfn.kernels import products_for
from matfn.lab import peers
from matfn.lab.speed_errors import deviation, direction
from matfn.lab.speed_polar import DTYPES, count_of, kernels
from matfn.lab.speed_rows import Contender, Report, Row, Watch, facts, measured
from matfn.lab.speed_timing import Pace

__all__ = ["BASELINE", "PRESETS", "Load", "fractions", "run"]

BASELINE = "torch matmul"


@dataclass(frozen=True)
class Load:
    """Stacks of (n, ratio n)."""

    n: int
    ratio: int
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.n} x {self.ratio * self.n}, batch {self.batch}, {self.dtype}"


def _loads(sizes: Sequence[int], ratios: Sequence[int], batches: Sequence[int]) -> tuple[Load, ...]:
    return tuple(
        Load(n, ratio, batch, dtype)
        for dtype in ("bfloat16", "float32")
        for ratio in ratios
        for batch in batches
        for n in sizes
        if batch == 1 or batch * ratio * n * n <= 2**25
    )


PRESETS: dict[str, tuple[tuple[Load, ...], Pace]] = {
    "quick": (_loads((64, 128, 256), (1,), (1, 8)), Pace(rounds=3, repeats=1, limit=2.0)),
    "full": (
        _loads((64, 128, 256, 512, 768, 1024, 2048, 4096, 8192), (1, 4), (1, 8, 32)),
        Pace(rounds=9, limit=90.0),
    ),
}


def run(loads: Sequence[Load], pace: Pace, watch: Watch = lambda text: None) -> Report:
    """Measure the loads.

    Args:
        loads: Stacks.
        pace: How long.
        watch: Told what is being measured.
    """
    rows: list[Row] = []
    for load in loads:
        watch(str(load))
        rows += _measured(load, pace)
    best = _best(rows)
    caption = (
        "Five quintic steps of Polar Express by engine and kernel. Rates count the multiply-adds really done, twice: "
        "blocked kernels those of the blocks that they compute. The fraction is of the best rate of a plain torch "
        "product of equal dtype anywhere in this run: "
        + ", ".join(f"{rate / 1e9:.0f} GF/s in {dtype}" for dtype, rate in best.items())
        + ". rms(1 - sigma) and direction of the first matrix, Gaussian. Not yet measured on a GPU."
    )
    figure = ("fraction", "fraction of this machine's matmul rate")
    stand = facts(peers.versions(), pace)
    title = "Scaling with size and batch"
    return Report("scaling", title, figure, BASELINE, caption, tuple(fractions(rows)), {}, stand)


def fractions(rows: Sequence[Row]) -> list[Row]:
    """The rows with their rate as a fraction of the best rate of a plain product of the same dtype."""
    best = _best(rows)
    return [
        row if row.rate is None else replace(row, errors={**row.errors, "fraction": row.rate / best[_dtype(row)]})
        for row in rows
    ]


def _dtype(row: Row) -> str:
    return row.case.rpartition(", ")[2]


def _best(rows: Sequence[Row]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        if row.name == BASELINE and row.rate is not None:
            found[_dtype(row)] = max(found.get(_dtype(row), 0.0), row.rate)
    return found


def _measured(load: Load, pace: Pace) -> list[Row]:
    dtype, shape = DTYPES[load.dtype], (load.n, load.ratio * load.n)
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(load.batch, *shape, generator=generator).to(dtype)
    schedule = matfn.PolarExpress().schedule(2)
    plain = load.batch * load.n * load.n * shape[1]
    contenders = [Contender(BASELINE, partial(_product, X), multiply_adds=plain)]
    chosen = products_for(X, mirrored=True)
    for name, kernel in kernels(shape, heights=(96, 192)).items():
        for engine in (matfn.Direct(), matfn.Gram()):
            work = partial(matfn.orthogonalize, X, method=schedule, engine=engine, products=kernel)
            U = work()[0]
            count = load.batch * count_of(schedule, engine, kernel, shape, dtype)
            errors = {"rms": deviation(U), "direction": direction(X[0], U)}
            label = f"{type(engine).__name__.lower()}, {name}"
            contenders.append(Contender(label, work, errors, count, kernel == chosen and engine == matfn.Direct()))
        syrk = partial(kernel.syrk, X)
        syrk()
        contenders.append(Contender(f"X X^T, {name}", syrk, multiply_adds=plain * share(kernel, load.n)))
    _product(X)
    return measured(str(load), contenders, BASELINE, pace)


def _product(X: Tensor) -> Tensor:
    """A stack as a user multiplies it, one matrix as a matrix (a batched product of one is slower on a CPU)."""
    return (X[0] @ X[0].mT)[None] if len(X) == 1 else X @ X.mT
