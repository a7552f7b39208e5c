"""The figures of the tournament: loss by learning rate, differences with intervals, and training curves."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train.drawing import COLOURS, MARKERS, STYLE
from studies.tournament.rules import OLDER, ORACLES, UPDATES, Row
from studies.tournament.runs import GRID_SEED, Run
from studies.tournament.statistics import best, curve, grid, losses
from studies.tournament.verdicts import signed

__all__ = ["curves", "forest", "rates", "sizes"]

BLUE, ORANGE, GREY = COLOURS[2], COLOURS[1], COLOURS[0]


def rates(runs: Sequence[Run], unit: str) -> Figure:
    """A panel for each arm: last loss against rate, the best rate ringed, torch's own curve grey behind it.

    The panels have one scale of loss, except those of arms whose best loss lies far above the least.
    """
    arms = sorted({run.arm for run in runs if grid(runs, run.arm)}, key=lambda arm: _least(runs, arm))
    columns = min(6, len(arms))
    count = -(-len(arms) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.0, 2.05 * columns), 1.0 + 1.95 * count), layout="constrained")
        panels = list(figure.subplots(count, columns, squeeze=False).flat)
        low = min(_least(runs, arm) for arm in arms)
        for place, (panel, arm) in enumerate(zip(panels, arms, strict=False)):
            _grid_panel(panel, runs, arm)
            if _least(runs, arm) < low + 0.3:
                panel.set_ylim(low - 0.03, low + 0.35)
                panel.tick_params(axis="y", labelleft=place % columns == 0)
        for panel in panels[len(arms) :]:
            panel.remove()
        figure.supxlabel("learning rate", fontsize=10)
        figure.supylabel(f"validation loss (nats a {unit})", fontsize=10)
        return figure


def _least(runs: Sequence[Run], arm: str) -> float:
    found = best(runs, arm)
    return math.inf if found is None else found.loss


def _grid_panel(panel: Axes, runs: Sequence[Run], arm: str) -> None:
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        (OLDER, {"color": "#bbbbbb"}),
        (arm, {"color": BLUE, "marker": "o", "markersize": 4}),
    )
    for name, look in looks[0 if grid(runs, OLDER).keys() & grid(runs, arm).keys() else 1 :]:
        points = [(lr, loss) for lr, loss in grid(runs, name).items() if math.isfinite(loss)]
        if points:
            panel.plot(*zip(*points, strict=True), **look)
    for lr, loss in grid(runs, arm).items():
        if math.isinf(loss):
            panel.plot(lr, 0.95, "x", color=ORANGE, transform=panel.get_xaxis_transform())
    found = best(runs, arm)
    if found is not None and math.isfinite(found.loss):
        panel.plot(found.lr, found.loss, "o", markersize=11, color=ORANGE, fillstyle="none")
        panel.set_title(f"{arm}\n{found.lr:g}: {found.loss:.3f}", fontsize=9)
    panel.set_xscale("log", base=2)
    shown = list(grid(runs, arm))[::2]
    panel.set_xticks(shown, [f"{lr:g}" for lr in shown], fontsize=8)
    panel.tick_params(axis="y", labelsize=8)


def forest(rows: Sequence[Row], other: str, unit: str) -> Figure:
    """Differences with intervals, the lowest loss at the top; the thin line is the corrected interval."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 1.5 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        limits = _limits(rows)
        for place, row in enumerate(rows):
            _difference(axes, place, row, limits)
        axes.axvline(0, color="#888888", linewidth=1)
        axes.set_xlim(*limits)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        names = [row.arm if row.other == other else f"{row.arm} - {row.other}" for row in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.grid(visible=False, axis="y")
        than = f"loss minus the loss of {other}" if other else "difference of the losses"
        axes.set_xlabel(f"{than}, nats a {unit} (left: lower loss)")
        axes.set_title("thick: 95 %, thin: corrected; filled: told apart by the rules", fontsize=9, fontweight="normal")
        return figure


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The ends of the axis: wide enough for most intervals; a mean beyond them is an arrow and a number."""
    known = [r.plain for r in rows if math.isfinite(r.plain.mean)]
    ends = [(i.mean, i.mean) if math.isnan(i.low) else (i.low, i.high) for i in known]
    if not ends:
        return -1.0, 1.0
    reach = max(4 * statistics.median(max(-low, high) for low, high in ends), 0.01)
    ends += [(r.corrected.low, r.corrected.high) for r in rows if not math.isnan(r.corrected.low)]
    inside = [(low, high) for low, high in ends if -reach < (low + high) / 2 < reach]
    low = max(-reach, min(0.0, *(low for low, _ in inside)))
    high = min(reach, max(0.0, *(high for _, high in inside)))
    margin = max(0.06 * (high - low), 1e-3)
    return low - margin, high + margin


def _difference(axes: Axes, place: int, row: Row, limits: tuple[float, float]) -> None:
    plain, corrected = row.plain, row.corrected
    colour = BLUE if plain.mean < 0 else ORANGE
    note = f"{signed(plain.mean)}, {plain.pairs} seed{'s' * (plain.pairs != 1)}"
    axes.annotate(note, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    if not limits[0] < plain.mean < limits[1]:
        mark, side = (">", 0.985) if plain.mean > 0 else ("<", 0.015)
        axes.plot(side, place, mark, color=colour, markersize=8, transform=axes.get_yaxis_transform())
        return
    for interval, width in ((corrected, 1.0), (plain, 3.2)):
        if not math.isnan(interval.low):
            axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=width)
    face = colour if row.judged.apart else "white"
    axes.plot(plain.mean, place, "o", color=colour, markerfacecolor=face, markersize=7)


def curves(runs: Sequence[Run], unit: str) -> Figure:
    """Validation loss of torch, and for groups of arms the difference of the mean from torch's on the common seeds."""
    with matplotlib.rc_context(STYLE):
        groups = _groups([arm for arm in sorted({run.arm for run in runs}) if losses(runs, arm)])
        figure = Figure(figsize=(11, 1.2 + 3.5 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 2, squeeze=False, sharex=True, width_ratios=(1, 1.35))
        for (left, right), (title, arms) in zip(panels, groups.items(), strict=True):
            for index, arm in enumerate(arms):
                _curve(left, right, runs, arm, _look(index))
            left.set(ylabel=f"validation loss (nats a {unit})", title=title)
            right.set(ylabel=f"minus the loss of {OLDER}")
            right.axhline(0, color="#888888", linewidth=1)
            right.set_ylim(*_window(right))
            right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5)
        for panel in panels[-1]:
            panel.set_xlabel("optimizer step")
        return figure


def _look(index: int) -> dict[str, Any]:
    turn, place = divmod(index, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": ("-", "--", ":")[turn % 3]}


def _groups(arms: Sequence[str]) -> dict[str, list[str]]:
    """The arms of each panel: all where there are few, else by question."""
    if len(arms) <= 8:
        return {"Means of the seeds": [arm for arm in arms if arm != OLDER]}
    oracles = [arm for arm in arms if arm in ORACLES and arm != OLDER]
    updates = [arm for arm in arms if arm in UPDATES]
    rest = [arm for arm in arms if arm not in (*oracles, *updates, OLDER)]
    named = {"Oracles": oracles, "Other updates": updates, "Claims of the papers": rest}
    return {title: found for title, found in named.items() if found}


def _curve(left: Axes, right: Axes, runs: Sequence[Run], arm: str, look: dict[str, Any]) -> None:
    seeds = losses(runs, arm).keys() & losses(runs, OLDER).keys()
    of, older = (dict(curve(_only(runs, name, seeds), name)) for name in (arm, OLDER))
    steps = sorted(of.keys() & older.keys())
    left.plot(steps, [of[s] for s in steps], **look, markersize=3.5, linewidth=1.3)
    right.plot(steps, [of[s] - older[s] for s in steps], **look, label=arm, markersize=4.5)


def _only(runs: Sequence[Run], arm: str, seeds: set[int]) -> list[Run]:
    """The runs of an arm at some seeds, with its grid."""
    return [run for run in runs if run.arm == arm and run.seed in {*seeds, GRID_SEED}]


def _window(panel: Axes) -> tuple[float, float]:
    """The range of the later half of the curves: the differences of the first steps are far larger."""
    ends = [list(map(float, np.asarray(line.get_ydata()))) for line in panel.lines]
    later = [y for values in ends for y in values[len(values) // 2 :]]
    low, high = min(0.0, *later), max(0.0, *later)
    near = sorted(abs(y) for y in later)[int(0.9 * len(later))] if later else 0.01
    reach = max(1.3 * near, 0.005)
    return max(low, -reach) - 0.15 * reach, min(high, reach) + 0.15 * reach


def sizes(rows: Sequence[Row], found: Mapping[str, Mapping[str, float]], unit: str) -> Figure:
    """Difference from torch against the mean singular value that the oracle leaves of a momentum."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        shown = [row for row in rows if row.arm in found and math.isfinite(row.plain.mean)]
        for index, row in enumerate(shown):
            of, look = found[row.arm], _look(index)
            error = None if math.isnan(row.plain.low) else row.plain.high - row.plain.mean
            axes.errorbar(of["mean"], row.plain.mean, yerr=error, capsize=3, **look, markersize=8, label=row.arm)
        axes.axhline(0, color="#888888", linewidth=1)
        axes.set_xlabel("mean singular value of the update, before the learning rate")
        axes.set_ylabel(f"loss minus the loss of {OLDER} (nats a {unit})")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure
