"""Tune: what a shape costs here by kernel, engine and schedule, foretold by a cost model and then measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import matfn
from matfn.engines.choose import choose
from matfn.engines.restarts import restarts_for
from matfn.kernels import Products
from matfn.lab import peers
from matfn.lab.speed_errors import matrix
from matfn.lab.speed_plots import front
from matfn.lab.speed_polar import SPECTRA, errors_of
from matfn.lab.speed_rows import Watch, facts
from matfn.lab.speed_timing import Timing, interleaved
from matfn.lab.tune_plans import Plan, plans, predicted
from matfn.lab.tune_rates import Rate, Request, candidates, measured_rates, stack, synchronised
from matfn.target import POLAR

__all__ = ["FIGURE", "Candidate", "Tuning", "tune"]

FIGURE = f"rms, {SPECTRA[1]}"  # the error of the measured front


@dataclass(frozen=True)
class Candidate:
    """A plan on a kernel. What has not been measured is None or empty."""

    plan: Plan
    kernel: str
    predicted: float
    timing: Timing | None = None
    errors: Mapping[str, float] | None = None
    choice: bool = False
    best: bool = False

    @property
    def name(self) -> str:
        """Degrees, engine, kernel."""
        return f"{self.plan.name}, {self.kernel}"


@dataclass(frozen=True)
class Tuning:
    """Everything that was found.

    Attributes:
        request: What was asked.
        rates: Of each kernel.
        around: Seconds of what is not a product, once a call; of an entry in a weighted sum of powers.
        foretold: All plans on all kernels, not measured.
        measured: Those that were, by time; `best` ones are the measured Pareto front.
        kernel: What `kernels.choice` chooses, its name, and why.
        engine: What `engines.choose` chooses.
        refused: Degrees that the dtype does not bear.
        absent: Kernels that do not run here, and why.
        conditions: Of the run.
    """

    request: Request
    rates: tuple[Rate, ...]
    around: tuple[float, float]
    foretold: tuple[Candidate, ...]
    measured: tuple[Candidate, ...]
    kernel: tuple[str, str]
    engine: str
    refused: tuple[str, ...]
    absent: dict[str, str]
    conditions: dict[str, str]


def tune(request: Request, watch: Watch = lambda text: None) -> Tuning:
    """Measure the kernels, foretell every plan, measure the promising ones.

    Args:
        request: What.
        watch: Told what is being done.
    """
    found, choice, absent = candidates(request)
    named = next(name for name, kernel in found.items() if kernel == choice.products)
    watch("schedules")
    everything, refused = plans(request.shape, request.dtype, request.lower)
    watch("rates of the kernels")
    rates, around = measured_rates(request, found, sorted({p for plan in everything for p in plan.products}, key=repr))
    foretold = tuple(_foretold(request, everything, found, rates, around))
    usual = _usual(request)
    chosen = [c for c in foretold if _same(c.plan, usual)]
    watch("plans")
    picked = list(dict.fromkeys([*_promising(foretold, request.rows), *chosen]))
    measured = _measured(request, picked, found, lambda c: _same(c.plan, usual) and c.kernel == named)
    stand = facts(peers.versions(), request.pace)
    return Tuning(
        request, rates, around, foretold, measured, (named, choice.reason), repr(choose(POLAR)), refused, absent, stand
    )


def _usual(request: Request) -> tuple[tuple[int, ...], Any]:
    """Degrees and engine that `orthogonalize` takes when it is asked for nothing."""
    schedule, engine = matfn.PolarExpress().schedule(2), choose(POLAR)
    if isinstance(engine, matfn.Gram) and engine.restarts is None:
        engine = matfn.Gram(restarts_for(schedule, request.dtype))
    return schedule.degrees, engine


def _same(plan: Plan, usual: tuple[tuple[int, ...], Any]) -> bool:
    return (plan.degrees, plan.engine) == usual


def _foretold(
    request: Request,
    everything: Sequence[Plan],
    found: dict[str, Products],
    rates: Sequence[Rate],
    around: tuple[float, float],
) -> list[Candidate]:
    plain = {rate.product: rate.seconds for rate in rates if rate.kernel == "eager"}
    own = {name: plain | {r.product: r.seconds for r in rates if r.kernel == name} for name in found}
    return [
        Candidate(plan, name, predicted(plan, own[name], *around, request.shape))
        for plan in everything
        for name in found
    ]


def _promising(foretold: Sequence[Candidate], count: int) -> list[Candidate]:
    """The predicted front, thinned evenly to `count` where it has more."""
    best = [foretold[i] for i in front([(c.plan.total, c.predicted) for c in foretold])]
    if len(best) <= count:
        return best
    return [best[round(i * (len(best) - 1) / max(1, count - 1))] for i in range(count)]


def _measured(
    request: Request, picked: Sequence[Candidate], found: dict[str, Products], chosen: Callable[[Candidate], bool]
) -> tuple[Candidate, ...]:
    samples = [matrix(spectrum, request.shape, request.dtype).to(request.device) for spectrum in SPECTRA]
    X = stack(request, *request.shape, request.dtype)
    works, errors = {}, {}
    for c in picked:
        run = partial(
            matfn.orthogonalize,
            method=c.plan.schedule,
            engine=c.plan.engine,
            precision=request.dtype,
            products=found[c.kernel],
        )
        errors[c.name] = errors_of([x.cpu() for x in samples], run(torch.stack(samples)).cpu())
        works[c.name] = synchronised(partial(run, X), request.device)
        works[c.name]()
    timings = interleaved(works, next((c.name for c in picked if chosen(c)), picked[0].name), request.pace)
    best = set(front([(errors[c.name][FIGURE], timings[c.name].median) for c in picked]))
    rows = [
        Candidate(c.plan, c.kernel, c.predicted, timings[c.name], errors[c.name], chosen(c), i in best)
        for i, c in enumerate(picked)
    ]
    return tuple(sorted(rows, key=lambda c: timings[c.name].median))
