"""The cost model against measurements: plans on kernels in several shapes, timed in turns with their products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

import matfn
from benchmarks import peers
from benchmarks.budget import Budget
from benchmarks.drawing import foot, legend
from benchmarks.drawing import write as write_figure
from benchmarks.rows import Watch, facts
from benchmarks.timing import Pace, interleaved
from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import Products
from matfn.run.arguments import check_rounding
from matfn.run.plan import DEFLATED, LIFTED
from matfn.train import drawing
from studies.tune.plan import Plan, plan_of
from studies.tune.rates import Request, candidates, product_works, stack
from studies.tune.tune import foretold, laws_of

__all__ = ["CASES", "PACE", "Agreement", "Point", "figure", "run", "write"]

_SHAPES = ((256, 1024), (768, 768), (1024, 1024), (768, 3072))
_DEGREES = ((3,) * 4, (5,) * 3, (5,) * 5, (7, 5, 5), (9, 9, 9))
_KERNELS = ("eager", "blocked 96", "blocked 192", "onednn", "onednn blocked 192")
CASES = tuple(Request(shape, dtype) for dtype in (torch.bfloat16, torch.float32) for shape in _SHAPES)
PACE = Pace(rounds=5, repeats=0, limit=10.0, seconds=240.0)


@dataclass(frozen=True)
class Point:
    """A plan on a kernel.

    Attributes:
        case: Shape and dtype.
        plan: Its name.
        kernel: Its name.
        predicted: Seconds, from the quickest call of each product.
        measured: Seconds of the quickest call.
        median, spread: Seconds; quartile range by median.
    """

    case: str
    plan: str
    kernel: str
    predicted: float
    measured: float
    median: float
    spread: float

    @property
    def ratio(self) -> float:
        """Measured over predicted time: above 1 the model is too optimistic."""
        return self.measured / self.predicted


@dataclass(frozen=True)
class Agreement:
    """All points of a run, and its conditions."""

    points: tuple[Point, ...]
    conditions: dict[str, str]

    def ratios(self, text: str = "") -> tuple[float, float, float]:
        """Quartiles of measured over predicted time, of the cases whose names contain the text."""
        values = [point.ratio for point in self.points if text in point.case]
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return low, middle, high

    def cases(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(point.case for point in self.points))

    def caption(self) -> str:
        """The error of the model in words."""
        parts = []
        for case in ("", *self.cases()):
            low, middle, high = self.ratios(case)
            parts.append(f"{case or 'all'} {middle:.2f} ({low:.2f}-{high:.2f})")
        return (
            "Measured by predicted time, median and quartiles: " + "; ".join(parts) + ". Both are of the quickest "
            "of the rounds, in which plans and products take turns; deflation is predicted by its own time, with the "
            "scaling around it. Not yet measured on a GPU."
        )


def run(
    cases: Sequence[Request],
    pace: Pace = PACE,
    watch: Watch = lambda text: None,
    keep: Callable[[Agreement], object] = lambda found: None,
) -> Agreement:
    """Measure the cases.

    Args:
        cases: Shapes and dtypes.
        pace: How long; rounds are left out to keep to its seconds.
        watch: Told what is being measured.
        keep: Given everything so far after each case.
    """
    found = Agreement((), facts(peers.versions(), pace))
    budget = Budget(pace.seconds, len(cases), pace.limit)
    for request in cases:
        watch(_name(request))
        budget.open()
        found = replace(found, points=(*found.points, *_points(request, pace, budget)))
        keep(found)
    return found


def _name(request: Request) -> str:
    return f"{request.shape[0]} x {request.shape[1]}, {str(request.dtype).removeprefix('torch.')}"


def _points(request: Request, pace: Pace, budget: Budget) -> Iterator[Point]:
    kernels = {name: kernel for name, kernel in candidates(request)[0].items() if name in _KERNELS}
    plans = list(_plans(request))
    X = stack(request, *request.shape, request.dtype)
    called = {(plan.name, name): _call(plan, kernel, request, X) for plan in plans for name, kernel in kernels.items()}
    products = sorted({product for plan in plans for product in plan.products}, key=repr)
    shares = sorted({plan.deflation for plan in plans})
    works, read = product_works(request, kernels, products, shares)
    works |= {f"{plan}, {name}": work for (plan, name), work in called.items()}
    start = time.perf_counter()
    for work in works.values():
        work()
    timings = interleaved(works, "sum", budget.pace(pace, [time.perf_counter() - start]))
    for candidate in foretold(request, plans, kernels, *read(timings)):
        t = timings[candidate.name]
        yield Point(
            _name(request), candidate.plan.name, candidate.kernel, candidate.predicted, t.least, t.median, t.spread
        )


def _plans(request: Request) -> Iterator[Plan]:
    """Mixes of degrees, good or bad, on both engines; Gram has a restart unless deflation makes it needless."""
    laws = laws_of(request.shape, ())
    for method in (*(matfn.PolarExpress(degrees) for degrees in _DEGREES), LIFTED, DEFLATED):
        try:
            check_rounding(ORTHOGONALIZE, method.schedule(2), request.dtype)
        except ValueError:
            continue
        for engine in (matfn.Direct(), matfn.Gram(() if method.deflation else (2,))):
            yield plan_of(method, engine, request.shape, request.dtype, laws)


def _call(plan: Plan, kernel: Products, request: Request, X: torch.Tensor) -> Callable[[], object]:
    taken = partial(matfn.orthogonalize, X, method=plan.schedule, engine=plan.engine, products=kernel)
    return partial(taken, precision=request.dtype)


def write(found: Agreement, directory: Path) -> list[Path]:
    """Write tune-model.json and tune-model.png; the paths are returned."""
    plain = {"caption": found.caption(), "conditions": found.conditions, "points": [asdict(p) for p in found.points]}
    return write_figure(directory / "tune-model", plain, figure(found))


def figure(found: Agreement) -> Figure:
    """Measured against predicted time and the identity: a colour for a shape, a mark for a kernel, open in float32."""
    with matplotlib.rc_context(drawing.STYLE):
        drawn = Figure(figsize=(9, 6), layout="constrained")
        axes = drawn.subplots()
        shapes = list(dict.fromkeys(case.partition(",")[0] for case in found.cases()))
        kernels = list(dict.fromkeys(point.kernel for point in found.points))
        for point in found.points:
            colour = drawing.COLOURS[shapes.index(point.case.partition(",")[0]) % len(drawing.COLOURS)]
            look: dict[str, Any] = {
                "color": colour,
                "marker": drawing.MARKERS[kernels.index(point.kernel) % len(drawing.MARKERS)],
                "markerfacecolor": "none" if point.case.endswith("float32") else colour,
            }
            at = 1e3 * point.predicted, 1e3 * point.measured
            axes.plot(*at, linestyle="none", markersize=5, label=f"{point.case}, {point.kernel}", **look)
        ends = [1e3 * t for point in found.points for t in (point.predicted, point.measured)]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="#999999", linewidth=1, label="equal")
        axes.set(xscale="log", yscale="log", xlabel="predicted time of a call, ms", ylabel="measured time, ms")
        low, middle, high = found.ratios()
        axes.set_title(f"Cost model: measured / predicted {middle:.2f}, quartiles {low:.2f} to {high:.2f}")
        legend(drawn, [axes], size=7)
        foot(drawn, found.conditions, "quickest of the rounds")
        return drawn
