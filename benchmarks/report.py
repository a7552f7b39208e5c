"""The files of a benchmark: rows as JSON, a page with tables, and figures of time against error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from benchmarks.drawing import foot, legend
from benchmarks.rows import Report, Row
from matfn.train import drawing, files
from matfn.train.drawing import COLOURS, MARKERS, STYLE

_PANELS = 12  # of a figure


def write(report: Report, directory: Path) -> list[Path]:
    """Write bench-PART.json, .md and its figures; the paths are returned."""
    paths = [write_json(report, directory), directory / f"bench-{report.part}.md"]
    drawn = {directory / name: figure(part) for name, part in _pages(report).items()}
    files.replace_text(paths[1], markdown(report))
    for path, one in drawn.items():
        drawing.png(one, path, dpi=110)
    return [*paths, *drawn]


def write_json(report: Report, directory: Path) -> Path:
    """Write bench-PART.json alone, whole or not at all, with the rows so far."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"bench-{report.part}.json"
    files.replace_text(path, as_json(report))
    return path


def _pages(report: Report) -> dict[str, Report]:
    """The report divided by figures: one, or one for each batch and dtype if the panels are too many."""
    name = f"bench-{report.part}"
    if len(report.cases()) <= _PANELS or report.part == "scaling":
        return {f"{name}.png": report}
    pages: dict[str, list[Row]] = {}
    for row in report.rows:
        pages.setdefault("-".join(part.replace(" ", "-") for part in row.case.split(", ")[1:]), []).append(row)
    return {f"{name}-{page}.png": replace(report, rows=tuple(rows)) for page, rows in pages.items()}


def as_json(report: Report) -> str:
    """All results, one line for each row; missing figures are null."""
    plain = report.plain()
    rows = ",\n".join(json.dumps(_finite(row), ensure_ascii=False) for row in plain.pop("rows"))
    return json.dumps(plain, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n]\n}}\n'


def _finite(value: object) -> object:
    """NaN and infinities as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def heads(rows: Sequence[Row]) -> list[str]:
    """Of the table of some rows: the errors are those that any of them has."""
    return ["", "ms", "spread", "speed (range)", "GF/s", *_figures(rows)]


def _figures(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.errors))


def cells(row: Row, rows: Sequence[Row]) -> list[str]:
    """The row for a table that has `heads(rows)`; the library's default is marked."""
    errors = [_error(name, row.errors.get(name)) for name in _figures(rows)]
    name = f"{row.name} *" if row.choice else row.name
    if row.median is None or row.spread is None or row.ratio is None:
        return [name, "-", "-", "-", "-", *errors]
    again = f", {row.attempts} times" if row.attempts > 1 else ""
    return [
        name,
        f"{1e3 * row.median:.3g}",
        f"{row.spread:.0%}{again}",
        f"{row.ratio:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})",
        "-" if row.rate is None else f"{row.rate / 1e9:.0f}",
        *errors,
    ]


def notes(rows: Sequence[Row]) -> list[str]:
    """Why rows have no time, or one sample."""
    return [f"{row.name}: {row.note}" for row in rows if row.note]


def _error(name: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-" if value is None else "NaN"
    if name.startswith("direction"):
        return f"{value:.4f}"
    return f"{value:.0%}" if name == "fraction" else f"{value:.1e}"


def markdown(report: Report) -> str:
    """A table for each case, and the conditions."""
    parts = [f"## {report.title}", "", report.caption, ""]
    for case in report.cases():
        rows = [row for row in report.rows if row.case == case]
        head = heads(rows)
        parts += [f"### {case}", "", _line(head), _line(["---"] + ["--:"] * (len(head) - 1))]
        parts += [*(_line(cells(row, rows)) for row in rows), "", *(f"- {note}" for note in notes(rows)), ""]
    parts += ["`*`: what the library does when it is asked for nothing.", ""]
    parts += [f"Not measured: {absence(report)}.", ""] if report.absent else []
    parts += [f"![{report.title}]({name})\n" for name in _pages(report)]
    parts += [f"[As JSON](bench-{report.part}.json).", ""]
    return "\n".join([*parts, *(f"- {name}: {fact}" for name, fact in report.conditions.items()), ""])


def absence(report: Report) -> str:
    """The missing peers, and why."""
    return "; ".join(f"{name} ({why})" for name, why in report.absent.items())


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"


def figure(report: Report) -> Figure:
    """The figure of a part; its caption states the conditions."""
    with matplotlib.rc_context(STYLE):
        drawn = _growth(report) if report.part == "scaling" else _panels(report)
        foot(drawn, report.conditions, "medians, bars: quartile range")
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
    legend(drawn, grid.flat, size=7)
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
    legend(drawn, grid.flat, size=7)
    return drawn
