"""Plots of a folder of results: paired differences, losses by rate, losses against seconds, times of a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.gpu_parts.case import Row
from benchmarks.gpu_train_parts import findings, rules
from benchmarks.gpu_train_parts.contenders import ARMS, THEIRS
from matfn.train.drawing import COLOURS, MARKERS, STYLE, png

__all__ = ["plots"]

Sizes = tuple[str, str]


def plots(rows: Sequence[Row], calls: Sequence[Row], folder: Path, sizes: Sizes) -> list[str]:
    """Draw what there are rows for, with the names of the two models; return the names of the files."""
    names = []
    for kind, draw in DRAWN.items():
        with matplotlib.rc_context(STYLE):
            figure = draw(rows, sizes)
            if figure is None:
                continue
            figure.supxlabel("\n".join(wrap(_caption(calls), int(13 * figure.get_figwidth()))), fontsize=8)
        name = f"{kind}.png"
        png(figure, folder / name, dpi=120)
        names.append(name)
    return names


def _caption(calls: Sequence[Row]) -> str:
    cards = dict.fromkeys(f"{call.get('gpu', call['measured'])}, torch {call['torch']}" for call in calls)
    return f"{'; '.join(cards)}; {calls[-1]['date']}"


def _look(arm: str) -> dict[str, Any]:
    """Colour and marker of an arm, the same in all plots."""
    place = list(ARMS).index(arm) if arm in ARMS else 0
    turn, place = divmod(place, len(COLOURS))
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": ("-", "--")[turn % 2]}


def _differences(rows: Sequence[Row], sizes: Sizes) -> Figure | None:
    """Each arm minus torch.optim.Muon: the mean with its interval, and every pair as a point."""
    arms = findings.compared(rows)
    others = [arm for arm in arms if arm.difference is not None and math.isfinite(arm.difference.mean)]
    base = next((arm for arm in arms if arm.name == THEIRS), None)
    if not others or base is None:
        return None
    figure = Figure(figsize=(8.5, 1.6 + 0.5 * len(others)), layout="constrained")
    axes = figure.subplots()
    for place, arm in enumerate(reversed(others)):
        found = arm.difference
        assert found is not None
        pairs = [arm.losses[s] - base.losses[s] for s in arm.losses.keys() & base.losses.keys()]
        colour = _look(arm.name)["color"]
        axes.plot(pairs, [place - 0.22] * len(pairs), ".", color=colour, alpha=0.6)
        if math.isfinite(found.low):
            axes.plot((found.low, found.high), (place, place), color=colour, linewidth=2)
        axes.plot(found.mean, place, color=colour, marker="D")
    axes.axvline(0, color="#333333", linewidth=0.8)
    named = [f"{arm.name} {arm.difference.mean:+.4f}" for arm in reversed(others) if arm.difference]
    axes.set_yticks(range(len(others)), named)
    axes.set_ylim(-0.6, len(others) - 0.4)
    _near_zero(axes, [arm for arm in others if arm.name != "adamw"])
    axes.set(xlabel="loss minus the loss of torch.optim.Muon (nats a token); points are pairs, lines 95 % intervals")
    axes.set_title(f"{sizes[0]}, below 0: lower loss than torch.optim.Muon at equal steps")
    return figure


def _near_zero(axes: Axes, arms: Sequence[findings.Arm]) -> None:
    """Fit the range to the arms that differ little; AdamW's number stands in its name if it lies outside."""
    ends = [abs(end) for arm in arms if arm.difference for end in (arm.difference.low, arm.difference.high)]
    ends += [abs(arm.difference.mean) for arm in arms if arm.difference]
    finite = [end for end in ends if math.isfinite(end)]
    if finite:
        axes.set_xlim(-1.1 * max(*finite, 1e-3), 1.1 * max(*finite, 1e-3))


def _rates(rows: Sequence[Row], sizes: Sizes) -> Figure | None:
    """Loss against the learning rate, a panel for each rung; the best rate inside is ringed."""
    arms = [name for name in ARMS if rules.losses("rung 1", name, rows)]
    if not arms:
        return None
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, stage in zip(panels, rules.RUNGS, strict=True):
        for name in arms:
            points = [(r, v) for r, v in sorted(rules.losses(stage, name, rows).items()) if math.isfinite(v)]
            if points:
                axes.plot(*zip(*points, strict=True), **_look(name), label=name, linewidth=1.4)
            best = rules.best_of(stage, name, rows)
            ring = [(r, v) for r, v in points if r == best]
            if ring:
                axes.plot(*zip(*ring, strict=True), "o", markersize=12, fillstyle="none", color=_look(name)["color"])
        axes.set(xscale="log", xlabel="learning rate", ylabel="validation loss (nats a token)")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_title(f"{sizes[0]}, {stage}: {rules.RUNGS[stage]:g} of the steps")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _seconds(rows: Sequence[Row], sizes: Sizes) -> Figure | None:
    """Mean validation loss of the seeds, and of the large model's runs, against training seconds."""
    stages = {"seeds": f"{sizes[0]}, mean of the seeds", "large": f"{sizes[1]}, one run"}
    found = {title: _curves(rows, stage) for stage, title in stages.items()}
    found = {title: curves for title, curves in found.items() if curves}
    if not found:
        return None
    figure = Figure(figsize=(5.6 * len(found) + 1.8, 4.6), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (title, curves) in zip(panels, found.items(), strict=True):
        for name, (seconds, losses) in curves.items():
            axes.plot(seconds, losses, **_look(name), label=name, linewidth=1.4)
        axes.set(xlabel="training seconds: steps x median step", ylabel="validation loss (nats a token)", title=title)
        axes.set_xlim(left=0)
        _focus(axes, list(curves.values()))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _curves(rows: Sequence[Row], stage: str) -> dict[str, tuple[list[float], list[float]]]:
    """Arm -> seconds and mean losses, of runs that did not diverge."""
    own = findings.large(rows) if stage == "large" else [row for row in rows if row["stage"] == stage]
    curves = {}
    for name in dict.fromkeys(row["arm"] for row in own):
        runs = [row for row in own if row["arm"] == name and row.get("loss") is not None]
        if runs:
            step = findings.median(runs, "step_seconds")
            points = zip(*(row["val"] for row in runs), strict=True)
            pairs = [(step * same[0][0], sum(v for _, v in same) / len(same)) for same in points]
            curves[name] = ([s for s, _ in pairs], [v for _, v in pairs])
    return curves


def _focus(axes: Axes, curves: Sequence[tuple[list[float], list[float]]]) -> None:
    """Leave the first points out of the range: the last ones matter."""
    low = min(losses[-1] for _, losses in curves)
    high = max(losses[min(1, len(losses) - 1)] for _, losses in curves)
    pad = 0.05 * max(high - low, 1e-3)
    axes.set_ylim(low - pad, high + pad)


def _times(rows: Sequence[Row], sizes: Sizes) -> Figure | None:
    """Milliseconds of a step, model and optimizer, of every arm that ran."""
    own = [row for row in rows if row["stage"] == "speed" and "step_seconds" in row]
    if not own:
        return None
    figure = Figure(figsize=(8.5, 1.6 + 0.35 * len(own)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(own)):
        model, optimizer = 1e3 * row["model_seconds"], 1e3 * row["optimizer_seconds"]
        axes.barh(place, model, color="#cccccc", label="model" if place == 0 else None)
        axes.barh(place, optimizer, left=model, color=COLOURS[2], label="optimizer" if place == 0 else None)
        axes.text(model + optimizer, place, f" {optimizer:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(own)), [row["arm"] for row in reversed(own)])
    axes.set(xlabel="median milliseconds of a step; the number is the optimizer's", title=f"A step, {sizes[0]}")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


DRAWN: dict[str, Callable[[Sequence[Row], Sizes], Figure | None]] = {
    "differences": _differences,
    "rates": _rates,
    "seconds": _seconds,
    "times": _times,
}
