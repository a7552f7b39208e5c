"""Heat maps of the accuracy benchmark: log10 of the error, every cell with its number."""

from __future__ import annotations

import math
import textwrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from matfn.train.drawing import STYLE
from studies.accuracy.run import Cell, Result
from studies.accuracy.tables import FIGURES, Block, blocks, caption, shown

__all__ = ["heat_map"]

_FLOOR = {"float64": -16.0, "float32": -8.0, "bfloat16": -3.0}  # the least error in colour, below unit roundoff


def heat_map(result: Result, function: str, figures: tuple[str, ...] = ("forward", "residual")) -> Figure:
    """One row of panels for each dtype, one column for each figure; solvers by spectra in each."""
    of = [block for block in blocks(result) if block.function == function]
    columns, lines = len(of[0].spectra), [len(block.solvers) for block in of]
    width, height = (
        3.5 + len(figures) * (0.52 * max(columns, 6) + 0.5),
        1.1 + sum(0.27 * count + 0.95 for count in lines),
    )
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = figure.subplots(len(of), len(figures), squeeze=False, height_ratios=[n + 1 for n in lines])
        for line, block in zip(panels, of, strict=True):
            colours = matplotlib.colormaps["cividis_r"].with_extremes(bad="#f2f2f2")
            scale = Normalize(_FLOOR[block.dtype], 0.0)
            for number, (axes, name) in enumerate(zip(line, figures, strict=True)):
                _panel(axes, block, name, colours=colours, scale=scale)
                axes.set_title(f"{block.dtype}: {FIGURES[name]}")
                if number:
                    axes.set_yticklabels([])
            figure.colorbar(ScalarMappable(scale, colours), ax=list(line), pad=0.01, aspect=12, label="log10")
        figure.suptitle(f"Accuracy of {function}", x=0.01, ha="left", fontweight="bold", fontsize=14)
        figure.supxlabel(
            "\n".join(textwrap.wrap(caption(result), int(width * 15))), x=0.01, ha="left", fontsize=8, color="#555555"
        )
        return figure


def _panel(axes: Axes, block: Block, figure: str, *, colours: Colormap, scale: Normalize) -> None:
    cells = [[block.cells[solver, spectrum] for spectrum in block.spectra] for solver in block.solvers]
    values = np.array([[_log(cell, figure) for cell in row] for row in cells])
    axes.imshow(np.ma.masked_invalid(values), cmap=colours, norm=scale, aspect="auto")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            shade = colours(scale(values[i, j])) if np.isfinite(values[i, j]) else (0.95, 0.95, 0.95, 1.0)
            dark = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] < 0.5
            axes.text(
                j,
                i,
                shown(cell, figure),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if dark else "#1d1f23" if np.isfinite(values[i, j]) else "#777777",
            )
    axes.set_xticks(
        range(len(block.spectra)), block.heads(), fontsize=8, rotation=30, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(block.solvers)), block.solvers, fontsize=8.5)
    axes.set_xticks(np.arange(len(block.spectra)) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(block.solvers)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _log(cell: Cell, figure: str) -> float:
    value = getattr(cell, figure)
    return math.nan if value is None or cell.note else math.log10(max(value, 1e-17))
