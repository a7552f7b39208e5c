"""What `matfn compare` prints of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from matfn.train.terminal import grid, safe

if TYPE_CHECKING:
    from matfn.train.compare import Comparison

__all__ = ["print_comparison"]


def print_comparison(console: Console, result: Comparison) -> None:
    """The lead, the table and the notes."""
    from matfn.train import images_section as report_images
    from matfn.train import report
    from matfn.train import sections as report_parts
    from matfn.train.outcome import leaders

    shown = grid(*report.headings(result.unit), right=(1, 2, 3, 4, 5))
    best = leaders(result.rows, result.differences)
    for row in result.rows:
        style = "bold" if row.arm in best else ""
        shown.add_row(*report.cells(row, report.tokens_per_step(result)), style=style)
    console.print(f"\n{report.lead(result)}\n", highlight=False)
    console.print(shown)
    console.print()
    for line in [*report_images.lines(result), *report_parts.summary(result)]:
        console.print(f"  {safe(line)}", highlight=False)
    console.print(f"[dim]{safe(result.note)}[/]", highlight=False)
