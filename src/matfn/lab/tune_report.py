"""What `matfn tune` found, written down: tables, JSON, and a figure of the Pareto front and of the cost model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.lab import checkpoint, plots
from matfn.lab.speed_plots import front
from matfn.lab.tune import FIGURE, Candidate, Tuning

__all__ = ["CAPTION", "candidate_table", "kernel_table", "lines", "plain", "title", "write"]

CAPTION = (
    "* what the library chooses; + on the measured Pareto front (time against rms of 1 - sigma on singular values that "
    "are log-uniform in [1e-3, 1]). worst: largest |1 - s| over [lower, 1] without rounding; rounding: what the dtype "
    "may add to it (unit roundoff times Schedule.rounding, with Gram times its amplification). predicted: products "
    "counted, times the measured time of each on that kernel."
)
Table = tuple[list[str], list[list[str]]]


def title(tuning: Tuning) -> str:
    """What was asked."""
    request = tuning.request
    m, n = request.shape
    return f"{m} x {n}, batch {request.batch}, {str(request.dtype).removeprefix('torch.')}, {request.device}"


def kernel_table(tuning: Tuning) -> Table:
    """Kernels by products: milliseconds and the rate of what is really done."""
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


def candidate_table(tuning: Tuning) -> Table:
    """What was measured, by time."""
    heads = [
        "degrees, engine, kernel",
        "",
        "ms",
        "spread",
        "predicted",
        "worst",
        "rounding",
        "rms log-u.",
        "rms gauss.",
    ]
    return [*heads, "direction"], [_cells(candidate) for candidate in tuning.measured]


def _cells(c: Candidate) -> list[str]:
    assert c.timing is not None
    assert c.errors is not None
    mark = "*" * c.choice + "+" * c.best
    return [
        c.name,
        mark,
        f"{1e3 * c.timing.median:.3g}",
        f"{c.timing.spread:.0%}",
        f"{1e3 * c.predicted:.3g}",
        f"{c.plan.error:.1e}",
        f"{c.plan.rounding:.1e}",
        f"{c.errors[FIGURE]:.1e}",
        f"{c.errors['rms, gaussian']:.1e}",
        f"{c.errors['direction, log-uniform 1e-3']:.4f}",
    ]


def lines(tuning: Tuning) -> list[str]:
    """The choice, and everything that was left out."""
    name, reason = tuning.kernel
    refused = f"{len(tuning.refused)} that this dtype does not bear (rounding) are left out"
    return [
        f"choice: {tuning.engine}, kernel {name} ({reason})",
        f"{len(tuning.foretold)} plans foretold, {len(tuning.measured)} measured; {refused}",
        *(f"{kernel} is not here: {why}" for kernel, why in tuning.absent.items()),
    ]


def plain(tuning: Tuning) -> dict[str, Any]:
    """As plain values, for JSON."""
    request = tuning.request
    return {
        "shape": request.shape,
        "dtype": str(request.dtype).removeprefix("torch."),
        "batch": request.batch,
        "device": request.device,
        "lower": request.lower,
        "choice": {"engine": tuning.engine, "kernel": tuning.kernel[0], "reason": tuning.kernel[1]},
        "rates": [
            {**vars(r.product), "kernel": r.kernel, "seconds": r.seconds, "spread": r.spread, "rate": r.rate}
            for r in tuning.rates
        ],
        "around": dict(zip(("seconds", "seconds per entry of a sum"), tuning.around, strict=True)),
        "measured": [_plain(candidate) for candidate in tuning.measured],
        "foretold": [_plain(candidate) for candidate in tuning.foretold],
        "refused": tuning.refused,
        "absent": tuning.absent,
        "conditions": tuning.conditions,
    }


def _plain(c: Candidate) -> dict[str, Any]:
    known = {
        "degrees": c.plan.degrees,
        "engine": repr(c.plan.engine),
        "kernel": c.kernel,
        "predicted": c.predicted,
        "worst": c.plan.error,
        "rounding": c.plan.rounding,
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
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "tune.json", directory / "tune.png"]
    checkpoint.replace_text(paths[0], json.dumps(plain(tuning), indent=1) + "\n")
    plots.png(figure(tuning), paths[1], dpi=120)
    return paths


def figure(tuning: Tuning) -> Figure:
    """Left: error against time, foretold as dots, measured as marks, the fronts as lines. Right: the cost model."""
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(12, 4.8), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1.4, 1))
        _foretold(left, tuning)
        _marks(left, right, tuning)
        left.set(xscale="log", yscale="log", xlabel="error: rms of 1 - sigma (foretold: worst)", title=title(tuning))
        left.set_ylabel("time of a call, ms")
        right.set(xscale="log", yscale="log", xlabel="predicted time, ms", title="Cost model")
        right.set_ylabel("measured time, ms")
        handles, labels = left.get_legend_handles_labels()
        known = dict(zip(labels, handles, strict=True))
        drawn.legend(list(known.values()), list(known), loc="outside right upper", fontsize=8)
        facts = tuning.conditions
        where = f"{facts['processor']}, {facts['threads']} thread(s), torch {facts['torch']}"
        drawn.supxlabel(f"{where}; medians; the large mark is the library's choice", fontsize=8, color="#555555")
        return drawn


def _foretold(axes: Axes, tuning: Tuning) -> None:
    cloud = [(c.plan.total, 1e3 * c.predicted) for c in tuning.foretold]
    axes.plot(*zip(*cloud, strict=True), ".", color="#cccccc", markersize=3, label="foretold, with rounding")
    line = [cloud[i] for i in front(cloud)]
    axes.plot(*zip(*line, strict=True), color="#bbbbbb", linewidth=1, label="foretold front")


def _marks(left: Axes, right: Axes, tuning: Tuning) -> None:
    kernels = list(dict.fromkeys(c.kernel for c in tuning.measured))
    best, times = [], []
    for c in tuning.measured:
        assert c.timing is not None
        assert c.errors is not None
        i, size = kernels.index(c.kernel), 11 if c.choice else 6
        look: dict[str, Any] = {"color": plots.COLOURS[i % len(plots.COLOURS)], "marker": plots.MARKERS[i % 7]}
        point = (c.errors[FIGURE], 1e3 * c.timing.median)
        best += [point] if c.best else []
        times += [point[1], 1e3 * c.predicted]
        left.plot(*point, linestyle="none", markersize=size, label=c.kernel, **look)
        right.plot(1e3 * c.predicted, point[1], linestyle="none", markersize=size, label=c.kernel, **look)
    left.plot(*zip(*sorted(best), strict=True), color="#333333", linewidth=1, label="measured front")
    right.plot([min(times), max(times)], [min(times), max(times)], color="#999999", linewidth=1)
