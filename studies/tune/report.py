"""The results of `python -m studies.tune`: tables, JSON and the figure of time against error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawing import foot, legend
from benchmarks.drawing import write as write_figure
from benchmarks.polar import BASELINE, SPECTRA
from benchmarks.report import front
from benchmarks.timing import Timing
from matfn.train import drawing
from studies.tune.plan import fraction
from studies.tune.tune import Candidate, Tuning

__all__ = ["CAPTION", "aside_table", "candidate_table", "figure", "kernel_table", "lines", "plain", "title", "write"]

CAPTION = (
    "* what `orthogonalize` does unasked, M the default of optim.Muon; torch.optim.Muon iterates in bfloat16 in "
    "every table; + on the measured Pareto front of time against "
    "rms(1 - sigma), of the momenta if there are any, else of singular values log-uniform in [1e-3, 1]; ~ a spread "
    "(quartile range by median) too large to rank the row. A plan is named by degrees, lower end, cushion, S4 for the "
    "Schatten-4 norm, deflation, engine (restarts) and kernel. deflated 1/16: before the first step the largest "
    "sixteenth of the singular values are shrunk to the size of the next, by a sketch in float32, so that fewer steps "
    "do; its time is in all columns, and foretold is of what it leaves of those spectra. worst: "
    "largest |1 - s| over [lower, 1] without rounding; rounding: "
    "what the dtype may add to it at most; foretold: rms expected of those spectra. predicted: products counted, times "
    "the least measured time of each on that kernel, and what is around them."
)
Table = tuple[list[str], list[list[str]]]


def kernel_table(tuning: Tuning) -> Table:
    """Kernels by products: milliseconds and the rate of the operations done."""
    names = list(dict.fromkeys(rate.kernel for rate in tuning.rates))
    products = list(dict.fromkeys(rate.product for rate in tuning.rates))
    known = {(rate.kernel, rate.product): rate for rate in tuning.rates}
    rows = []
    for name in names:
        row = [f"{name} *" if name == tuning.kernel[0] else name]
        for product in products:
            rate = known.get((name, product))
            row.append("as eager" if rate is None else f"{1e3 * rate.seconds:.3g} ms, {rate.rate / 1e9:.0f}")
        rows.append(row)
    heads = [f"{product.name} {product.rows} x {product.inner} x {product.columns}" for product in products]
    return ["kernel: time, GF/s done", *heads], rows


def aside_table(tuning: Tuning) -> Table:
    """Milliseconds outside the products, by the share of singular values that is deflated."""
    once = tuning.aside.once
    heads = ["around the products:", *(f"deflated {fraction(share)}" if share else "not deflated" for share in once)]
    return heads, [["scaling, deflation, rounding, ms", *(f"{1e3 * seconds:.3g}" for seconds in once.values())]]


def candidate_table(tuning: Tuning) -> Table:
    """The measured plans and torch's Muon, by time."""
    bound, figures = tuning.request.pace.bound, [n for n in _HEADS if n in (tuning.measured[0].errors or {})]
    heads = ["plan, kernel", "", "ms", "spread", "predicted", "worst", "rounding", "foretold"]
    rows = [_cells(candidate, figures, bound) for candidate in tuning.measured]
    if tuning.beside is not None:
        timing, errors = tuning.beside
        times = ["~" * (timing.spread > bound), f"{1e3 * timing.median:.3g}", _spread(timing), *["-"] * 4]
        rows.append([BASELINE, *times, *(_figure(name, errors) for name in figures)])
    return [*heads, *(_HEADS[name] for name in figures)], rows


_HEADS = {
    "rms, momenta": "rms momenta",
    "direction, momenta": "least direction",
    f"rms, {SPECTRA[1]}": "rms log-u.",
    f"rms, {SPECTRA[0]}": "rms gauss.",
    f"direction, {SPECTRA[1]}": "direction log-u.",
}


def _cells(c: Candidate, figures: list[str], bound: float) -> list[str]:
    assert c.timing is not None
    assert c.errors is not None
    mark = {"": "", "Muon": "M"}.get(c.choice, "*") + "+" * c.best + "~" * (c.timing.spread > bound)
    return [
        c.name,
        mark,
        f"{1e3 * c.timing.median:.3g}",
        _spread(c.timing),
        f"{1e3 * c.predicted:.3g}",
        f"{c.plan.error:.1e}",
        f"{c.plan.rounding:.1e}",
        f"{c.plan.expected:.1e}",
        *(_figure(name, c.errors) for name in figures),
    ]


def _spread(timing: Timing) -> str:
    return f"{timing.spread:.0%}" + (f", {timing.attempts} times" if timing.attempts > 1 else "")


def _figure(name: str, errors: Mapping[str, float]) -> str:
    return f"{errors[name]:.3f}" if name.startswith("direction") else f"{errors[name]:.1e}"


def lines(tuning: Tuning) -> list[str]:
    """The choice, and everything left out."""
    name, reason = tuning.kernel
    refused = f"{len(tuning.refused)} mixes of degrees that this dtype does not bear (rounding) are left out"
    usual = [f"{who} takes {plan.name} ({', '.join(tuning.reasons[who])})" for who, plan in tuning.usual.items()]
    return [
        f"choice: {'; '.join(usual)}; kernel {name} ({reason})",
        f"{len(tuning.foretold)} plans on kernels foretold, {len(tuning.measured)} measured; {refused}",
        *(f"{kernel} is not here: {why}" for kernel, why in tuning.absent.items()),
        *_disturbed(tuning),
    ]


def _disturbed(tuning: Tuning) -> list[str]:
    """A warning if some times scatter too much to decide the front."""
    bound, rows = tuning.request.pace.bound, tuning.measured
    loud = [c.best for c in rows if c.timing is not None and c.timing.spread > bound]
    text = f"~ {len(loud)} of {len(rows)} rows, {sum(loud)} of them marked +, scatter by more than {bound:.0%}"
    text += ": the machine was disturbed, and the front is not settled there. Run it again when it is quiet"
    return [text] if loud else []


def plain(tuning: Tuning) -> dict[str, Any]:
    """As plain values, for JSON."""
    request = tuning.request
    return {
        "shape": request.shape,
        "dtype": str(request.dtype).removeprefix("torch."),
        "batch": request.batch,
        "device": request.device,
        "lowers": request.lowers,
        "choice": {
            **{who: plan.name for who, plan in tuning.usual.items()},
            "kernel": tuning.kernel[0],
            "reason": tuning.kernel[1],
            "reasons": {who: list(why) for who, why in tuning.reasons.items()},
        },
        "figure": tuning.figure,
        "rates": [
            {**vars(r.product), "kernel": r.kernel, "seconds": r.seconds, "spread": r.spread, "rate": r.rate}
            for r in tuning.rates
        ],
        "aside": {
            "seconds around the products by share deflated": {f"{at:g}": t for at, t in tuning.aside.once.items()},
            "seconds per entry of a sum": tuning.aside.per_entry,
        },
        "bound": request.pace.bound,
        "measured": [_plain(candidate) for candidate in tuning.measured],
        "foretold": [_plain(candidate) for candidate in quickest(tuning)],
        BASELINE: None
        if tuning.beside is None
        else {"median": tuning.beside[0].median, "spread": tuning.beside[0].spread, "errors": tuning.beside[1]},
        "refused": tuning.refused,
        "absent": tuning.absent,
        "conditions": tuning.conditions,
    }


def _plain(c: Candidate) -> dict[str, Any]:
    known = {
        "name": c.name,
        "method": repr(c.plan.method),
        "engine": repr(c.plan.engine),
        "deflation": c.plan.deflation,
        "kernel": c.kernel,
        "predicted": c.predicted,
        "worst": c.plan.error,
        "rounding": c.plan.rounding,
        "expected": c.plan.expected,
    }
    if c.timing is None or c.errors is None:
        return known
    return {
        **known,
        "seconds": c.timing.seconds,
        "median": c.timing.median,
        "spread": c.timing.spread,
        "attempts": c.timing.attempts,
        "errors": dict(c.errors),
        "choice": c.choice,
        "front": c.best,
    }


def write(tuning: Tuning, directory: Path) -> list[Path]:
    """Write tune.json and tune.png; the paths are returned."""
    return write_figure(directory / "tune", plain(tuning), figure(tuning))


def title(tuning: Tuning) -> str:
    """The request in words."""
    request = tuning.request
    m, n = request.shape
    return f"{m} x {n}, batch {request.batch}, {str(request.dtype).removeprefix('torch.')}, {request.device}"


def quickest(tuning: Tuning) -> list[Candidate]:
    """Each plan on its quickest kernel by prediction; all kernels would be too many points for a file."""
    found: dict[int, Candidate] = {}
    for candidate in tuning.foretold:
        key = id(candidate.plan)
        if key not in found or candidate.predicted < found[key].predicted:
            found[key] = candidate
    return list(found.values())


def figure(tuning: Tuning) -> Figure:
    """Left: time against error, predicted (dots) and measured (marks), with the fronts. Right: the cost model."""
    with matplotlib.rc_context(drawing.STYLE):
        drawn = Figure(figsize=(13, 5.2), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1.5, 1))
        _foretold(left, tuning)
        _marks(left, right, tuning)
        left.set(yscale="log", xlabel=f"error: {tuning.figure} (dots: expected)", title=title(tuning))
        left.set_xscale("linear" if tuning.measured[0].plan.error > _VISIBLE else "log")
        left.set_ylabel("time of a call, ms")
        right.set(xscale="log", yscale="log", xlabel="predicted time, ms", title="Cost model")
        right.set_ylabel("measured time, ms (least of the rounds)")
        legend(drawn, [left], size=8)
        foot(drawn, tuning.conditions, f"medians. {_DEFLATED}")
        return drawn


def _foretold(axes: Axes, tuning: Tuning) -> None:
    drawn = quickest(tuning)
    cloud = [(c.plan.total, 1e3 * c.predicted) for c in drawn]
    for colour, label, deflated in (("#cccccc", "", False), ("#b5d3ea", _OPEN, True)):
        part = [point for c, point in zip(drawn, cloud, strict=True) if bool(c.plan.deflation) == deflated]
        axes.plot(*np.array(part).reshape(-1, 2).T, ".", color=colour, markersize=3, label=f"foretold{label}")
    line = [cloud[i] for i in front(cloud)]
    axes.plot(*zip(*line, strict=True), color="#bbbbbb", linewidth=1, label="foretold front")


def _marks(left: Axes, right: Axes, tuning: Tuning) -> None:
    kernels = list(dict.fromkeys(c.kernel for c in tuning.measured))
    best, times = [], []
    for c in tuning.measured:
        assert c.timing is not None
        assert c.errors is not None
        i = kernels.index(c.kernel)
        look: dict[str, Any] = {"color": drawing.COLOURS[i % len(drawing.COLOURS)], "marker": drawing.MARKERS[i % 7]}
        point = (c.errors[tuning.figure], 1e3 * c.timing.median)
        best += [point] if c.best else []
        least = 1e3 * c.timing.least
        times += [least, 1e3 * c.predicted]
        look |= {"markerfacecolor": "none"} if c.plan.deflation else {}
        left.plot(*point, linestyle="none", markersize=6, label=f"{c.kernel}{_OPEN * bool(c.plan.deflation)}", **look)
        right.plot(1e3 * c.predicted, least, linestyle="none", markersize=5, **look)
        if c.choice:
            _ringed(
                left,
                point,
                f"{c.choice}: {'-'.join(map(str, c.plan.degrees))}{_OPEN * bool(c.plan.deflation)}",
                _RINGS[c.choice],
            )
    if tuning.beside is not None:
        timing, errors = tuning.beside
        point = (errors[tuning.figure], 1e3 * timing.median)
        left.plot(*point, "x", color="black", markersize=9, markeredgewidth=2, label=BASELINE)
    left.plot(*zip(*sorted(best), strict=True), color="#333333", linewidth=1, label="measured front")
    right.plot([min(times), max(times)], [min(times), max(times)], color="#999999", linewidth=1)


_OPEN = ", deflated"
_DEFLATED = (
    "deflated (open marks): the largest singular values are shrunk to the size of the next before the first step"
)
_VISIBLE = 0.05  # larger errors are shown on a linear axis
_RINGS = {"orthogonalize": "#000000", "Muon": "#c03030"}


def _ringed(axes: Axes, point: tuple[float, float], label: str, colour: str) -> None:
    ring: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.6, "linestyle": "none"}
    axes.plot(*point, marker="o", markeredgecolor=colour, label=label, **ring)
