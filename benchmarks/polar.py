"""Part one of the speed benchmark: orthogonalization, time against error, of every method, engine, kernel and peer."""

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
from benchmarks.errors import deviation, direction, matrix
from benchmarks.kernels import count_of, kernels
from benchmarks.rows import Contender, Keep, Report, Row, Watch, facts, measured
from benchmarks.timing import Pace
from matfn.iteration.protocols import Scheduled
from matfn.iteration.schedule import Schedule
from matfn.iteration.target import POLAR
from matfn.kernels import Products
from matfn.run.plan import Purpose, resolve
from studies.accuracy.solvers import method_of

__all__ = ["BASELINE", "DTYPES", "MUON", "PRESETS", "SPECTRA", "Case", "Solver", "errors_of", "ours", "run"]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16, "float64": torch.float64}
SPECTRA = ("gaussian", "log-uniform 1e-3")
BASELINE = "torch.optim.Muon"
MUON = "matfn.optim.Muon's"
LARGE = 2048  # beyond, the same matrix of known spectrum is timed and examined
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

    @property
    def volume(self) -> float:
        """What the time of products grows with: b n^2 m, n the short side."""
        return self.batch * min(self.shape) ** 2 * max(self.shape)

    def __str__(self) -> str:
        m, n = self.shape
        return f"{m} x {n}, batch {self.batch}, {self.dtype}"


def _cases(squares: tuple[int, ...], wide: tuple[tuple[int, int], ...], batches: tuple[int, ...]) -> tuple[Case, ...]:
    """All cases by size: time that the small ones leave over goes to the large ones."""
    shapes = [*((n, n) for n in squares), *wide]
    # 2^25 entries are 128 MB in float32: a larger stack shows no more than its matrices one by one.
    found = [
        Case(shape, batch, dtype)
        for dtype in ("bfloat16", "float32")
        for shape in shapes
        for batch in batches
        if batch == 1 or batch * shape[0] * shape[1] <= 2**25
    ]
    return tuple(sorted(found, key=lambda case: case.volume))


PRESETS: dict[str, tuple[tuple[Case, ...], Pace]] = {
    "quick": (_cases((128,), ((128, 512),), (1, 8)), Pace(rounds=3, repeats=1, limit=2.0, seconds=45.0)),
    "full": (
        _cases(
            (128, 256, 512, 768, 1024, 2048, 4096, 8192),
            ((768, 1536), (768, 3072), (768, 6144), (3072, 768)),
            (1, 8, 32),
        ),
        Pace(rounds=9, limit=20.0, seconds=420.0),
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


def ours(shape: tuple[int, int], dtype: torch.dtype) -> Iterator[Solver]:
    """What is done unasked, Muon's default, every method, Gram for schedules, and the kernels under the default."""
    cpu = torch.device("cpu")
    chosen = resolve(POLAR, None, shape, dtype, cpu, precision=dtype).products
    for spec in ("polar-express", *(name for name in matfn.METHODS if name != "polar-express"), *_MORE):
        method, usual = method_of(spec), spec == "polar-express"
        default = _usual(method, shape, dtype)
        yield Solver(spec, partial(matfn.orthogonalize, method=method), _plan(method, default), chosen, usual)
        if usual:
            step = resolve(POLAR, None, shape, dtype, cpu, purpose=Purpose.STEP)
            run = partial(matfn.orthogonalize, method=step.method, engine=step.engine)
            yield Solver(MUON, run, _plan(step.method, step.engine), chosen)
        other = matfn.Gram() if isinstance(default, matfn.Direct) else matfn.Direct()
        if (plan := _plan(method, other)) is not None and plan[0].degrees[0] <= 5:
            name = f"{spec}, {type(other).__name__.lower()}"
            yield Solver(name, partial(matfn.orthogonalize, method=method, engine=other), plan, chosen)
    schedule = matfn.PolarExpress().schedule(2)
    for name, kernel in kernels(shape, dtype).items():
        for engine in (matfn.Direct(), matfn.Gram()):
            run = partial(matfn.orthogonalize, method=schedule, engine=engine, products=kernel)
            yield Solver(f"polar-express, {type(engine).__name__.lower()}, {name}", run, (schedule, engine), kernel)


def _usual(method: Any, shape: tuple[int, int], dtype: torch.dtype) -> Any:
    """The engine that the method gets if none is named."""
    try:
        return resolve(POLAR, method, shape, dtype, torch.device("cpu")).engine
    except ValueError:  # `orthogonalize` refuses the method in this dtype, and its row will say so
        return matfn.Direct()


def _plan(method: Any, engine: Any) -> tuple[Schedule, Any] | None:
    if not isinstance(method, Scheduled):
        return None
    schedule = method.schedule(2)
    try:
        return (schedule, engine) if schedule.degrees else None
    except TypeError:  # steps by decompositions
        return None


def run(
    cases: Sequence[Case], pace: Pace, watch: Watch = lambda text: None, keep: Keep = lambda report: None
) -> Report:
    """Measure the cases.

    Args:
        cases: Stacks, by size.
        pace: How long.
        watch: Told what is being measured.
        keep: Given everything so far after each case.
    """
    found, absent = peers.installed(peers.POLAR)
    others = [Solver(peer.name, function) for peer, function in found.items()]
    known: dict[tuple[tuple[int, int], str, str], dict[str, float]] = {}
    budget, stand = Budget(pace.seconds, len(cases), pace.limit), facts(peers.versions(), pace)
    report = Report("polar", _TITLE, _FIGURE, BASELINE, _CAPTION, (), absent, stand)
    for case in cases:
        watch(str(case))
        solvers = _in_turn([*others, *ours(case.shape, DTYPES[case.dtype])])
        report = replace(report, rows=(*report.rows, *_measured(case, solvers, pace, known, budget)))
        keep(report)
    return report


_TITLE, _FIGURE = (
    "Orthogonalization: time against error",
    ("rms, log-uniform 1e-3", "rms of 1 - sigma, log-uniform 1e-3"),
)
_CAPTION = (
    "rms(1 - sigma) and direction <U, X> / ||X||_* of the result, on a Gaussian matrix and on one with log-uniform "
    f"singular values in [1e-3, 1]; times of stacks of Gaussian matrices of the dtype named, beyond {LARGE} rows of "
    f"the log-uniform one; speeds relative to {BASELINE} in pairs of one round. Peers' iterations are in bfloat16 "
    "whatever the dtype, those of gram-newton-schulz in float16. Rates count the products really done, those "
    "of deflation, in float32, like the others. Not yet measured on a GPU."
)


def _in_turn(solvers: list[Solver]) -> list[Solver]:
    """The baseline and the library's choices first, since a budget leaves out the last contenders."""
    return sorted(solvers, key=lambda s: 0 if s.name == BASELINE else 1 if s.choice else 2 if s.name == MUON else 3)


def _measured(
    case: Case,
    solvers: list[Solver],
    pace: Pace,
    known: dict[tuple[tuple[int, int], str, str], dict[str, float]],
    budget: Budget,
) -> list[Row]:
    budget.open()
    dtype, rows, contenders, seconds = DTYPES[case.dtype], [], [], []
    large = min(case.shape) > LARGE
    samples = [matrix(spectrum, case.shape, dtype) for spectrum in SPECTRA[large:]]
    generator = torch.Generator().manual_seed(2)
    X = samples[0][None] if large else torch.randn(case.batch, *case.shape, generator=generator).to(dtype)
    for solver in solvers:
        key = (case.shape, case.dtype, solver.name)
        extra = 0 if large or key in known else len(SPECTRA)
        if why := budget.refusal(solver.name, case.dtype, case.volume, extra, len(contenders)):
            rows.append(Row(str(case), solver.name, known.get(key, {}), note=why))
            continue
        try:
            if extra:  # errors do not depend on the batch
                known[key] = errors_of(samples, solver.run(torch.stack(samples)))
            start = time.perf_counter()
            U = solver.run(X)
            seconds.append(time.perf_counter() - start)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            rows.append(Row(str(case), solver.name, note=f"refused: {' '.join(str(error).split())[:120]}"))
            continue
        if large:
            known[key] = errors_of(samples, U)
        budget.called(solver.name, case.dtype, case.volume, str(case), seconds[-1])
        contenders.append(_contender(solver, case, X, known[key]))
    if not contenders:
        return rows
    baseline = BASELINE if any(c.name == BASELINE for c in contenders) else contenders[0].name
    return [*measured(str(case), contenders, baseline, budget.pace(pace, seconds)), *rows]


def _contender(solver: Solver, case: Case, X: Tensor, errors: dict[str, float]) -> Contender:
    count = None
    if solver.plan is not None and solver.kernel is not None:
        count = case.batch * count_of(*solver.plan, solver.kernel, case.shape, X.dtype)
    return Contender(solver.name, partial(solver.run, X), errors, count, solver.choice)


def errors_of(samples: Sequence[Tensor], U: Tensor) -> dict[str, float]:
    """rms(1 - sigma) and direction of the results of one matrix of each of the last of `SPECTRA`."""
    names = SPECTRA[-len(samples) :]
    found = {f"rms, {spectrum}": deviation(u) for spectrum, u in zip(names, U, strict=True)}
    pointing = {f"direction, {s}": direction(x, u) for s, x, u in zip(names, samples, U, strict=True)}
    return found | pointing


if __name__ == "__main__":
    from benchmarks.command import command
    from matfn.train.terminal import launch

    launch(command("polar"))
