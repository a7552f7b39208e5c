"""The figures of `reproduce ritz`: ratios against cost and depth, and ways side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train.drawing import COLOURS, MARKERS, STYLE
from studies.ritz.rules import Sight
from studies.ritz.study import BUDGETS, Score

__all__ = ["sweep", "ways"]


def sweep(scores: Sequence[Score]) -> Figure:
    """Loss over the method that is told the spectrum, by columns: per cent against products, and against passes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 7.2), layout="constrained")
        panels = figure.subplots(2, 2, sharey="row", sharex="col")
        for row, steps in enumerate((5, 6)):
            _curves(panels[row, 0], scores, steps, lambda sight: sight.products)
            _curves(panels[row, 1], scores, steps, lambda sight: sight.depth)
            panels[row, 0].set(title=f"{steps} steps", ylabel="error above that of the known spectrum (%)")
        panels[1, 0].set_xlabel("products of M with a vector, per step")
        panels[1, 1].set_xlabel("Lanczos steps (passes over M), per step")
        panels[0, 1].legend(title="columns")
        return figure


def _curves(axes: Axes, scores: Sequence[Score], steps: int, place: Callable[[Sight], int]) -> None:
    columns = sorted({score.sight.columns for score in scores})
    for c, colour, marker in zip(columns, COLOURS, MARKERS, strict=False):
        points = [(place(s.sight), 100 * (s.means[steps] - 1)) for s in scores if s.sight.columns == c]
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=f"{c}")
    axes.set(xscale="log", yscale="log")
    ticks = (2, 4, 8, 16, 32, 64) if axes.get_xlim()[1] > 20 else (2, 3, 4, 6, 8, 12, 16)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    lows = (1, 2, 3, 5, 10, 20, 50)
    axes.set_yticks(lows, [str(v) for v in lows])
    axes.set_yticks([], minor=True)


def ways(scores: Sequence[Score], name: Callable[[Sight], str]) -> Figure:
    """One mark for each way and number of steps; off the scale stands at its end."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        axes, most = figure.subplots(), 45.0
        for steps, colour, marker in zip(BUDGETS, COLOURS, MARKERS, strict=False):
            losses = [min(100 * (score.means[steps] - 1), most) for score in scores]
            axes.plot(losses, range(len(scores)), marker, color=colour, label=f"{steps} steps")
        axes.set_yticks(range(len(scores)), [name(score.sight) for score in scores])
        axes.invert_yaxis()
        axes.set(xlim=(0, most * 1.02), title="Twelve products of M with a vector before each step")
        axes.set_xlabel(f"error above that of the known spectrum (%), {most:g} or more at the edge")
        axes.legend(loc="lower right")
        return figure
