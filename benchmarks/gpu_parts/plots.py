"""Plots of a result: time against error, steps beside peers, shares of the matmul rate, and targets."""

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
from benchmarks.gpu_parts.targets import judged
from benchmarks.gpu_parts.variants import KINDS, METHODS, PEERS
from matfn.train.drawing import COLOURS, MARKERS, STYLE, png

__all__ = ["plots"]

Result = dict[str, Any]


def plots(result: Result, path: Path) -> list[str]:
    """Draw what the result has times for, beside its file; return the names of the figures."""
    names = []
    for kind, draw in DRAWN.items():
        with matplotlib.rc_context(STYLE):
            figure = draw(result)
            if figure is None:
                continue
            figure.supxlabel("\n".join(wrap(_caption(result), int(13 * figure.get_figwidth()))), fontsize=8)
        name = f"{path.stem}-{kind}.png"
        png(figure, path.with_name(name), dpi=120)
        names.append(name)
    return names


def _caption(result: Result) -> str:
    facts = result["conditions"]
    card = facts.get("gpu", facts["measured"])
    return f"{card}, torch {facts['torch']}, triton {facts['triton']}, {facts['date']}; medians, bars: quartiles"


def _rows(result: Result, part: str) -> list[Row]:
    return result["parts"].get(part, {}).get("rows", [])


def _stacks(result: Result) -> Figure | None:
    """Milliseconds of a call against rms(1 - sigma), a panel for each stack; graphs if there are any."""
    rows = [row for row in _rows(result, "stacks") if row.get("seconds") and math.isfinite(_float(row["rms"]))]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    if not cases:
        return None
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(4.4 * columns + 2.8, 3.6 * lines + 0.7), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    look = _look()
    for axes, case in zip(grid.flat, cases, strict=False):
        for row in (row for row in rows if row["case"] == case):
            kind = "graph_seconds" if row.get("graph_seconds") else "seconds"
            low, high = row.get(f"{kind}_quartiles", (row[kind], row[kind]))
            bar = [[1e3 * (row[kind] - low)], [1e3 * (high - row[kind])]]
            style = look.get(row["name"], {"color": "#000000", "marker": "x"})
            axes.errorbar(row["rms"], 1e3 * row[kind], yerr=bar, linestyle="none", label=row["name"], **style)
        axes.set(title=case, xlabel="rms(1 - singular value)", ylabel="time of a call, ms", xlim=(0, None))
        axes.set_ylim(bottom=0)
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_visible(False)
    _legend(figure, grid.flat)
    return figure


def _look() -> dict[str, dict[str, Any]]:
    """A colour for each method, a marker for each kind of products; peers in black and grey."""
    found: dict[str, dict[str, Any]] = {}
    for i, peer in enumerate(PEERS):
        found[peer] = {"color": ("#000000", "#888888")[i % 2], "marker": "*", "markersize": 10}
    for i, method in enumerate(METHODS):
        for j, kind in enumerate(KINDS):
            found[f"{method}, {kind}"] = {"color": COLOURS[i + 1], "marker": MARKERS[j], "markersize": 5}
    return found


def _legend(figure: Figure, panels: Any) -> None:
    known: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside right upper", fontsize=7)


def _steps(result: Result) -> Figure | None:
    """Milliseconds of a whole step, eager and as a graph, a panel for each model."""
    rows = [row for row in _rows(result, "steps") if row.get("seconds")]
    models = list(dict.fromkeys(row["model"] for row in rows))
    if not models:
        return None
    figure = Figure(figsize=(5.4 * len(models) + 1, 3.4), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False).flat, models, strict=True):
        here = [row for row in rows if row["model"] == model][::-1]
        for shift, kind, label in ((0.2, "seconds", "eager"), (-0.2, "graph_seconds", "CUDA graph")):
            _bars(axes, here, kind, label, shift)
        axes.set_yticks(range(len(here)), [row["name"] for row in here], fontsize=7)
        axes.set(title=model, xlabel="time of a step, ms")
        axes.legend(fontsize=7)
    return figure


def _bars(axes: Axes, rows: Sequence[Row], kind: str, label: str, shift: float) -> None:
    found = [(i + shift, row) for i, row in enumerate(rows) if row.get(kind)]
    if not found:
        return
    values = [1e3 * row[kind] for _, row in found]
    ends = [row.get(f"{kind}_quartiles", (row[kind], row[kind])) for _, row in found]
    around = [[v - 1e3 * low for v, (low, _) in zip(values, ends, strict=True)],
              [1e3 * high - v for v, (_, high) in zip(values, ends, strict=True)]]  # fmt: skip
    colour = COLOURS[0] if shift > 0 else COLOURS[1]
    axes.barh([at for at, _ in found], values, height=0.38, xerr=around, label=label, color=colour)


def _rates(result: Result) -> Figure | None:
    """Share of the matmul rate against rows, a panel for each product."""
    rows = [row for row in _rows(result, "rates") if row.get("share_of_matmul_rate") and row["dtype"] == "float16"]
    products = list(dict.fromkeys(row["product"] for row in rows))
    if not products:
        return None
    figure = Figure(figsize=(3.6 * len(products) + 1.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(products), squeeze=False)
    for axes, product in zip(panels.flat, products, strict=True):
        for i, kind in enumerate(dict.fromkeys(row["kernel"] for row in rows)):
            points = sorted(
                (row["size"][1], 100 * row["share_of_matmul_rate"])
                for row in rows if (row["product"], row["kernel"]) == (product, kind)
            )  # fmt: skip
            axes.plot([n for n, _ in points], [y for _, y in points], label=kind, color=COLOURS[i], marker=MARKERS[i])
        axes.axhline(70, color="#999999", linewidth=0.8, linestyle="--", label="target from 2048 rows")
        axes.set(xscale="log", title=product, xlabel="rows", ylabel="% of the matmul rate, half counted")
        sizes = sorted({row["size"][1] for row in rows})
        axes.set_xticks(sizes, [str(n) for n in sizes], fontsize=7)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
    _legend(figure, panels.flat)
    return figure


def _targets(result: Result) -> Figure:
    """Predicted and measured numbers relative to their bounds; left of 1 is met."""
    verdicts = [v for v in judged(result) if v.target.limit][::-1]
    figure = Figure(figsize=(9, 0.34 * len(verdicts) + 1.2), layout="constrained")
    axes = figure.subplots()
    for values, label, colour, marker in (
        ([v.target.predicted for v in verdicts], "predicted by counts", COLOURS[0], "o"),
        ([math.nan if v.measured is None else v.measured for v in verdicts], "measured", COLOURS[1], "s"),
    ):
        ratios = [
            x / v.target.limit if not v.target.least else v.target.limit / x
            for x, v in zip(values, verdicts, strict=True)
        ]
        if not all(math.isnan(x) for x in ratios):
            axes.plot(ratios, range(len(verdicts)), linestyle="none", label=label, color=colour, marker=marker)
    axes.axvline(1, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(verdicts)), [v.target.name for v in verdicts], fontsize=7)
    axes.set(xscale="log", xlabel="relative to the bound: up to 1 is met")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5)
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    axes.legend(fontsize=7)
    return figure


def _float(value: Any) -> float:
    return float(value)


DRAWN: dict[str, Callable[[Result], Figure | None]] = {
    "stacks": _stacks, "steps": _steps, "rates": _rates, "targets": _targets,
}  # fmt: skip
