"""The figures of `reproduce polargrad`: curves of each problem, and the objective against the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train.drawing import COLOURS, MARKERS, STYLE, plain_powers
from studies.polargrad.runs import Trace
from studies.polargrad.sweep import Sweep

__all__ = ["curves", "edges"]

_FAMILIES = ("PolarGradM", "PolarGrad", "Muon", "Adam", "Newton", "alternating GD")


def curves(title: str, objective: str, traces: Sequence[Trace]) -> Figure:
    """Objective, kappa_2 and nuclear norm of the true gradient against steps; a colour for each family."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        panels = figure.subplots(1, 3)
        named = ((objective, "objective"), ("kappa_2 of the gradient", "condition"), ("||gradient||_*", "nuclear"))
        seen: dict[str, int] = {}
        for trace in traces:
            family = next(f for f in _FAMILIES if trace.label.startswith(f))
            style = ("-", "--", ":", "-.")[seen.get(family, 0) % 4]
            width = 1.9 if seen.get(family, 0) < 4 else 1.0
            seen[family] = seen.get(family, 0) + 1
            for axes, (_, key) in zip(panels, named, strict=True):
                look = {"color": COLOURS[_FAMILIES.index(family)], "linestyle": style, "linewidth": width}
                axes.plot(trace.steps, getattr(trace, key), **look, label=trace.label, alpha=0.9)
        for axes, (label, _) in zip(panels, named, strict=True):
            axes.set(xlabel="step", ylabel=label, yscale="log")
            plain_powers(axes.yaxis)
        panels[0].set_title(title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        return figure


def edges(sweeps: Sequence[Sweep]) -> Figure:
    """A panel for each problem: the objective at the end against the rate over the best one; crosses diverged."""
    with matplotlib.rc_context(STYLE):
        problems = list(dict.fromkeys(sweep.problem for sweep in sweeps))
        figure = Figure(figsize=(12, 4.6), layout="constrained")
        for problem, axes in zip(problems, figure.subplots(1, len(problems), squeeze=False)[0], strict=True):
            for index, one in enumerate(sweep for sweep in sweeps if sweep.problem == problem):
                _edge(axes, one, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
            steps = next(sweep.steps[-1] for sweep in sweeps if sweep.problem == problem)
            axes.set(
                xscale="log",
                yscale="log",
                xlabel="learning rate / best of its grid",
                title=f"{problem}, after {steps} steps",
            )
            axes.set_ylabel("objective (crosses: diverged)")
            plain_powers(axes.xaxis)
            plain_powers(axes.yaxis)
            axes.legend(fontsize=8)
        return figure


def _edge(axes: Axes, one: Sweep, colour: str, marker: str) -> None:
    ends = [row[-1] for row in one.values]
    kept = [(rate / one.best, end) for rate, end in zip(one.rates, ends, strict=True) if math.isfinite(end)]
    lost = [rate / one.best for rate, end in zip(one.rates, ends, strict=True) if not math.isfinite(end)]
    if kept:
        axes.plot(*zip(*kept, strict=True), color=colour, marker=marker, label=f"{one.label}, best {one.best:g}")
    # Crosses in the axes' own height, whatever the scale.
    for rate in lost:
        axes.plot(rate, 0.98, "x", color=colour, transform=axes.get_xaxis_transform()).pop().set_in_layout(False)
