"""The figures: convergence by step and by product, the first step and its stabilisation, half precision, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from matfn.train.drawing import COLOURS, MARKERS, STYLE, plain_powers
from studies.polar_express.gradients import Curves
from studies.polar_express.maps import first_steps
from studies.polar_express.matrices import Half
from studies.polar_express.training import ARMS
from studies.tournament.runs import Run
from studies.tournament.statistics import grid, losses

__all__ = ["convergence", "first_step", "half_precision", "products", "training"]

FLOOR = 1e-16  # below lies rounding alone


def convergence(left: Mapping[str, Sequence[float]], right: Mapping[str, Curves]) -> Figure:
    """Figure 3: spectral error on log-spaced values; three errors on gradients, with a band of 90 %."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8.4), layout="constrained")
        panels = figure.subplots(2, 2).ravel()
        for index, (name, errors) in enumerate(left.items()):
            _line(panels[0], index, name, np.array([errors]))
        for axes, kind in zip(panels[1:], ("spectral", "frobenius", "cosine"), strict=True):
            for index, (name, curves) in enumerate(right.items()):
                _line(axes, index, name, getattr(curves, kind))
        titles = (
            ("singular values log-spaced 1e-6 .. 1", "spectral error"),
            ("gradients of the 4th block", "spectral error"),
            ("gradients of the 4th block", "relative Frobenius error"),
            ("gradients of the 4th block", "1 - cosine"),
        )
        for axes, (title, label) in zip(panels, titles, strict=True):
            axes.set(title=title, ylabel=label, xlabel="step", yscale="log", ylim=(1e-6, 3), xticks=range(0, 21, 2))
            plain_powers(axes.yaxis)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        return figure


def _line(axes: Axes, index: int, name: str, values: np.ndarray, at: Sequence[float] | None = None) -> None:
    """The median of the rows of `values`, and the band between their 5th and 95th percentiles."""
    x = np.arange(1, values.shape[1] + 1) if at is None else np.array(at)
    low, middle, high = np.maximum(np.percentile(values, (5, 50, 95), axis=0), FLOOR)
    colour = COLOURS[index % len(COLOURS)]
    axes.plot(x, middle, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=3.5, label=name)
    if len(values) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def products(degrees: Mapping[str, Sequence[tuple[float, float, float]]], curves: Mapping[str, Curves]) -> Figure:
    """Error against products: worst error on [1e-3, 1] by degree and both counts, and Frobenius error on gradients."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.4), layout="constrained")
        panels = figure.subplots(1, 3)
        for index, (name, rows) in enumerate(degrees.items()):
            for column, axes in enumerate(panels[:2]):
                _line(axes, index, name, np.array([[row[2] for row in rows]]), [row[column] for row in rows])
        for index, (name, made) in enumerate(curves.items()):
            each = 2 if " 3" in name else 3
            _line(panels[2], index, name, made.frobenius, each * np.arange(1, made.frobenius.shape[1] + 1))
        panels[0].set(title="[1e-3, 1], the paper's count", ylabel="worst error")
        panels[1].set(title="[1e-3, 1], this project's count", ylabel="worst error")
        panels[2].set(title="gradients of the 4th block", ylabel="relative Frobenius error")
        for axes, limit in zip(panels, (30, 16, 46), strict=True):
            axes.set(xlabel="products of n x n matrices", yscale="log", ylim=(1e-6, 3), xlim=(0, limit))
            plain_powers(axes.yaxis)
        panels[0].legend(loc="lower left")
        panels[2].legend(loc="upper left", bbox_to_anchor=(0.0, -0.18), fontsize=8, ncols=2)
        return figure


def first_step() -> Figure:
    """Figure 7: p(x) and p(x)/x of the first step for [.005, 1], raw and stabilised."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        x = np.linspace(1e-4, 1.08, 2000)
        for index, (name, row) in enumerate(first_steps().items()):
            look = {"color": COLOURS[index], "linestyle": ("-", "--", ":")[index], "linewidth": 1.8, "label": name}
            left.plot(x, x * row(x**2), **look)
            right.plot(x, row(x**2), **look)
        for axes in (left, right):
            axes.axvline(1.0, color="#888888", linewidth=0.8)
            axes.set(xlabel="x", xlim=(0, 1.08))
        left.set(title="first step for [.005, 1]: p(x)", ylabel="p(x)", ylim=(0, 3))
        right.set(title="gain p(x) / x", ylabel="p(x) / x", yscale="log", ylim=(0.03, 12))
        plain_powers(right.yaxis)
        left.legend(loc="upper center")
        return figure


def half_precision(half: Half) -> Figure:
    """Cosine to the true polar factor, and singular values of the result, by precision and steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for index, (name, cosines) in enumerate(half.cosines.items()):
            # float64 lies below float32: wide and pale.
            wide = {"linewidth": 5, "alpha": 0.4} if name == "float64" else {"linewidth": 1.6}
            look = {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 4, "label": name, **wide}
            left.plot(half.steps, cosines, **look)
            right.plot(half.steps, half.lows[name], **look)
            right.plot(half.steps, half.tops[name], **{**look, "linestyle": "--", "label": None})
        left.set(title="cosine to the polar factor, condition 1e6", xlabel="steps", ylabel="cosine")
        right.set(
            title="least (solid) and greatest (dashed) value of the result", xlabel="steps", ylabel="singular value"
        )
        left.legend()
        return figure


def training(runs: Sequence[Run]) -> Figure:
    """Validation loss by learning rate (one seed), and at the best rate of each arm (the compared seeds)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for index, (name, arm) in enumerate(ARMS.items()):
            look = {"color": COLOURS[index], "marker": MARKERS[index]}
            if found := grid(runs, arm):
                left.plot(list(found), list(found.values()), **look, label=name)
            seeds = list(losses(runs, arm).values())
            right.plot([index] * len(seeds), seeds, linestyle="none", **look)
        left.set(xscale="log", xlabel="learning rate", ylabel="validation loss", title="one seed, by rate")
        left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plain_powers(left.xaxis)
        right.set(title="compared seeds, at the best rate", ylabel="validation loss")
        right.set_xticks(range(len(ARMS)), list(ARMS), rotation=20)
        left.legend()
        return figure
