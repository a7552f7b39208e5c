"""Part one of the speed benchmark: orthogonalization, time against error, of every method, engine, kernel and peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import matfn
from matfn.engines.choose import choose
from matfn.engines.cost import computed, products_of
from matfn.engines.restarts import restarts_for
from matfn.kernels import EAGER, Blocked, Products, products_for
from matfn.lab import peers
from matfn.lab.bench_solvers import method_of
from matfn.lab.speed_errors import deviation, direction, matrix
from matfn.lab.speed_rows import Contender, Report, Row, Watch, facts, measured
from matfn.lab.speed_timing import Pace
from matfn.method import Scheduled
from matfn.schedule import Schedule
from matfn.target import POLAR

__all__ = [
    "BASELINE",
    "DTYPES",
    "PRESETS",
    "SPECTRA",
    "Case",
    "Solver",
    "count_of",
    "kernels",
    "ours",
    "run",
]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16, "float64": torch.float64}
SPECTRA = ("gaussian", "log-uniform 1e-3")
BASELINE = "torch.optim.Muon"
HEIGHTS = (64, 96, 128, 192, 256, 384)  # of a block row
# Beside every method at its defaults: the steps that people choose between.
_MORE = (
    "polar-express:steps=3",
    "polar-express:steps=4",
    "polar-express:steps=7",
    "polar-express:degree=(9,9,9)",
    "tuned:name=you",
)


@dataclass(frozen=True)
class Case:
    """A stack of equal matrices."""

    shape: tuple[int, int]
    batch: int
    dtype: str

    def __str__(self) -> str:
        m, n = self.shape
        return f"{m} x {n}, batch {self.batch}, {self.dtype}"


def _cases(squares: tuple[int, ...], wide: tuple[tuple[int, int], ...], batches: tuple[int, ...]) -> tuple[Case, ...]:
    shapes = [*((n, n) for n in squares), *wide]
    # 2^25 entries are 128 MB in float32: a larger stack tells nothing that its matrices alone do not.
    return tuple(
        Case(shape, batch, dtype)
        for dtype in ("bfloat16", "float32")
        for shape in shapes
        for batch in batches
        if batch == 1 or batch * shape[0] * shape[1] <= 2**25
    )


PRESETS: dict[str, tuple[tuple[Case, ...], Pace]] = {
    "quick": (_cases((128,), ((128, 512),), (1, 8)), Pace(rounds=3, repeats=1, limit=2.0)),
    "full": (
        _cases(
            (128, 256, 512, 768, 1024, 2048, 4096, 8192),
            ((768, 1536), (768, 3072), (768, 6144), (3072, 768)),
            (1, 8, 32),
        ),
        Pace(rounds=9, limit=60.0),
    ),
}


@dataclass(frozen=True)
class Solver:
    """A way to the polar factor: of stacks (b, m, n).

    Attributes:
        name: As shown.
        run: Computes it.
        plan: Schedule and engine, where the products can be counted beforehand.
        kernel: The products, None for those that the library chooses.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    plan: tuple[Schedule, Any] | None = None
    kernel: Products | None = None
    choice: bool = False


def kernels(shape: tuple[int, int], heights: Sequence[int] = HEIGHTS) -> dict[str, Products]:
    """The kernels that run here on such matrices, by name: full products, and blocked ones that have two rows.

    The Triton kernels need a CUDA device; see `matfn tune` for what is said of them elsewhere.
    """
    return {"eager": EAGER, **{f"blocked {rows}": Blocked(rows) for rows in heights if min(shape) >= 2 * rows}}


def count_of(schedule: Schedule, engine: Any, kernel: Products, shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Multiply-adds that one matrix takes."""
    if isinstance(engine, matfn.Gram) and engine.restarts is None:
        engine = matfn.Gram(restarts_for(schedule, dtype))
    return sum(computed(product, kernel) for product in products_of(schedule, engine, shape))


def ours(shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Solver]:
    """Every method as `orthogonalize` runs it, Gram for those with a schedule, and each kernel under the default."""
    chosen = products_for(torch.empty(1, *shape, dtype=dtype, device="cpu"), mirrored=True)
    for spec in (*matfn.METHODS, *_MORE):
        method, default, usual = method_of(spec), choose(POLAR), spec == "polar-express"
        yield Solver(spec, partial(matfn.orthogonalize, method=method), _plan(method, default), chosen, usual)
        other = matfn.Gram() if isinstance(default, matfn.Direct) else matfn.Direct()
        if (plan := _plan(method, other)) is not None and plan[0].degrees[0] <= 5:
            name = f"{spec}, {type(other).__name__.lower()}"
            yield Solver(name, partial(matfn.orthogonalize, method=method, engine=other), plan, chosen)
    schedule = matfn.PolarExpress().schedule(2)
    for name, kernel in kernels(shape).items():
        for engine in (matfn.Direct(), matfn.Gram()):
            run = partial(matfn.orthogonalize, method=schedule, engine=engine, products=kernel)
            yield Solver(f"polar-express, {type(engine).__name__.lower()}, {name}", run, (schedule, engine), kernel)


def _plan(method: Any, engine: Any) -> tuple[Schedule, Any] | None:
    if not isinstance(method, Scheduled):
        return None
    schedule = method.schedule(2)
    try:
        return (schedule, engine) if schedule.degrees else None
    except TypeError:  # steps by decompositions
        return None


def run(cases: tuple[Case, ...], pace: Pace, watch: Watch = lambda text: None) -> Report:
    """Measure the cases.

    Args:
        cases: Stacks.
        pace: How long.
        watch: Told what is being measured.
    """
    found, absent = peers.installed(peers.POLAR)
    others = [Solver(peer.name, function) for peer, function in found.items()]
    rows: list[Row] = []
    known: dict[tuple[tuple[int, int], str, str], dict[str, float]] = {}
    for case in cases:
        watch(str(case))
        rows += _measured(case, [*others, *ours(case.shape, DTYPES[case.dtype])], pace, known)
    caption = (
        "rms(1 - sigma) and direction <U, X> / ||X||_* of the result, on a Gaussian matrix and on one with log-uniform "
        "singular values in [1e-3, 1]; times of stacks of Gaussian matrices of the dtype named; speeds relative to "
        f"{BASELINE} in pairs of one round. Peers' iterations are in bfloat16 whatever the dtype, those of "
        "gram-newton-schulz in float16. Rates count the products really done. Not yet measured on a GPU."
    )
    title, figure = (
        "Orthogonalization: time against error",
        ("rms, log-uniform 1e-3", "rms of 1 - sigma, log-uniform 1e-3"),
    )
    return Report("polar", title, figure, BASELINE, caption, tuple(rows), absent, facts(peers.versions(), pace))


def _measured(
    case: Case, solvers: list[Solver], pace: Pace, known: dict[tuple[tuple[int, int], str, str], dict[str, float]]
) -> list[Row]:
    dtype, rows, contenders = DTYPES[case.dtype], [], []
    samples = [matrix(spectrum, case.shape, dtype) for spectrum in SPECTRA]
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(case.batch, *case.shape, generator=generator).to(dtype)
    for solver in solvers:
        key = (case.shape, case.dtype, solver.name)
        try:
            if key not in known:  # a stack gives what its matrices give alone: the errors are those of any batch
                known[key] = errors_of(samples, solver.run(torch.stack(samples)))
            solver.run(X)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            rows.append(Row(str(case), solver.name, note=f"refused: {' '.join(str(error).split())[:120]}"))
            continue
        count = None
        if solver.plan is not None and solver.kernel is not None:
            count = case.batch * count_of(*solver.plan, solver.kernel, case.shape, dtype)
        contenders.append(Contender(solver.name, partial(solver.run, X), known[key], count, solver.choice))
    baseline = BASELINE if any(c.name == BASELINE for c in contenders) else contenders[0].name
    return [*measured(str(case), contenders, baseline, pace), *rows]


def errors_of(samples: Sequence[Tensor], U: Tensor) -> dict[str, float]:
    """rms(1 - sigma) and direction of the results of one matrix of each of `SPECTRA`."""
    found = {f"rms, {spectrum}": deviation(u) for spectrum, u in zip(SPECTRA, U, strict=True)}
    pointing = {f"direction, {s}": direction(x, u) for s, x, u in zip(SPECTRA, samples, U, strict=True)}
    return found | pointing
