"""The figures of the speed benchmark: time against error in a panel for each case, and the rate against the size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from benchmarks.rows import Report, Row
from matfn.train import drawing
from matfn.train.drawing import COLOURS, MARKERS, STYLE

__all__ = ["figure", "front"]


def figure(report: Report) -> Figure:
    """The figure of a part; its caption says where and with what it was measured."""
    with matplotlib.rc_context(STYLE):
        drawn = _growth(report) if report.part == "scaling" else _panels(report)
        drawing.foot(drawn, report.conditions, "medians, bars: quartile range")
        return drawn


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (error, time) that none beats in both, by error; of equal points the first."""
    found, least = [], math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], points[i][0])):
        if points[index][0] < least:
            found.append(index)
            least = points[index][0]
    return sorted(found, key=lambda i: points[i][0])


def _panels(report: Report) -> Figure:
    cases = report.cases()
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    drawn = Figure(figsize=(5.4 * columns + 2.6, 4.2 * lines + 0.6), layout="constrained")
    grid = drawn.subplots(lines, columns, squeeze=False)
    names = list(dict.fromkeys(row.name for row in report.rows))
    look: dict[str, dict[str, Any]] = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[(i // len(COLOURS) + i) % len(MARKERS)]}
        for i, name in enumerate(names)
    }
    for axes, case in zip(grid.flat, cases, strict=False):
        _panel(axes, [row for row in report.rows if row.case == case], report, look)
        axes.set_title(case)
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_visible(False)
    drawing.legend(drawn, grid.flat, size=7)
    return drawn


def _panel(axes: Axes, rows: Sequence[Row], report: Report, look: dict[str, dict[str, Any]]) -> None:
    key, label = report.figure
    shown = [(row, row.errors.get(key, math.nan), row.median) for row in rows if row.median is not None]
    shown = [(row, max(error, 1e-17), seconds) for row, error, seconds in shown if math.isfinite(error)]
    for row, error, seconds in shown:
        scatter = (row.spread or 0.0) * seconds / 2
        axes.errorbar(
            error,
            1e3 * seconds,
            yerr=1e3 * min(scatter, 0.9 * seconds),
            fmt="none",
            ecolor=look[row.name]["color"],
            elinewidth=0.8,
        )
        size = 9 if row.choice else 5.5
        axes.plot(error, 1e3 * seconds, linestyle="none", markersize=size, label=row.name, **look[row.name])
    if not shown:
        axes.text(0.5, 0.5, "no result", ha="center", transform=axes.transAxes)
        return
    best = [shown[i] for i in front([(error, seconds) for _, error, seconds in shown])]
    axes.plot([e for _, e, _ in best], [1e3 * s for _, _, s in best], color="#bbbbbb", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="time of a call, ms")
    for axis, values in ((axes.xaxis, [e for _, e, _ in shown]), (axes.yaxis, [s for _, _, s in shown])):
        if max(values) < 3 * min(values):  # labels of every tick between two powers of ten would cover each other
            axis.set_minor_locator(NullLocator())
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(ScalarFormatter())


def _growth(report: Report) -> Figure:
    """The fraction of the matmul rate against the short side, a panel for each dtype, ratio and batch."""
    split: dict[str, list[tuple[int, Row]]] = {}
    for row in report.rows:
        shape, _, rest = row.case.partition(",")
        short, long = (int(side) for side in shape.split(" x "))
        split.setdefault(f"1:{long // short},{rest}", []).append((short, row))
    columns = min(3, len(split))
    lines = math.ceil(len(split) / columns)
    drawn = Figure(figsize=(5.0 * columns + 2, 3.8 * lines + 0.6), layout="constrained")
    grid = drawn.subplots(lines, columns, squeeze=False)
    names = list(dict.fromkeys(row.name for row in report.rows))
    for axes, (title, points) in zip(grid.flat, split.items(), strict=False):
        for i, name in enumerate(names):
            line = sorted((n, 100 * row.errors["fraction"]) for n, row in points if row.name == name and row.rate)
            if line:
                style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                axes.plot([n for n, _ in line], [value for _, value in line], label=name, linewidth=1.2, **style)
        axes.set(xscale="log", xlabel="short side (rows)", ylabel="% of the best matmul rate", title=title)
        sizes = sorted({n for n, _ in points})
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    for axes in list(grid.flat)[len(split) :]:
        axes.set_visible(False)
    drawing.legend(drawn, grid.flat, size=7)
    return drawn
