"""Tables of the accuracy benchmark: one of errors and one of costs, for the terminal, the page and Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from studies.accuracy.run import Cell, Result

__all__ = ["FIGURES", "Block", "blocks", "caption", "errors", "markdown", "shown", "work"]

FIGURES = {
    "forward": "forward error ‖B − f(A)‖ / ‖f(A)‖",
    "residual": "residual of the equation (certify)",
    "orthogonality": "orthogonality, rms of σ² − 1",
    "direction": "|1 − direction|",
}
_SHORT = {"gaussian": "gauss", "gaussian tall": "tall", "rank-deficient": "rank", "clustered": "cluster"}


@dataclass(frozen=True)
class Block:
    """The cells of one function in one dtype: solvers by spectra."""

    function: str
    dtype: str
    solvers: tuple[str, ...]
    spectra: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]

    def heads(self) -> list[str]:
        """Short names of the spectra."""
        return [short(name) for name in self.spectra]

    def row(self, solver: str, figure: str) -> list[str]:
        """The logarithms of one solver's figure, as `shown`."""
        return [shown(self.cells[solver, spectrum], figure) for spectrum in self.spectra]


def short(spectrum: str) -> str:
    """A name of at most seven letters."""
    return _SHORT.get(spectrum, spectrum.replace("log-uniform ", "").replace("outlier ", "").replace("htmp ", "htmp"))


def blocks(result: Result) -> list[Block]:
    """One for each function and dtype, in the order they were measured."""
    found = []
    for function, dtype in dict.fromkeys((cell.function, cell.dtype) for cell in result.cells):
        cells = [cell for cell in result.cells if (cell.function, cell.dtype) == (function, dtype)]
        solvers = tuple(
            name
            for name in dict.fromkeys(cell.solver for cell in cells)
            if any(not cell.note for cell in cells if cell.solver == name)
        )
        spectra = tuple(dict.fromkeys(cell.spectrum for cell in cells))
        found.append(Block(function, dtype, solvers, spectra, {(c.solver, c.spectrum): c for c in cells}))
    return found


def shown(cell: Cell, figure: str) -> str:
    """The decimal logarithm of a figure to one place; "refused", "NaN", or "–" where the figure does not apply."""
    if cell.note:
        return "ref" if cell.note.startswith("refused") else "NaN"
    value = getattr(cell, figure)
    return "–" if value is None else f"{math.log10(max(value, 1e-17)):z.1f}"


def errors(block: Block, figure: str = "forward") -> tuple[list[str], list[list[str]]]:
    """Head and rows: log10 of the figure, solvers by spectra."""
    rows = [[solver, *block.row(solver, figure)] for solver in block.solvers]
    return ["log10", *block.heads()], rows


def work(block: Block) -> tuple[list[str], list[list[str]]]:
    """Head and rows: steps, products, decompositions and milliseconds, from the least to the most over the spectra."""
    rows = []
    for solver in block.solvers:
        cells = [cell for (name, _), cell in block.cells.items() if name == solver and not cell.note]
        seconds = [cell.seconds for cell in cells if cell.seconds is not None]
        time = f"{statistics.median(seconds) * 1e3:.2f}" if seconds else "–"
        rows.append(
            [
                solver,
                _span(cell.steps for cell in cells),
                _span(cell.products for cell in cells),
                _span(cell.decompositions for cell in cells),
                time,
            ]
        )
    return ["solver", "steps", "products", "decompositions", "ms"], rows


def _span(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    low, high = (f"{value:.0f}" for value in (min(known), max(known)))
    return low if low == high else f"{low}–{high}"


def caption(result: Result) -> str:
    """The meaning of the numbers and the conditions of the measurement, in two sentences."""
    options, facts = result.options, result.conditions
    return (
        f"log10 of the error, short side {options.size}, seed {options.seed}; – where the figure does not apply or the "
        "matrix is singular to working precision, ref: refused, NaN: not finite; who refuses all is left out. "
        f"Times are medians of {options.rounds} interleaved rounds over all spectra, torch {facts['torch']}, "
        f"{facts['threads']} thread(s), {facts['processor']}."
    )


def markdown(result: Result) -> str:
    """All tables, a section for each function and dtype."""
    parts = []
    for block in blocks(result):
        parts.append(f"### {block.function}, {block.dtype}\n")
        for head, rows in (errors(block), errors(block, "residual"), work(block)):
            parts += [_line(head), _line(["---"] + ["--:"] * (len(head) - 1)), *map(_line, rows), ""]
    return "\n".join(parts)


def _line(values: list[str]) -> str:
    return "| " + " | ".join(values) + " |"
