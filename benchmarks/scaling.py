"""Part four of the speed benchmark: growth with size and batch, and the fraction of this machine's matmul rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import matfn
from benchmarks import peers
from benchmarks.budget import Budget
from benchmarks.errors import deviation, direction
from benchmarks.kernels import count_of, kernels, plain_kernels
from benchmarks.polar import DTYPES
from benchmarks.rows import Contender, Keep, Report, Row, Watch, facts, measured
from benchmarks.timing import Pace
from matfn.engines.cost import share
from matfn.iteration.schedule import Schedule
from matfn.iteration.target import POLAR
from matfn.kernels import Products
from matfn.run.plan import resolve

__all__ = ["BASELINE", "PRESETS", "Load", "fractions", "run"]

BASELINE = "torch matmul"
_PLAIN = {BASELINE, "onednn matmul"}  # the quickest of these in a run sets the rate of the machine


@dataclass(frozen=True)
class Load:
    """Stacks of (n, ratio n)."""

    n: int
    ratio: int
    batch: int
    dtype: str

    @property
    def volume(self) -> float:
        """What the time of products grows with: b n^2 m."""
        return self.batch * self.ratio * self.n**3

    def __str__(self) -> str:
        return f"{self.n} x {self.ratio * self.n}, batch {self.batch}, {self.dtype}"


def _loads(sizes: Sequence[int], ratios: Sequence[int], batches: Sequence[int]) -> tuple[Load, ...]:
    """All cases by size: time that the small ones leave over goes to the large ones."""
    found = [
        Load(n, ratio, batch, dtype)
        for dtype in ("bfloat16", "float32")
        for ratio in ratios
        for batch in batches
        for n in sizes
        if batch == 1 or batch * ratio * n * n <= 2**25
    ]
    return tuple(sorted(found, key=lambda load: load.volume))


PRESETS: dict[str, tuple[tuple[Load, ...], Pace]] = {
    "quick": (_loads((64, 128, 256), (1,), (1, 8)), Pace(rounds=3, repeats=1, limit=2.0, seconds=45.0)),
    "full": (
        _loads((64, 128, 256, 512, 768, 1024, 2048, 4096, 8192), (1, 4), (1, 8, 32)),
        Pace(rounds=9, limit=20.0, seconds=420.0),
    ),
}


def run(
    loads: Sequence[Load], pace: Pace, watch: Watch = lambda text: None, keep: Keep = lambda report: None
) -> Report:
    """Measure the loads.

    Args:
        loads: Stacks, by size.
        pace: How long.
        watch: Told what is being measured.
        keep: Given everything so far after each load.
    """
    rows: list[Row] = []
    figure, title = ("fraction", "fraction of this machine's matmul rate"), "Scaling with size and batch"
    budget, stand = Budget(pace.seconds, len(loads), pace.limit), facts(peers.versions(), pace)
    report = Report("scaling", title, figure, BASELINE, "", (), {}, stand)
    for load in loads:
        watch(str(load))
        rows += _measured(load, pace, budget)
        report = replace(report, rows=tuple(fractions(rows)), caption=_caption(rows))
        keep(report)
    return report


def fractions(rows: Sequence[Row]) -> list[Row]:
    """The rows with their rate as a fraction of the best rate of a plain product of the same dtype."""
    best = _best(rows)
    return [
        replace(row, errors={**row.errors, "fraction": row.rate / best[_dtype(row)].rate})
        if row.rate is not None and _dtype(row) in best
        else row
        for row in rows
    ]


def _dtype(row: Row) -> str:
    return row.case.rpartition(", ")[2]


def _best(rows: Sequence[Row]) -> dict[str, Any]:
    """Of each dtype the row of the quickest plain product."""
    return _quickest(rows, lambda row: row.name in _PLAIN)


def _quickest(rows: Sequence[Row], counted: Callable[[Row], bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        if row.rate is not None and counted(row) and row.rate > getattr(found.get(_dtype(row)), "rate", 0.0):
            found[_dtype(row)] = row
    return found


def _caption(rows: Sequence[Row]) -> str:
    best = _best(rows)
    machine = ", ".join(f"{row.rate / 1e9:.0f} GF/s in {d} ({row.name}, {row.case})" for d, row in best.items())
    reached = []
    for what, counted in (
        ("direct with full products", lambda row: row.name in {f"direct, {name}" for name in ("eager", "onednn")}),
        ("direct with blocked ones", lambda row: row.name.startswith("direct") and "blocked" in row.name),
        ("X X^T in blocks", lambda row: row.name.startswith("X X^T") and "blocked" in row.name),
    ):
        for dtype, row in _quickest(rows, counted).items():
            reached.append(f"{what} {row.rate / best[dtype].rate:.0%} in {dtype} ({row.name}, {row.case})")
    return (
        "Five quintic steps of Polar Express by engine and kernel. Rates count the multiply-adds really done, twice: "
        "blocked kernels those of the blocks that they compute. The machine's rate is the best of a plain product of "
        f"equal dtype, by any kernel at hand, anywhere in this run: {machine}. Most of it that was reached: "
        f"{', '.join(reached) or 'nothing yet'}. rms(1 - sigma) and direction of the first matrix, Gaussian. Not yet "
        "measured on a GPU."
    )


def _measured(load: Load, pace: Pace, budget: Budget) -> list[Row]:
    budget.open()
    generator = torch.Generator().manual_seed(4)
    X = torch.randn(load.batch, load.n, load.ratio * load.n, generator=generator).to(DTYPES[load.dtype])
    contenders, rows, seconds = [], [], []
    for who, examined in _contenders(load, X):
        if why := budget.refusal(who.name, load.dtype, load.volume, 0, len(contenders)):
            rows.append(Row(str(load), who.name, note=why))
            continue
        start = time.perf_counter()
        U: Any = who.work()
        seconds.append(time.perf_counter() - start)
        budget.called(who.name, load.dtype, load.volume, str(load), seconds[-1])
        errors = {"rms": deviation(U[0]), "direction": direction(X[0], U[0])} if examined else {}
        contenders.append(replace(who, errors=errors))
    if not contenders:
        return rows
    return [*measured(str(load), contenders, contenders[0].name, budget.pace(pace, seconds)), *rows]


def _contenders(load: Load, X: Tensor) -> Iterator[tuple[Contender, bool]]:
    """Who is timed, and whether its result is a polar factor, to be examined."""
    schedule, shape = matfn.PolarExpress().schedule(2), (load.n, load.ratio * load.n)
    plain = load.batch * load.n * load.n * shape[1]
    yield Contender(BASELINE, partial(_product, X), multiply_adds=plain), False
    plan = resolve(POLAR, schedule, shape, X.dtype, X.device, precision=X.dtype)
    yield from _by_engine(schedule, plan.products, "as chosen", X, plan.engine)
    for name, kernel in plain_kernels(X.dtype).items():
        if name != "eager":
            yield Contender(f"{name} matmul", partial(kernel.mm, X, X.mT), multiply_adds=plain), False
    for name, kernel in kernels(shape, X.dtype, heights=(96, 192)).items():
        yield from _by_engine(schedule, kernel, name, X, None)
        work = partial(kernel.syrk, X)
        yield Contender(f"X X^T, {name}", work, multiply_adds=plain * share(kernel, load.n)), False


def _by_engine(
    schedule: Schedule, kernel: Products, name: str, X: Tensor, only: Any
) -> Iterator[tuple[Contender, bool]]:
    shape = (X.shape[1], X.shape[2])
    for engine in (matfn.Direct(), matfn.Gram()) if only is None else (only,):
        work = partial(matfn.orthogonalize, X, method=schedule, engine=engine, products=kernel)
        count = len(X) * count_of(schedule, engine, kernel, shape, X.dtype)
        yield Contender(f"{type(engine).__name__.lower()}, {name}", work, {}, count, only is not None), True


def _product(X: Tensor) -> Tensor:
    """A stack as a user multiplies it, one matrix as a matrix (a batched product of one is slower on a CPU)."""
    return (X[0] @ X[0].mT)[None] if len(X) == 1 else X @ X.mT


if __name__ == "__main__":
    from benchmarks.command import command
    from matfn.train.terminal import launch

    launch(command("scaling"))
