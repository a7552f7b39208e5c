"""The page of PolarGrad: the paper's matrix problems, its claims one by one, and the rates at which runs diverge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from matfn.train import TrainError
from studies.page import Report, Shown, number
from studies.polargrad import factors, language
from studies.polargrad import plots as figures
from studies.polargrad.language import Gradient
from studies.polargrad.problems import Completion, Logistic, Quadratic
from studies.polargrad.published import PUBLISHED, Section
from studies.polargrad.runs import Trace, follow
from studies.polargrad.sweep import SWEEPS, Sweep, sweep
from studies.polargrad.verdicts import from_runs, from_theory
from studies.trained import RESULTS
from studies.verdict import Verdict
from studies.verdict import shown as claims_table

__all__ = ["claims", "full", "quick", "run"]

PROBLEMS: dict[str, Callable[..., Quadratic | Logistic | Completion]] = {
    "quadratic": Quadratic,
    "logistic": Logistic,
    "completion": Completion,
}
SPACING = {"quadratic": 20, "logistic": 25, "completion": 5}  # steps between two points of a curve

NOTES = (
    "Each cell: measured here (published, where it is). The data are the paper's, seed 42, at its sizes; the gradients "
    "are full (quadratic, completion) or of 1000 of 10000 rows (logistic). `decay` multiplies the rate every 25 steps, "
    "by 0.99 (quadratic) or 0.95. `exact` is the polar factor by SVD in float64 (with all else in float64 for the "
    "quadratic), `QDWH@2` the two steps of QDWH that the published rates were tuned with, which in float32 leave "
    "singular values in [0.81, 1.00] of a Gaussian matrix, and `NS@5` Jordan's five Newton-Schulz steps. Muon is the "
    "paper's baseline: Nesterov's momentum 0.95, no factor for the shape. kappa_2 and nuclear norm are of the true "
    "gradient, seen before the step. The algorithms are those of `matfn.optim` and torch's Adam; Newton and "
    "alternating gradient descent are a line each.",
    "**Deviations.** The published numbers were measured with the authors' classes. The objective of the quadratic is "
    "the gap ||A (X - X*) B||_F^2 / 2 itself; its gradient in float64 comes from Gram matrices, in float32 from the "
    "factors as in the paper. The nuclear norm is accumulated in float32 at least, also for NS@5, whose own code "
    "rounds it to bfloat16. Adam and Muon at constant rates oscillate in the end, so of their last columns only the "
    "level can be compared; and next to the edge of stability (PolarGrad at 4.75e-8) rounding is amplified until it "
    "decides the number.",
)

TRAINED = "The claims about training language models stand with all others in [the evidence](../evidence.md)."


def full(notice: Callable[[str], None]) -> Report:
    """Everything, at the paper's lengths: about ten minutes on one core."""
    return run(notice, {}, spare=1)


def claims(notice: Callable[[str], None]) -> Report:
    """The claims anew; curves and sweeps as the last full run wrote them into docs/results: a few minutes.

    Raises:
        TrainError: There is no full run.
    """
    path = RESULTS / "polargrad.json"
    if not path.exists():
        raise TrainError(f"there is no {path.name} in docs/results: run `python -m studies.polargrad` once")
    kept = json.loads(path.read_text())
    traces = {name: [_trace(row) for row in rows] for name, rows in kept["runs"].items()}
    sweeps = [_sweep(row) for row in kept["sweeps"]]
    found = language.gradients(notice)
    verdicts = [*from_theory(notice), *factors.verdicts()]
    return made(verdicts, traces, sweeps, found, quick=False, curves_of=kept.get("curves of", kept["conditions"]))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """Curves in six digits."""
    curves = ("objective", "condition", "nuclear")
    return {key: [float(f"{x:.6g}") for x in v] if key in curves else v for key, v in row.items()}


def _trace(row: dict[str, Any]) -> Trace:
    return Trace(**{key: _numbers(value) for key, value in row.items()})


def _sweep(row: dict[str, Any]) -> Sweep:
    values = tuple(tuple(_numbers(line)) for line in row["values"])
    return Sweep(row["problem"], row["label"], tuple(row["rates"]), tuple(row["steps"]), values)


def _numbers(value: Any) -> Any:
    """What `studies.reproduce.finite` has put aside, as numbers again."""
    if isinstance(value, list):
        return [math.inf if item == "diverged" else math.nan if item is None else item for item in value]
    return value


def quick(notice: Callable[[str], None]) -> Report:
    """The same arms for a hundred steps, and every third rate of the first sweep: under a minute."""
    return run(notice, {"quadratic": 100, "logistic": 50, "completion": 100}, spare=3)


def run(notice: Callable[[str], None], lengths: dict[str, int], *, spare: int) -> Report:
    """The report.

    Args:
        notice: Told what is under way.
        lengths: The greatest number of steps of each problem; all of the arms' own where it says nothing.
        spare: 1 for all sweeps; else every `spare`-th rate of the first alone.
    """
    verdicts = [*from_theory(notice), *factors.verdicts()]
    found = language.gradients(notice, language.Length(2, (0, 2)) if spare > 1 else language.Length())
    traces = {name: curves(name, lengths.get(name, 10**9), notice) for name in PUBLISHED}
    wanted = SWEEPS if spare == 1 else [replace(SWEEPS[0], rates=SWEEPS[0].rates[::spare])]
    return made(verdicts, traces, [sweep(one, notice) for one in wanted], found, quick=spare > 1)


def made(
    verdicts: Sequence[Verdict],
    traces: dict[str, list[Trace]],
    sweeps: Sequence[Sweep],
    found: Sequence[Gradient],
    *,
    quick: bool,
    curves_of: dict[str, str] | None = None,
) -> Report:
    """The report of these results; `verdicts` are those that come from no curve.

    Args:
        verdicts: Identities and oracles.
        traces: By problem.
        sweeps: The edges of stability.
        found: Gradients of the language model.
        quick: Whether the preset is a shorter one.
        curves_of: The conditions of traces and sweeps, if another run made them.
    """
    runs = [{trace.label: trace for trace in traces[name]} for name in ("quadratic", "logistic", "completion")]
    verdicts = sorted([*verdicts, *from_runs(*runs)], key=lambda v: int(v.claim[1:]))
    verdicts += language.verdicts(found)
    older = f"Curves and sweeps were made on {curves_of['date'][:10]} ({curves_of['matfn']})." if curves_of else ""
    notes = NOTES if quick else (*NOTES, lesson(sweeps), f"{TRAINED} {older}".strip())
    return Report(
        paper="polargrad",
        title="PolarGrad: the matrix problems",
        notes=notes,
        tables=[
            claims_table("Claims", verdicts),
            language.table(found),
            *(results(PUBLISHED[name], traces[name]) for name in PUBLISHED),
            *(edge_table(one) for one in sweeps),
        ],
        figures=drawings(traces, sweeps),
        plain={
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "gradients": language.plain(found),
            "runs": {name: [_short(asdict(trace)) for trace in made] for name, made in traces.items()},
            "sweeps": [asdict(one) | {"edge": one.edge, "wide": one.wide} for one in sweeps],
        }
        | ({"curves of": curves_of} if curves_of else {}),
        command="python -m studies.polargrad" + (" --preset quick" if quick else ""),
    )


def curves(name: str, length: int, notice: Callable[[str], None]) -> list[Trace]:
    """All arms of a problem."""
    section, made = PUBLISHED[name], []
    for row in section.rows:
        arm = row.arm.cut(length)
        notice(f"{section.number}  {arm.label}")
        problem = PROBLEMS[name](arm.dtype)
        made.append(follow(problem, arm, lambda k: k in section.at or k % SPACING[name] == 0))
    return made


def results(section: Section, traces: Sequence[Trace]) -> Shown:
    """Measured beside published objectives, kappa_2 and nuclear norm at the end."""
    rows, apart = [], []
    for row, trace in zip(section.rows, traces, strict=True):
        cells = [paired(trace.at(k), row.values.get(k)) for k in section.at]
        apart += [f"{trace.label} after {k}" for k in row.values if differs(trace.at(k), row.values[k], section)]
        end = paired(trace.condition[-1], row.condition) if trace.lost is None else ""
        nuclear = number(trace.nuclear[-1]) if trace.lost is None else ""
        rows.append((trace.label, [*cells, end, nuclear, f"{trace.seconds:.1f}"]))
    heads = (*map(str, section.at), "kappa_2(G), end", "nuclear norm, end", "s")
    factor = f"a factor of {section.tolerance:g} from the published number"
    floor = f", above the rounding floor {section.floor:g}" if section.floor else ""
    remark = (
        f"{section.objective} after so many steps; at the start {number(traces[0].objective[0])} ({section.start:g}). "
    )
    remark += f"More than {factor}{floor}: {'; '.join(apart) if apart else 'none'}."
    return Shown(f"{section.number}: {section.title}", heads, rows, remark)


def paired(ours: float, theirs: float | None) -> str:
    """One cell."""
    return (number(ours) or "-") + (f" ({number(theirs)})" if theirs is not None else "")


def differs(ours: float, theirs: float, section: Section) -> bool:
    """Whether a number is beyond the section's tolerance; false for rounding floors and for runs not made."""
    if ours != ours or max(ours, theirs) <= section.floor:
        return False
    if math.isinf(ours) or math.isinf(theirs):
        return ours != theirs
    return max(ours / theirs, theirs / ours) > section.tolerance


def edge_table(one: Sweep) -> Shown:
    """Rates down, steps across."""
    rows = [(f"{rate:g}", [number(v) for v in values]) for rate, values in zip(one.rates, one.values, strict=True)]
    low, high = one.edge or (0.0, 0.0)
    edge = f"The edge is between {low:g} and {high:g}." if one.edge else "No rate of the grid diverged."
    return Shown(
        f"Edge of stability: {one.problem}, {one.label}",
        tuple(f"after {k}" for k in one.steps),
        rows,
        f"{edge} The least value at the end is that of {one.best:g}; {within(one)}.",
    )


def within(one: Sweep) -> str:
    """The range of good rates, in words."""
    low, high = one.wide
    return f"rates from {low:g} to {high:g} end within a factor of ten of it" if low < high else "no other is near it"


def lesson(sweeps: Sequence[Sweep]) -> str:
    """What the first sweep says about single curves, in its own numbers."""
    first = sweeps[0]
    kept = [(rate, row[-1]) for rate, row in zip(first.rates, first.values, strict=True) if math.isfinite(row[-1])]
    near = [value for rate, value in kept if rate >= 0.9 * kept[-1][0]]
    largest, smallest = Quadratic().curvatures
    unit = 2 / (largest * 100)
    return (
        f"**One curve proves nothing.** On the quadratic (L = {largest:.4g}, mu = {smallest:.4g}, kappa_H = "
        f"{largest / smallest:.4g}) the exact oracle's objective after {first.steps[-1]} steps spans a factor of "
        f"{max(near) / min(near):.1e} over the last tenth of the rates that do not diverge; above them all is lost. "
        f"The last is {kept[-1][0] / unit:.2f} times 2 / (L r) = {unit:.3g}, below which descent is guaranteed. "
        "The decayed run of PolarGrad without momentum starts next to the edge of its oracle, and owes its curve to "
        "that. How wide a range of rates ends within a factor of ten of the best tells what a curve is worth: "
        + "; ".join(f"{one.problem}, {one.label}: {one.wide[1] / one.wide[0]:.2g}-fold" for one in sweeps)
        + "."
    )


def drawings(traces: dict[str, list[Trace]], sweeps: Sequence[Sweep]) -> dict[str, tuple[str, Callable]]:
    """Caption and figure for each ending."""
    drawn: dict[str, tuple[str, Callable]] = {
        "": ("objective against the learning rate: the edge of stability", lambda: figures.edges(sweeps))
    }
    for name, made in traces.items():
        section = PUBLISHED[name]
        caption = f"{section.title}: {section.objective}, kappa_2 and nuclear norm of the true gradient"
        drawn[f"-{name}"] = caption, _drawing(section, made)
    return drawn


def _drawing(section: Section, made: list[Trace]) -> Callable:
    return lambda: figures.curves(section.title, section.objective, made)
