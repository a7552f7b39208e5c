"""The figures of the study: the Pareto front of time against error, foretold and measured, and the cost model."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.drawing import foot, legend
from benchmarks.polar import BASELINE
from benchmarks.report import front
from matfn.train import drawing
from studies.tune.tune import Candidate, Tuning

__all__ = ["figure", "quickest", "title"]


def title(tuning: Tuning) -> str:
    """What was asked."""
    request = tuning.request
    m, n = request.shape
    return f"{m} x {n}, batch {request.batch}, {str(request.dtype).removeprefix('torch.')}, {request.device}"


def quickest(tuning: Tuning) -> list[Candidate]:
    """Of each plan the kernel on which it is foretold to be quickest: thousands are enough for a file."""
    found: dict[int, Candidate] = {}
    for candidate in tuning.foretold:
        key = id(candidate.plan)
        if key not in found or candidate.predicted < found[key].predicted:
            found[key] = candidate
    return list(found.values())


def figure(tuning: Tuning) -> Figure:
    """Left: time against error, foretold as dots, measured as marks, the fronts as lines. Right: the cost model."""
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
_VISIBLE = 0.05  # errors of this size and more are told apart on a linear axis
_RINGS = {"orthogonalize": "#000000", "Muon": "#c03030"}


def _ringed(axes: Axes, point: tuple[float, float], label: str, colour: str) -> None:
    ring: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.6, "linestyle": "none"}
    axes.plot(*point, marker="o", markeredgecolor=colour, label=label, **ring)
