"""Figures of the budget benchmark: error against steps, against time, and beside the best of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train.drawing import STYLE
from studies.budget.errors import Errors
from studies.budget.rivals import BUDGETS, OURS, RIVALS
from studies.budget.verdicts import ratio

__all__ = ["against_steps", "against_time", "mean_errors", "ratios"]

_LOOKS: dict[str, dict[str, Any]] = {
    "Newton-Schulz": {"color": "#999999", "marker": "s", "linewidth": 1.0},
    "Jordan": {"color": "#E69F00", "marker": "^", "linewidth": 1.2},
    "You": {"color": "#CC79A7", "marker": "P", "linewidth": 1.2},
    "Polar Express": {"color": "#0072B2", "marker": "o", "linewidth": 1.2},
    "Polar Express, told": {"color": "#56B4E9", "marker": "v", "linewidth": 1.2, "linestyle": "--"},
    "PRISM-3": {"color": "#5ec9a0", "marker": "D", "linewidth": 1.0},
    "PRISM-5": {"color": "#009E73", "marker": "D", "linewidth": 1.2},
    OURS: {"color": "#D55E00", "marker": "X", "linewidth": 2.4, "zorder": 5},
}
_LOW, _HIGH = 1e-4, 3.0  # rounding in bfloat16 is 3e-3; an error below 1e-4 means converged


def against_steps(title: str, errors: Mapping[str, Errors], columns: int = 4) -> Figure:
    """One panel for each case: rms(1 - sigma) after 2 to 6 steps."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(errors), columns)
        for axes, (name, found) in zip(panels, errors.items(), strict=False):
            for rival, values in found.items():
                _line(axes, BUDGETS, values, rival)
            axes.set_title(name.replace(" (", "\n("), fontsize=9)
            axes.set_xticks(BUDGETS)
        return _finished(figure, panels, len(errors), title, "steps", "rms(1 − σ)")


def against_time(title: str, errors: Mapping[str, Errors], seconds: Mapping[str, Sequence[float | None]]) -> Figure:
    """One panel for each case: rms(1 - sigma) against the time of 2 to 6 steps on one matrix of that size."""
    with matplotlib.rc_context(STYLE):
        figure, panels = _grid(len(errors), min(len(errors), 4))
        for axes, (name, found) in zip(panels, errors.items(), strict=False):
            for rival, values in found.items():
                _line(axes, [None if s is None else s * 1e3 for s in seconds[rival]], values, rival)
            axes.set_title(name, fontsize=9)
            axes.set_xlim(0, None)
        return _finished(figure, panels, len(errors), title, "time (ms)", "rms(1 − σ)")


def mean_errors(groups: Mapping[str, Mapping[str, Errors]]) -> dict[str, Errors]:
    """The mean error of each group of cases, as if it were a case."""
    found: dict[str, Errors] = {}
    for name, errors in groups.items():
        found[name] = {
            rival: [_mean([e[rival][i] for e in errors.values()]) for i in range(len(BUDGETS))] for rival in RIVALS
        }
    return found


def ratios(title: str, groups: Mapping[str, Mapping[str, Errors]]) -> Figure:
    """A mark for each case and budget: our error over the best of the others, 1e-3 added to both."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        axes, rng = figure.subplots(), np.random.default_rng(0)
        for number, ((name, errors), colour) in enumerate(zip(groups.items(), _COLOURS * 3, strict=False)):
            for steps in BUDGETS:
                values = [ratio(e, steps) for e in errors.values()]
                x = steps + (number - (len(groups) - 1) / 2) * 0.8 / len(groups) + rng.uniform(-0.04, 0.04, len(values))
                axes.plot(
                    x, values, "o", color=colour, markersize=3, alpha=0.6, label=name if steps == BUDGETS[0] else None
                )
        for height, text in ((1.0, "as good as the best"), (0.5, "half its error")):
            axes.axhline(height, color="#333333", linewidth=0.8)
            axes.annotate(text, (1.0, height), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        axes.set(yscale="log", xticks=BUDGETS, xlabel="steps", title=title)
        axes.set_ylabel("(RitzMinimax + 1e-3) / (best of Polar Express,\nPRISM-5, Jordan + 1e-3)")
        axes.legend(loc="lower left", ncols=2, fontsize=8)
        return figure


_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def _grid(count: int, columns: int) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.5 * rows + 1.1), layout="constrained")
    return figure, list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)


def _line(axes: Axes, x: Sequence[float | None], y: Sequence[float | None], rival: str) -> None:
    points = [(a, min(max(b, _LOW), 10 * _HIGH)) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **_LOOKS[rival], markersize=4, label=rival)


def _finished(figure: Figure, panels: list[Axes], used: int, title: str, x: str, y: str) -> Figure:
    for number, axes in enumerate(panels):
        if number >= used:
            axes.remove()
            continue
        axes.set_yscale("log")
        axes.set_ylim(_LOW / 1.3, _HIGH)
        axes.set_xlabel(x)
    panels[0].set_ylabel(y)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
