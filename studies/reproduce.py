"""The command of a study that reproduces a paper: tables on the terminal, and Markdown, HTML, JSON and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer

from matfn.train import TrainError, drawing
from matfn.train.files import folder, replace_text
from matfn.train.provenance import conditions
from matfn.train.terminal import Out, grid, safe, screen, user_errors
from studies.page import Report

__all__ = ["finite", "reproduction", "write"]

Making = Callable[[Callable[[str], None]], Report]


def reproduction(presets: Mapping[str, Making]) -> typer.Typer:
    """The command line of a study that makes one report.

    Args:
        presets: What makes the report, given a function that is told what is under way; the first is the default.
    """
    default = next(iter(presets))
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    @user_errors
    def reproduce(
        out: Out = None,
        preset: Annotated[str, typer.Option("--preset", help="full, or quick where the study has it.")] = default,
        json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    ) -> None:
        """Reproduce the tables and print them beside the published numbers."""
        if preset not in presets:
            raise TrainError(f"--preset is one of {', '.join(presets)}, got {preset!r}")
        with folder(out) if out else nullcontext(), screen(stderr=True).status("") as status:
            report = presets[preset](status.update)
            path = write(report, out) if out else None
        if json_:
            typer.echo(json.dumps(finite(report.plain)))
            return
        _print(report)
        if path:
            screen().print(f"\npage  {path}", highlight=False, soft_wrap=True)

    return app


def _print(report: Report) -> None:
    console = screen()
    for table in report.tables:
        shown = grid("", *table.heads, right=() if table.wide else tuple(range(1, 1 + len(table.heads))))
        for row, cells in table.rows:
            shown.add_row(f"{safe(row)}\n", *(safe(c) if table.wide else _stacked(c) for c in cells))
        console.print(f"\n[bold]{safe(table.title)}[/]: {safe(report.reading)}", highlight=False)
        console.print(shown)
        console.print(f"[dim]{safe(table.remark)}[/]", highlight=False)


def _stacked(cell: str) -> str:
    """The published number below the measured one."""
    ours, space, theirs = cell.partition(" (")
    return f"{safe(ours)}\n[dim]({safe(theirs)}[/]" if space else safe(ours)


def write(report: Report, directory: Path) -> Path:
    """Write `<paper>.md`, `.html`, `.json` and the figures into the folder, made if need be; returns the first's path.

    Not a number and infinity, which JSON does not have, are written as null and as text.
    """
    directory.mkdir(parents=True, exist_ok=True)
    facts, drawn = conditions(torch.device("cpu")), {}
    for end, (_, draw) in report.figures.items():
        figure = draw()
        drawing.png(figure, directory / f"{report.paper}{end}.png")
        drawn[end] = drawing.svg(figure)
    plain = {"conditions": facts, **report.plain}
    text = json.dumps(finite(plain), indent=1, allow_nan=False)
    # A list of numbers on one line: a curve of 200 points is not 200 lines.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    replace_text(directory / f"{report.paper}.json", text + "\n")
    replace_text(directory / f"{report.paper}.html", report.html(facts, drawn))
    replace_text(directory / f"{report.paper}.md", report.markdown(facts))
    return directory / f"{report.paper}.md"


def finite(value: object) -> object:
    """The same plain values with NaN as None and infinity as "diverged"."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return "diverged" if isinstance(value, float) and abs(value) == float("inf") else value
