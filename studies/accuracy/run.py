"""The accuracy benchmark: error, steps, work and time of every method on every spectrum in every dtype."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import matfn
from matfn.train import TrainError
from matfn.train.provenance import conditions
from studies.accuracy.problems import FUNCTIONS, Problem, problem, spectrum_names
from studies.accuracy.solvers import Solver, peers, solvers, verb
from studies.accuracy.work import Work, counted, steps_of

__all__ = ["DTYPES", "QUICK_SPECTRA", "Cell", "Options", "Result", "run"]

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
QUICK_SPECTRA = ("gaussian", "gaussian tall", "log-uniform 1e-3", "rank-deficient")


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        functions: Keys of `FUNCTIONS`.
        methods: Methods as text; empty for all, at their defaults and converged.
        spectra: Names from `spectrum_names("polar")`.
        dtypes: Keys of `DTYPES`. Half precision is measured on the polar factor alone: the other functions compute in
            float32 and round.
        size: The short side of the matrices, at least 4.
        rounds: Timed calls of each solver; in each round every solver is called once.
        seed: Of spectra and factors.
    """

    functions: tuple[str, ...] = tuple(FUNCTIONS)
    methods: tuple[str, ...] = ()
    spectra: tuple[str, ...] = tuple(spectrum_names("polar"))
    dtypes: tuple[str, ...] = tuple(DTYPES)
    size: int = 64
    rounds: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse names that are none."""
        lists = (("function", FUNCTIONS), ("spectra", spectrum_names("polar")), ("dtypes", DTYPES))
        for (option, known), given in zip(lists, (self.functions, self.spectra, self.dtypes), strict=True):
            for name in given:
                if name not in known:
                    raise TrainError(f"--{option}: {name!r} is none of {', '.join(known)}")
        if self.size < 4 or self.rounds < 1:
            raise TrainError(f"--size must be at least 4 and --rounds at least 1, got {self.size} and {self.rounds}")


@dataclass(frozen=True)
class Cell:
    """One solver on one problem. A figure that does not apply, or has no result, is None.

    Attributes:
        forward: ||B - f(A)||_F / ||f(A)||_F, against the exact function of the rounded A.
        orthogonality: polar, sign: root mean square of sigma_i^2 - 1 (or - 0 off the range of A) over the range.
        direction: polar, roots: |1 - direction| of the certificate.
        residual: That of the certificate: a backward error for polar, sign and sqrt.
        steps, products, decompositions: Of one call, see `Work`; None for code that torch does not dispatch.
        seconds: Median of the rounds.
        note: Why there is no result: "refused: ...", "not finite", or "".
    """

    function: str
    solver: str
    spectrum: str
    dtype: str
    shape: tuple[int, int]
    condition: float
    note: str
    forward: float | None = None
    orthogonality: float | None = None
    direction: float | None = None
    residual: float | None = None
    steps: int | None = None
    products: float | None = None
    decompositions: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Result:
    """All cells, and the conditions of the measurement."""

    options: Options
    cells: tuple[Cell, ...]
    conditions: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def run(options: Options, *, watch: Callable[[int, int], None] = lambda done, of: None) -> Result:
    """Measure everything.

    Args:
        options: What.
        watch: Told after each problem how many of how many are done.
    """
    # Peers keep a method's name from standing alone: without them a number cannot be judged.
    everyone = [*solvers(list(options.methods)), *peers()]
    todo, cells = list(_problems(options)), []
    for done, (function, spectrum, dtype) in enumerate(todo, 1):
        case = problem(function, spectrum, DTYPES[dtype], options.size, options.seed)
        cells += _cells(case, dtype, everyone, options.rounds)
        watch(done, len(todo))
    return Result(options, tuple(cells), conditions(torch.device("cpu")))


def _problems(options: Options) -> Iterator[tuple[str, str, str]]:
    for function in options.functions:
        for dtype in options.dtypes:
            if dtype == "bfloat16" and function != "polar":
                continue
            for spectrum in options.spectra:
                if spectrum in spectrum_names(function):
                    yield function, spectrum, dtype


def _cells(case: Problem, dtype: str, everyone: list[Solver], rounds: int) -> list[Cell]:
    """One cell for each solver: first errors and work, then the time in rounds that call all of them."""
    results = {solver.name: _attempt(solver, case) for solver in everyone}
    times = _times([solver for solver in everyone if not results[solver.name]["note"]], case, rounds)
    return [
        Cell(
            case.function,
            solver.name,
            case.spectrum,
            dtype,
            (case.A.shape[0], case.A.shape[1]),
            case.condition,
            seconds=times.get(solver.name),
            **results[solver.name],
        )
        for solver in everyone
    ]


def _attempt(solver: Solver, case: Problem) -> dict[str, Any]:
    """Errors and work of one call, or the reason why there are none."""
    try:
        if solver.method is not None:
            solver.method(case.target)  # its schedule is not part of the work
        B, work = counted(lambda: solver.solve(case), case.A)
    except (ValueError, RuntimeError) as error:  # a spectrum or an exponent refused, LAPACK's own errors
        return {"note": f"refused: {str(error).splitlines()[0]}"}
    if not bool(torch.isfinite(B).all()):
        return {"note": "not finite"}
    return {"note": "", **_errors(case, B), **_work(solver, case, work)}


def _errors(case: Problem, B: Tensor) -> dict[str, float | None]:
    B, target = B.double(), case.target
    figures: dict[str, float | None] = {}
    if case.answer is not None:
        figures["forward"] = _number(torch.linalg.matrix_norm(B - case.answer) / torch.linalg.matrix_norm(case.answer))
    p = target.p if target.name == "inv_root" else None
    certificate = matfn.certify(case.A, B, of=target.name, p=p, exact=True)
    figures["residual"] = _number(certificate.residual)
    figures["direction"] = _number((1 - certificate.direction).abs())
    figures["orthogonality"] = _number(certificate.orthogonality)
    if target.name == "polar" and case.answer is None:  # rounding decides how many values count as zero
        figures["orthogonality"] = None
    elif target.name == "polar":
        wanted = (torch.arange(min(B.shape)) < case.rank).double()
        excess = torch.linalg.svdvals(B) ** 2 - wanted
        figures["orthogonality"] = _number(torch.linalg.vector_norm(excess) / case.rank**0.5)
    return figures


def _number(value: Tensor) -> float | None:
    """Four digits, more than another machine reproduces; 1e99 for infinity, which JSON lacks; or None."""
    return None if math.isnan(value.item()) else float(f"{min(value.item(), 1e99):.3e}")


def _work(solver: Solver, case: Problem, work: Work) -> dict[str, Any]:
    if solver.method is None:
        return {}
    steps = steps_of(solver.method(case.target), case.target, lambda m: verb(case.target, case.A, m))
    return {"steps": steps, "products": work.products, "decompositions": work.decompositions}


def _times(able: list[Solver], case: Problem, rounds: int) -> dict[str, float]:
    """Median seconds; each round calls every solver once, from another one on, so that a busy spell hits all."""
    spent: dict[str, list[float]] = {solver.name: [] for solver in able}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(rounds):
            shift = k % max(len(able), 1)
            for solver in [*able[shift:], *able[:shift]]:
                start = time.perf_counter()
                solver.solve(case)
                spent[solver.name].append(time.perf_counter() - start)
    return {name: round(statistics.median(values), 7) for name, values in spent.items()}
