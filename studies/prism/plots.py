"""The figures of `studies.prism`: ||I - X^T X||_F against the iteration as the paper plots it, and counts of steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train.drawing import COLOURS, MARKERS, STYLE, plain_powers
from studies.prism.sizes import Curve

__all__ = ["convergence", "step_counts"]

_METHODS = ("NS5", "Polar Express", "PRISM")  # with a sketch PRISM has the same curve
_LINES = {"exact arithmetic": "-", "with a float32 floor": "--", "dense float32": ""}
_RIGHT = 45  # iterations shown


def convergence(curves: Sequence[Curve]) -> Figure:
    """A panel for each condition; the first draw is drawn strongly, the others thinly."""
    with matplotlib.rc_context(STYLE):
        conditions = list(dict.fromkeys(curve.condition for curve in curves))
        figure = Figure(figsize=(4 * len(conditions), 4.6), layout="constrained")
        for condition, axes in zip(conditions, figure.subplots(1, len(conditions), squeeze=False)[0], strict=True):
            own = [curve for curve in curves if curve.condition == condition and curve.method in _METHODS]
            for curve in own:
                _line(axes, curve)
            longest = max(len(curve.errors) - 1 for curve in own)
            axes.set(xlabel="iteration", yscale="log", xlim=(0, min(_RIGHT, longest)))
            axes.set_ylim(1e-9, 3e2)
            axes.set_title(condition, fontsize=10)
            plain_powers(axes.yaxis)
        figure.axes[0].set_ylabel("||I - X'X||, Frobenius norm")
        handles = {label: h for ax in figure.axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
        return figure


def _line(axes: Axes, curve: Curve) -> None:
    colour = COLOURS[_METHODS.index(curve.method)]
    label = curve.method + ("" if curve.kind == "exact arithmetic" else f", {curve.kind}")
    look: dict[str, Any] = {
        "color": colour,
        "linestyle": _LINES[curve.kind],
        "linewidth": 1.6 if curve.draw == 0 else 0.6,
    }
    if curve.kind == "dense float32":
        look |= {"marker": MARKERS[_METHODS.index(curve.method)], "markersize": 4, "linestyle": "none"}
    axes.plot(range(len(curve.errors)), curve.errors, **look, label=label if curve.draw == 0 else None)


def step_counts(title: str, heads: Sequence[str], ours: dict[str, Any], published: dict[str, Any]) -> Figure:
    """A row of marks for each problem: steps by method, ours filled, the published ones as rings."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes = figure.subplots()
        for column, (head, colour, marker) in enumerate(zip(heads, cycle(COLOURS), cycle(MARKERS), strict=False)):
            for y, row in enumerate(ours):
                height = y + 0.7 * (column / max(1, len(heads) - 1) - 0.5)
                for values, face in ((published, "none"), (ours, colour)):
                    if values[row][column] is not None:
                        axes.plot(values[row][column], height, marker, markerfacecolor=face, markeredgecolor=colour)
            axes.plot([], [], marker, color=colour, label=head)
        axes.set_yticks(range(len(ours)), list(ours))
        axes.invert_yaxis()
        axes.set(xlabel="steps (filled: measured here; rings: published)", title=title)
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure
