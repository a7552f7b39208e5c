"""The speed benchmark written down: tables as a page, everything as JSON, a figure of time against error."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.plots import figure
from benchmarks.rows import Report, Row
from matfn.train import checkpoint

__all__ = ["as_json", "cells", "heads", "markdown", "notes", "write", "write_json"]

_PANELS = 12  # of a figure


def write(report: Report, directory: Path) -> list[Path]:
    """Write bench-PART.json, .md and its figures; the paths are returned."""
    from matfn.train import drawing

    paths = [write_json(report, directory), directory / f"bench-{report.part}.md"]
    drawn = {directory / name: figure(part) for name, part in _pages(report).items()}
    checkpoint.replace_text(paths[1], markdown(report))
    for path, one in drawn.items():
        drawing.png(one, path, dpi=110)
    return [*paths, *drawn]


def write_json(report: Report, directory: Path) -> Path:
    """Write bench-PART.json alone, whole or not at all: what a run that goes on has so far."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"bench-{report.part}.json"
    checkpoint.replace_text(path, as_json(report))
    return path


def _pages(report: Report) -> dict[str, Report]:
    """The report by figures: one, or where that has too many panels one for each batch and dtype."""
    name = f"bench-{report.part}"
    if len(report.cases()) <= _PANELS or report.part == "scaling":
        return {f"{name}.png": report}
    pages: dict[str, list[Row]] = {}
    for row in report.rows:
        pages.setdefault("-".join(part.replace(" ", "-") for part in row.case.split(", ")[1:]), []).append(row)
    return {f"{name}-{page}.png": replace(report, rows=tuple(rows)) for page, rows in pages.items()}


def as_json(report: Report) -> str:
    """Everything, with a line for each row; figures that there are not are null."""
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
    """The row for a table that has `heads(rows)`; what the library does when asked for nothing is marked."""
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
    """A table for each case, and under what conditions."""
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
    """The peers that are not there, and why."""
    return "; ".join(f"{name} ({why})" for name, why in report.absent.items())


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", r"\|") for value in values) + " |"
