"""The accuracy benchmark written down: a page, heat maps, tables as Markdown, and everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

from matfn.train import drawing, files, report
from studies.accuracy import tables
from studies.accuracy.heatmap import heat_map
from studies.accuracy.run import Result

__all__ = ["as_json", "page", "write"]


def write(result: Result, directory: Path) -> Path:
    """Write accuracy.json, accuracy-<function>.png, tables.md and report.html; the path of the page is returned."""
    directory.mkdir(parents=True, exist_ok=True)
    files.replace_text(directory / "accuracy.json", as_json(result))
    files.replace_text(directory / "tables.md", tables.markdown(result))
    figures = {}
    for function in dict.fromkeys(cell.function for cell in result.cells):
        figure = heat_map(result, function)
        drawing.png(figure, directory / f"accuracy-{function}.png", dpi=100)
        figures[function] = drawing.svg(figure)
    files.replace_text(directory / "report.html", page(result, figures))
    return directory / "report.html"


def as_json(result: Result) -> str:
    """All results, one line for each cell; missing figures are null."""
    plain = result.plain()
    cells = ",\n".join(json.dumps(cell, ensure_ascii=False) for cell in plain.pop("cells"))
    return json.dumps(plain, indent=1, ensure_ascii=False)[:-2] + f',\n "cells": [\n{cells}\n]\n}}\n'


def page(result: Result, figures: dict[str, str]) -> str:
    """The whole page; `figures` has an `<svg>` element for each function."""
    title = "Accuracy of matrix functions"
    body = [f"<h1>{title}</h1>", f'<p class="lead">{escape(tables.caption(result))}</p>']
    for function, figure in figures.items():
        body += [f"<h2>{escape(function)}</h2>", f"<figure>{figure}</figure>", *_costs(result, function)]
    body += [f"<h2>Conditions</h2>{report.facts(result.conditions)}"]
    body += [f"<details><summary>Every figure</summary>{''.join(_everything(result))}</details>"]
    return report.HEAD.format(title=title, css=report.CSS) + "\n".join(body) + "\n</body></html>\n"


def _costs(result: Result, function: str) -> Iterator[str]:
    for block in tables.blocks(result):
        if block.function == function:
            yield f'<p class="note">Work of one call, {escape(block.dtype)}</p>{_table(*tables.work(block))}'


def _everything(result: Result) -> Iterator[str]:
    for block in tables.blocks(result):
        for figure, name in tables.FIGURES.items():
            if any(getattr(cell, figure) is not None for cell in block.cells.values()):
                yield f"<h2>{escape(f'{block.function}, {block.dtype}: {name}')}</h2>"
                yield f'<div class="wide">{_table(*tables.errors(block, figure))}</div>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    lines = ("".join(f"<td>{escape(text)}</td>" for text in row) for row in rows)
    return (
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )
