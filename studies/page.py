"""A reproduction as a page: tables of measured beside published numbers, remarks and figures, in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from matfn.train.report import CSS, HEAD, facts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "Shown", "line", "number"]


@dataclass(frozen=True)
class Shown:
    """A table as text; a cell is "measured" or "measured (published)".

    Attributes:
        title: The heading over it.
        heads: The column heads, without that of the first column.
        rows: Name of the row and its cells.
        remark: A sentence below it.
        wide: Whether the cells are sentences, to be set to the left.
    """

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, Sequence[str]]]
    remark: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Report:
    """What a study made.

    Attributes:
        paper: The name of the files that are written.
        title: The heading of the page.
        notes: Paragraphs before the tables; how to read them, deviations.
        tables: In order.
        figures: Caption and figure by the ending of the file's name ("" for the first), drawn when asked for.
        plain: Everything as plain values, for JSON.
        command: What makes the page.
        reading: What a cell is, for the terminal.
    """

    paper: str
    title: str
    notes: Sequence[str]
    tables: Sequence[Shown]
    figures: Mapping[str, tuple[str, Callable[[], Figure]]]
    plain: Any
    command: str = field(default="")
    reading: str = "measured (published)"

    def markdown(self, conditions: Mapping[str, str]) -> str:
        """The page in Markdown; the figures lie beside it."""
        parts = [f"# {self.title}\n", f"`{self.command or f'python -m studies.{self.paper}'}` makes this page.\n"]
        parts += [note + "\n" for note in self.notes]
        for table in self.tables:
            parts.append(f"## {table.title}\n")
            parts.append(line(("", *table.heads)) + "\n|---|" + "---|" * len(table.heads))
            parts += [line((name, *cells)) for name, cells in table.rows]
            parts.append(f"\n{table.remark}\n")
        parts += [f"![{caption}]({self.paper}{end}.png)\n" for end, (caption, _) in self.figures.items()]
        parts.append("Made with " + ", ".join(f"{k} {v}" for k, v in conditions.items()) + ".\n")
        return "\n".join(parts)

    def html(self, conditions: Mapping[str, str], drawn: Mapping[str, str]) -> str:
        """One file that can be mailed; `drawn` are the figures as `<svg>` elements."""
        body = [f"<h1>{escape(self.title)}</h1>", *(f"<p>{escape(note)}</p>" for note in self.notes)]
        for table in self.tables:
            heads = "".join(f"<th>{escape(text)}</th>" for text in ("", *table.heads))
            place = ' style="text-align: left; white-space: normal"' if table.wide else ""
            lines = "".join(
                f"<tr><td>{escape(name)}</td>{''.join(f'<td{place}>{escape(c)}</td>' for c in cells)}</tr>"
                for name, cells in table.rows
            )
            body.append(f"<h2>{escape(table.title)}</h2>")
            body.append(f'<div class="wide" style="overflow-x: auto; font-size: .82rem"><table><thead><tr>{heads}</tr>')
            body.append(f'</thead><tbody>{lines}</tbody></table></div><p class="note">{escape(table.remark)}</p>')
        for end, (caption, _) in self.figures.items():
            body.append(f"<figure>{drawn[end]}<figcaption>{escape(caption)}</figcaption></figure>")
        body.append(f"<h2>Conditions</h2>{facts(conditions)}")
        return HEAD.format(title=escape(self.title), css=CSS) + "\n".join(body) + "\n</body></html>\n"


def line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown; a bar in a cell, as in a norm, would end the cell."""
    text = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    return text.replace("|  |", "| |", 1) if not cells[0] else text


def number(value: float | None) -> str:
    """A number in the fewest signs that tell it: 3, 11.6, 4.7e-05, diverged."""
    if value is None or value != value:
        return ""
    if value == float("inf"):
        return "diverged"
    if 0.01 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.3g}"
