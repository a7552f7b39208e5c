"""Figures: colours and style, files, the loss curves of a comparison, and the scalar map of a schedule."""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter
except ImportError as missing:
    raise ImportError(f'figures need {missing.name}: pip install "matfn[train]"') from None

from matfn.train.files import whole

if TYPE_CHECKING:
    from matfn.train.compare import Comparison
    from matfn.train.outcome import Outcome
    from matfn.train.schedules import ScheduleTable

__all__ = ["COLOURS", "MARKERS", "STYLE", "loss_curves", "plain_powers", "png", "rate_curves", "schedule_map", "svg"]

# Okabe and Ito's colours can be told apart with any colour vision; the markers can in print.
COLOURS = ("#555555", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("s", "^", "o", "D", "v", "P", "X")
MANY = 6  # with more arms a figure shows the mean of the seeds and no training loss
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.markersize": 5.5,
    "svg.fonttype": "path",  # letters as outlines: the report looks the same on every machine
    "svg.hashsalt": "matfn",
    "text.parse_math": False,  # a dollar sign in a name begins no formula
}


def png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with matplotlib.rc_context(STYLE), whole(path) as file:
        figure.savefig(file, dpi=dpi, format="png")


def svg(figure: Figure) -> str:
    """A figure as an `<svg>` element to put inside a page: no prolog, no metadata, no outside reference."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def loss_curves(comparison: Comparison) -> Figure:
    """Validation loss against steps and against training time, the training loss faint behind it."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.8), layout="constrained")
        by_step, by_time = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
        looks = _looks(comparison)
        for arm, look in looks.items():
            runs = [run for run in comparison.runs if run.arm == arm]
            _arm(by_step, by_time, runs if len(looks) <= MANY else _mean(runs), look=look)
        unit = comparison.unit
        by_step.set(xlabel="optimizer step", ylabel=f"loss (nats per {unit})", title="Equal steps")
        by_time.set(xlabel="training time (s): steps × time of a step", title="Equal time on this machine")
        by_step.set_xlim(0, comparison.recipe.train.steps * 1.02)
        by_time.set_xlim(left=0)
        low, high = _range(comparison.runs)
        by_step.set_ylim(low, high)
        figure.legend(*by_step.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(looks), 4))
        return figure


def rate_curves(comparison: Comparison) -> Figure:
    """Loss against learning rate of every arm with a grid; a ring marks the rate that was taken."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        axes, looks = figure.subplots(), _looks(comparison)
        for found in comparison.searches:
            points = [(r, loss) for r, loss in zip(found.rates, found.losses, strict=True) if loss is not None]
            rates, losses = zip(*points, strict=True) if points else ((), ())
            axes.plot(rates, losses, **looks[found.arm], label=found.arm, linewidth=1.5)
            ring = [(r, loss) for r, loss in points if r == found.best]
            axes.plot(*zip(*ring, strict=True), "o", markersize=13, color=looks[found.arm]["color"], fillstyle="none")
        axes.set(xscale="log", xlabel="learning rate", ylabel=f"validation loss (nats per {comparison.unit})")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.xaxis.set(major_formatter=plain, minor_formatter=plain)
        axes.set_title(f"Learning rates, {comparison.searches[0].steps} steps each")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def _looks(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Colour and marker of each arm; the second round of colours is dashed."""
    arms = dict.fromkeys(run.arm for run in comparison.runs)
    looks = {}
    for index, arm in enumerate(arms):
        turn, place = divmod(index, len(COLOURS))
        looks[arm] = {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": ("-", "--", ":")[turn % 3]}
    return looks


def _mean(runs: list[Outcome]) -> list[Outcome]:
    """The mean of the finished runs as one run, without training losses; empty if no run finished."""
    whole = [run for run in runs if run.final is not None]
    if not whole:
        return []
    points = zip(*(run.val for run in whole), strict=True)
    val = tuple((p[0][0], statistics.fmean(loss for _, loss, _ in p), p[0][2]) for p in points)
    return [replace(whole[0], train=(), val=val, step_seconds=statistics.median(run.step_seconds for run in whole))]


def _arm(by_step: Axes, by_time: Axes, runs: list[Outcome], *, look: dict[str, Any]) -> None:
    for index, run in enumerate(runs):
        thin = 1.0 if len(runs) == 1 else 0.6
        label = run.arm if index == 0 else None
        if run.train:
            steps, losses = zip(*run.train, strict=True)
            by_step.plot(steps, _smooth(losses), color=look["color"], alpha=0.3, linewidth=1.0)
        if run.val:
            steps, losses, _ = zip(*run.val, strict=True)
            # Steps times their usual time: with the clock, one busy spell would shift the rest of a curve.
            seconds = [step * run.step_seconds for step in steps]
            for axes, x in ((by_step, steps), (by_time, seconds)):
                axes.plot(
                    x, losses, **look, label=label, alpha=thin, linewidth=2, markersize=5, markeredgecolor="white"
                )


def _smooth(values: Sequence[float], horizon: int = 10) -> list[float]:
    """An exponential mean over about `horizon` steps, corrected for its start."""
    keep, mean, weight, smooth = 1 - 1 / horizon, 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    return smooth


def _range(runs: Sequence[Outcome]) -> tuple[float, float]:
    """Limits around the validation losses: the training loss of the first steps is left out."""
    values = [loss for run in runs for _, loss, _ in run.val]
    if not values:
        return 0.0, 6.0
    low, high = min(values), max(values)
    return low - 0.08 * (high - low) - 0.01, high + 0.15 * (high - low) + 0.01


def schedule_map(table: ScheduleTable) -> Figure:
    """What each step does to s in [1e-6, 1], and the error |1 - s| after it; the design interval is shaded."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        values, errors = figure.subplots(1, 2)
        top = _map_curves(values, errors, table)
        for axes in (values, errors):
            axes.axvspan(table.lower, 1.0, color="#0072B2", alpha=0.08, linewidth=0, zorder=0)
            axes.set(xscale="log", xlim=(1e-6, 1), xlabel="s before the first step (greatest singular value = 1)")
            plain_powers(axes.xaxis)
        values.axhline(1.0, color="#333333", linewidth=0.8, linestyle=(0, (4, 3)))
        values.set(ylabel="s after each step", title="The map of s", ylim=(0, 1.05 * top))
        errors.set(yscale="log", ylabel="|1 − s| after each step", title="Its error")
        plain_powers(errors.yaxis)
        errors.set_ylim(max(1e-16, 0.01 * min(step.error for step in table.steps)), 3)
        # A long name goes over two lines, at a comma.
        figure.suptitle("\n".join(textwrap.wrap(f"{table.spec}, p = {table.p}".replace(",", ", "), 110)), fontsize=11)
        columns = min(len(table.steps), 6)
        title = f"steps done: worst |1 − s| on the design interval [{table.lower:.3g}, 1] (shaded)"
        figure.legend(*errors.get_legend_handles_labels(), loc="outside lower center", ncols=columns, title=title)
        return figure


def plain_powers(axis: Axis) -> None:
    """Label the powers of ten of a logarithmic axis as "0.01". matplotlib writes formulas, which `STYLE` forbids."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _map_curves(values: Axes, errors: Axes, table: ScheduleTable, *, bins: int = 900, inside: int = 50) -> float:
    """Draw s and |1 - s| after each step, and the bands of their extremes in a pixel. Returns the greatest value."""
    s = np.logspace(-6, 0, bins * inside)
    middle, top = s.reshape(bins, inside).mean(axis=1), 1.2
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.15, 0.95, len(table.steps)))
    for step, shade in zip(table.steps, shades, strict=True):
        after = table.after(s, step.number).reshape(bins, inside)
        last = step is table.steps[-1]
        width, alpha = (2.2, 0.55) if last else (1.4, 0.15)
        for axes, curve in ((values, after), (errors, np.maximum(np.abs(1 - after), 1e-17))):
            low, high = curve.min(axis=1), curve.max(axis=1)
            axes.fill_between(middle, low, high, color=shade, alpha=alpha, linewidth=0)
            # A line along the curve as far as it is smooth; only the band beyond.
            smooth = np.minimum.accumulate(after.max(axis=1) - after.min(axis=1) < 0.15)
            name = f"{step.number}: {step.error:.2g}"
            axes.plot(middle[smooth], curve.mean(axis=1)[smooth], color=shade, linewidth=width, label=name)
        top = max(top, float(after.max()))
    return top
