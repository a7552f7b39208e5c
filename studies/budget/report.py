"""The budget benchmark as a page: targets, tables and figures of RitzMinimax beside the other methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from studies.budget import plots, verdicts
from studies.budget.errors import ALL, Errors, drawn_cases, measured, momentum_cases, spectrum_cases
from studies.budget.rivals import BUDGETS, perfect
from studies.budget.steps import ROOTS, SPECTRA, Count, polar_counts, root_counts
from studies.budget.tables import measurements, tables
from studies.budget.time import SHAPES, Clock, Overhead, clocks, ladder, overhead
from studies.momenta import load
from studies.page import Report, Shown

__all__ = ["Options", "Result", "report", "run"]

NOTES = """Spectra are those of the accuracy benchmark, between random orthogonal factors, then some drawn at random
(seeds 0, 1, ...), then momentum matrices of Muon from training runs: the mixture mu B + (1 - mu) G, orthogonalized, and
the same average of the gradients of embeddings and head, which AdamW moves. Every matrix is rounded to the dtype and
iterated in it. The error is rms(1 - sigma) over the singular values that are not zero; for singular matrices also over
all values, where the zeros, which no method lifts, are a share that all have."""

RIVALS_NOTE = """Polar Express is at its defaults (lower bound 1e-3), `told` has the true least singular value, PRISM a
sketch of 8 columns, You the published five and six steps (there are no others). A step of PRISM-3 is one product less
than those of the others. Steps to an accuracy are followed on eigenvalues in float64; RitzMinimax on diagonal matrices,
for five draws of its vectors, of which the worst counts. A perfect choice knows the spectrum exactly and takes the best
composition of quintics that are minimax one by one: what no measurement can better."""


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        size: Short side of the matrices of the spectra.
        drawn: How many spectra to draw at random.
        momenta: Folders of `python -m studies.momenta`.
        dtypes: Of the errors and times.
        rounds: Timed calls of each method.
        shapes: (b, m, n) that are timed.
        seed: Of the spectra.
        polar, roots: Spectra whose steps to an accuracy are counted.
    """

    size: int = 512
    drawn: int = 20
    momenta: tuple[Path, ...] = ()
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    rounds: int = 15
    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    seed: int = 1
    polar: tuple[str, ...] = SPECTRA
    roots: tuple[str, ...] = ROOTS


@dataclass(frozen=True)
class Result:
    """All that was measured.

    Attributes:
        errors: By dtype, then "group: case".
        perfect: By "group: case", what the best composition could do at each budget.
        sources: The groups of momentum matrices.
        polar, roots: Steps to an accuracy, p = 2 and 4.
        overheads: Arithmetic of the measurement.
        clocks: Times of five steps by shape and dtype.
        ladders: Seconds by dtype, rival and budget for one square matrix of the spectra's size.
    """

    errors: dict[str, dict[str, Errors]]
    perfect: dict[str, list[float]]
    sources: tuple[str, ...]
    polar: list[Count]
    roots: list[Count]
    overheads: list[Overhead]
    clocks: list[Clock]
    ladders: dict[str, dict[str, list[float | None]]]


def run(options: Options, notice: Callable[[str], None]) -> Result:
    """Measure everything; `notice` gets the name of each part at its start."""
    loaded = [load(path) for path in options.momenta]
    cases = [*spectrum_cases(options.size, options.seed), *drawn_cases(options.drawn, options.size)]
    for source, momenta in loaded:
        cases += momentum_cases(source, momenta)
    counted = polar_counts(options.polar, notice), root_counts(options.roots, notice)
    notice("arithmetic of the measurement")
    overheads = [overhead(1024, getattr(torch, dtype), k) for dtype in options.dtypes for k in (0, 1)]
    times = clocks(options.shapes, options.dtypes, options.rounds, notice)
    ladders = {dtype: ladder(options.size, dtype, options.rounds) for dtype in options.dtypes}
    errors = measured(cases, options.dtypes, notice)
    notice("perfect choices")
    bounds = {f"{case.group}: {case.name}": perfect(case.spectrum[: case.rank]) for case in cases}
    sources = tuple(source.replace(": ", ", ") for source, _ in loaded)
    return Result(errors, bounds, sources, *counted, overheads, times, ladders)


def report(result: Result) -> Report:
    """The page."""
    found = targets(result)
    rows = [(v.target, [v.measured, "met" if v.met else "not met"]) for v in found]
    first = Shown("Targets", ("measured", ""), rows, "Computed from the numbers below and in the JSON.", wide=True)
    return Report(
        paper="ritz_minimax",
        title="RitzMinimax at a budget and to an accuracy",
        notes=(NOTES, RIVALS_NOTE),
        tables=[
            first,
            *measurements(result.errors, result.perfect, result.sources),
            *tables(result.polar, result.roots, result.overheads, result.clocks),
        ],
        figures=figures(result),
        plain={"budgets": BUDGETS, "targets": [asdict(v) for v in found], **asdict(result)},
        command="python -m studies.budget --momenta FOLDER",
    )


def targets(result: Result) -> list[verdicts.Verdict]:
    """Every target, with its numbers."""
    found: list[verdicts.Verdict] = []
    for dtype, errors in result.errors.items():
        found += _no_worse(errors, f"spectra, {dtype}", "spectra", "drawn")
        for group in ("spectra", "drawn"):
            where = f"{'named' if group == 'spectra' else 'drawn'} spectra, {dtype}"
            found.append(verdicts.half(verdicts.of_group(errors, group), result.perfect, where))
        for source in result.sources:
            where, momenta = f"{source}, {dtype}", verdicts.of_group(errors, source)
            found += _no_worse(errors, where, source)
            for ours, other in ((4, "Jordan"), (5, "Polar Express")):
                found.append(verdicts.trained(momenta, result.perfect, where, ours=ours, other=other))
    found += [verdicts.steps(result.polar), *verdicts.roots(result.roots, "PRISM, degree 1")]
    return [*found, verdicts.small(result.overheads)]


def _no_worse(errors: Mapping[str, Errors], where: str, *groups: str) -> list[verdicts.Verdict]:
    """Over the values that are not zero, and over all of them."""
    parts = (("", where), (ALL, where + ALL))
    return [verdicts.no_worse(verdicts.of_group(errors, *groups, over_all=over), name) for over, name in parts]


def figures(result: Result) -> dict[str, tuple[str, Callable[[], plots.Figure]]]:
    """Caption and figure by the ending of the file's name."""
    made: dict[str, tuple[str, Callable[[], plots.Figure]]] = {}
    for dtype, errors in result.errors.items():
        spectra = _bare(verdicts.of_group(errors, "spectra"))
        title = f"Error against steps, {dtype}"
        made[f"-steps-{dtype}"] = (
            f"rms(1 - sigma) after 2 to 6 steps in {dtype}, by spectrum; values below 1e-4 are drawn there",
            lambda t=title, e=spectra: plots.against_steps(t, e),
        )
        picked = {name: spectra[name] for name in ("gaussian", "log-uniform 1e-3", "i^-1", "htmp 5")}
        made[f"-time-{dtype}"] = (
            f"rms(1 - sigma) in {dtype} against the time of 2 to 6 steps on one square matrix, milliseconds",
            lambda t=f"Error against time, {dtype}", e=picked, s=result.ladders[dtype]: plots.against_time(t, e, s),
        )
        groups = {name: verdicts.of_group(errors, name) for name in ("spectra", "drawn", *result.sources)}
        made[f"-ratio-{dtype}"] = (
            f"error of RitzMinimax over that of the best of Polar Express, PRISM-5 and Jordan, {dtype}, one mark each",
            lambda t=f"Beside the best of the others, {dtype}", g=groups: plots.ratios(t, g),
        )
        if result.sources:
            averages = plots.mean_errors(_by_step(errors, result.sources))
            made[f"-momenta-{dtype}"] = (
                f"mean rms(1 - sigma) over the momentum matrices of a training step in {dtype}, after 2 to 6 steps",
                lambda t=f"Momentum matrices, mean error against steps, {dtype}", e=averages: plots.against_steps(
                    t, e, 3
                ),
            )
    return made


def _bare(errors: Mapping[str, Errors]) -> dict[str, Errors]:
    return {name.partition(": ")[2]: found for name, found in errors.items()}


def _by_step(errors: Mapping[str, Errors], sources: Sequence[str]) -> dict[str, dict[str, Errors]]:
    found: dict[str, dict[str, Errors]] = {}
    for source in sources:
        for name, e in verdicts.of_group(errors, source).items():
            found.setdefault(f"{source}, {name.rpartition(', ')[2]}", {})[name] = e
    return found
