"""Reproduce: the tables of a paper made anew beside the published numbers, as Markdown, HTML, JSON and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch

from matfn.lab import drawing
from matfn.lab.checkpoint import replace_text
from matfn.lab.errors import LabError
from matfn.lab.papers.page import Report
from matfn.lab.papers.polargrad import report as reproduce_polargrad
from matfn.lab.papers.prism import report as prism_report
from matfn.lab.papers.ritz import report as ritz_report
from matfn.lab.provenance import conditions

__all__ = ["PAPERS", "run", "write"]

Making = Callable[[Callable[[str], None]], Report]
PAPERS: dict[str, dict[str, Making]] = {  # the presets of each paper, the default first
    "prism": {"full": prism_report.report},
    "polargrad": {"full": reproduce_polargrad.full, "quick": reproduce_polargrad.quick},
    "ritz": {"full": ritz_report.full, "quick": ritz_report.quick},  # no paper's: our own method's choices
}


def check(paper: str, preset: str | None) -> Making:
    """What makes the report of a paper.

    Raises:
        LabError: If there is no such paper, or no such preset of it.
    """
    if paper not in PAPERS:
        raise LabError(f"no paper {paper!r} to reproduce: known are {', '.join(PAPERS)}")
    presets = PAPERS[paper]
    if preset is not None and preset not in presets:
        raise LabError(f"{paper} has no preset {preset!r}: known are {', '.join(presets)}")
    return presets[preset or next(iter(presets))]


def run(paper: str, notice: Callable[[str], None], preset: str | None = None) -> Report:
    """All tables of a paper.

    Args:
        paper: Its name.
        notice: Told what is under way.
        preset: How much of it; None is all.

    Raises:
        LabError: See `check`.
    """
    return check(paper, preset)(notice)


def write(report: Report, folder: Path) -> Path:
    """Write `<paper>.md`, `.html`, `.json` and the figures into the folder, made if need be; returns the first's path.

    Not a number and infinity, which JSON does not have, are written as null and as text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts, drawn = conditions(torch.device("cpu")), {}
    for end, (_, draw) in report.figures.items():
        figure = draw()
        drawing.png(figure, folder / f"{report.paper}{end}.png")
        drawn[end] = drawing.svg(figure)
    plain = {"conditions": facts, **report.plain}
    text = json.dumps(finite(plain), indent=1, allow_nan=False)
    # A list of numbers on one line: a curve of 200 points is not 200 lines.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    replace_text(folder / f"{report.paper}.json", text + "\n")
    replace_text(folder / f"{report.paper}.html", report.html(facts, drawn))
    replace_text(folder / f"{report.paper}.md", report.markdown(facts))
    return folder / f"{report.paper}.md"


def finite(value: object) -> object:
    """The same plain values with NaN as None and infinity as "diverged"."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return "diverged" if isinstance(value, float) and abs(value) == float("inf") else value
