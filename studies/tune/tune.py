"""Tune: the cost of a shape by kernel, engine and schedule, predicted by a cost model and then measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

import matfn
from benchmarks import peers
from benchmarks.errors import deviation, direction, matrix
from benchmarks.polar import BASELINE, SPECTRA, errors_of
from benchmarks.report import front
from benchmarks.rows import Watch, facts
from benchmarks.timing import Timing, interleaved
from matfn.engines.restarts import restarts_for
from matfn.iteration.target import POLAR
from matfn.kernels import Products
from matfn.run.plan import Purpose, RunPlan, resolve
from studies.tune.laws import Laws
from studies.tune.plan import Aside, Plan, plan_of, predicted
from studies.tune.plans import families, plans
from studies.tune.rates import Rate, Request, candidates, measured_rates, plan_for, seconds_of, stack, synchronised

__all__ = ["FIGURES", "Candidate", "Tuning", "foretold", "laws_of", "tune", "usual_plans"]

FIGURES = ("rms, momenta", f"rms, {SPECTRA[1]}")  # the error of the measured front: the first of these that is measured


@dataclass(frozen=True)
class Candidate:
    """A plan on a kernel. Values not measured are None or empty; `choice` names the function whose default it is."""

    plan: Plan
    kernel: str
    predicted: float
    timing: Timing | None = None
    errors: Mapping[str, float] | None = None
    choice: str = ""
    best: bool = False

    @property
    def name(self) -> str:
        """Degrees, engine, kernel."""
        return f"{self.plan.name}, {self.kernel}"


@dataclass(frozen=True)
class Tuning:
    """The results.

    Attributes:
        request: What was asked.
        rates: Of each kernel.
        aside: Seconds of what is not a product of the kernel: deflation, scaling, sums of powers.
        foretold: All plans on all kernels, not measured.
        measured: Those that were, by time; `best` ones are the measured Pareto front.
        kernel: The products that the plan chooses: their name, and why.
        usual: The defaults of `orthogonalize` and of `optim.Muon`.
        reasons: Why they are the defaults: for the method, then for the engine.
        beside: Time and errors of torch's own Muon, if it is here.
        refused: Degrees that the dtype does not bear.
        absent: Kernels that do not run here, and why.
        conditions: Of the run.
    """

    request: Request
    rates: tuple[Rate, ...]
    aside: Aside
    foretold: tuple[Candidate, ...]
    measured: tuple[Candidate, ...]
    kernel: tuple[str, str]
    usual: dict[str, Plan]
    reasons: dict[str, tuple[str, str]]
    beside: tuple[Timing, dict[str, float]] | None
    refused: tuple[str, ...]
    absent: dict[str, str]
    conditions: dict[str, str]

    @property
    def figure(self) -> str:
        """The error of the front."""
        return next(name for name in FIGURES if name in (self.measured[0].errors or {}))


def tune(request: Request, watch: Watch = lambda text: None, momenta: Sequence[Tensor] = ()) -> Tuning:
    """Measure the kernels, predict every plan, measure the promising ones.

    Args:
        request: What.
        watch: Told what is being done.
        momenta: Matrices of a training run (`python -m studies.momenta`): plans are weighed by them and measured on
            them too. Without them it is a log-uniform spectrum.
    """
    found, chosen, absent = candidates(request)
    named = next(name for name, kernel in found.items() if kernel == chosen)
    watch("schedules")
    laws = laws_of(request.shape, momenta)
    everything, refused = plans(request.shape, request.dtype, families(request.shape, request.lowers), laws)
    usual = usual_plans(request, laws)
    everything = tuple(dict.fromkeys([*everything, *usual.values()]))
    watch("rates of the kernels")
    products, shares = {p for plan in everything for p in plan.products}, {plan.deflation for plan in everything}
    rates, aside = measured_rates(request, found, sorted(products, key=repr), sorted(shares))
    cloud = tuple(foretold(request, everything, found, rates, aside))
    watch("plans")
    picked = list(dict.fromkeys([*_promising(cloud, request.rows), *(c for c in cloud if c.plan in usual.values())]))
    whose = {(plan, named): name for name, plan in usual.items()}
    measured, beside = _measured(request, picked, found, whose, momenta)
    stand = facts(peers.versions(), request.pace)
    kernel = named, dict(plan_for(request).reasons)["products"]
    told = {name: dict(run.reasons) for name, run in usual_runs(request).items()}
    why = {name: (reasons["method"], reasons["engine"]) for name, reasons in told.items()}
    return Tuning(request, rates, aside, cloud, measured, kernel, usual, why, beside, refused, absent, stand)


def laws_of(shape: tuple[int, int], momenta: Sequence[Tensor]) -> Laws:
    """The singular values of the momenta; without momenta, of a matrix with a log-uniform spectrum."""
    return Laws([x.float() for x in momenta] or [matrix(SPECTRA[1], shape, torch.float32)])


def usual_runs(request: Request) -> dict[str, RunPlan]:
    """The default plans of `orthogonalize` and `optim.Muon` in the dtype of the request."""
    device, dtype = torch.device(request.device), request.dtype
    step = resolve(POLAR, None, request.shape, torch.float32, device, purpose=Purpose.STEP, precision=dtype)
    return {"orthogonalize": plan_for(request), "Muon": step}


def usual_plans(request: Request, laws: Laws) -> dict[str, Plan]:
    """The defaults of `orthogonalize` and `optim.Muon` as plans of this study."""
    found = {}
    for name, run in usual_runs(request).items():
        taken, engine = run.method, run.engine
        assert isinstance(taken, matfn.PolarExpress), "every default is a PolarExpress"
        assert isinstance(engine, matfn.Direct | matfn.Gram), "polar factors have these two engines"
        automatic = isinstance(engine, matfn.Gram) and engine.restarts is None
        spelt = matfn.Gram(restarts_for(taken.schedule(2), request.dtype)) if automatic else engine
        found[name] = plan_of(taken, spelt, request.shape, request.dtype, laws)
    return found


def foretold(
    request: Request, everything: Sequence[Plan], found: Mapping[str, Products], rates: Sequence[Rate], aside: Aside
) -> list[Candidate]:
    """Every plan on every kernel, with its time."""
    own = {name: seconds_of(rates, kernel, name) for name, kernel in found.items()}
    return [
        Candidate(plan, name, predicted(plan, own[name], aside, request.shape)) for plan in everything for name in found
    ]


def _promising(cloud: Sequence[Candidate], count: int) -> list[Candidate]:
    """The predicted front, thinned evenly to at most `count`."""
    best = [cloud[i] for i in front([(c.plan.total, c.predicted) for c in cloud])]
    if len(best) <= count:
        return best
    return [best[round(i * (len(best) - 1) / max(1, count - 1))] for i in range(count)]


def _measured(
    request: Request,
    picked: Sequence[Candidate],
    found: Mapping[str, Products],
    whose: Mapping[tuple[Plan, str], str],
    momenta: Sequence[Tensor],
) -> tuple[tuple[Candidate, ...], tuple[Timing, dict[str, float]] | None]:
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    for c in picked:
        kernel, engine = found[c.kernel], c.plan.engine
        taken = partial(matfn.orthogonalize, method=c.plan.schedule, engine=engine, products=kernel)
        runs[c.name] = partial(taken, precision=request.dtype)
    there, _ = peers.installed([peer for peer in peers.POLAR if peer.name == BASELINE])
    if there:
        (runs[BASELINE],) = there.values()
    errors = {name: _errors(request, run, momenta) for name, run in runs.items()}
    X = stack(request, *request.shape, request.dtype)
    works = {name: synchronised(partial(run, X), request.device) for name, run in runs.items()}
    for work in works.values():
        work()
    base = next((c.name for c in picked if (c.plan, c.kernel) in whose), picked[0].name)
    timings = interleaved(works, base, request.pace)
    figure = next(name for name in FIGURES if name in errors[picked[0].name])
    best = set(front([(errors[c.name][figure], timings[c.name].median) for c in picked]))
    rows = [
        Candidate(
            c.plan, c.kernel, c.predicted, timings[c.name], errors[c.name], whose.get((c.plan, c.kernel), ""), i in best
        )
        for i, c in enumerate(picked)
    ]
    beside = (timings[BASELINE], errors[BASELINE]) if BASELINE in timings else None
    return tuple(sorted(rows, key=lambda c: timings[c.name].median)), beside


def _errors(request: Request, run: Callable[[Tensor], Tensor], momenta: Sequence[Tensor]) -> dict[str, float]:
    """Errors on known spectra at the shape of the request; on the momenta, the mean rms and the least direction."""
    samples = [matrix(spectrum, request.shape, request.dtype).to(request.device) for spectrum in SPECTRA]
    found = errors_of([x.cpu() for x in samples], run(torch.stack(samples)).cpu())
    if momenta:
        results = [(x, run(x[None].to(request.device))[0].cpu()) for x in momenta]
        found["rms, momenta"] = float(np.mean([deviation(U) for _, U in results]))
        found["direction, momenta"] = min(direction(x, U) for x, U in results)
    return found
