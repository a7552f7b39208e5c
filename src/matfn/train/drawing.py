"""What all figures share: colours and style, one legend for all panels, the foot, writing files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train import checkpoint
from matfn.train.checkpoint import whole

__all__ = ["COLOURS", "MARKERS", "STYLE", "foot", "legend", "png", "svg", "write"]

# Okabe and Ito's colours: told apart with any colour vision, and, by the markers, in print.
COLOURS = ("#555555", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = ("s", "^", "o", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "lines.markersize": 5.5,
    "svg.fonttype": "path",  # letters as outlines: the report looks the same on every machine
    "svg.hashsalt": "matfn",
}


def png(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with matplotlib.rc_context(STYLE), whole(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")


def svg(figure: Figure) -> str:
    """A figure as an `<svg>` element to put inside a page: no prolog, no metadata, no outside reference."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def legend(figure: Figure, panels: Iterable[Axes], size: float) -> None:
    """One legend to the right of the panels, each label once, in letters of `size` points."""
    known: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside right upper", fontsize=size)


def foot(figure: Figure, facts: Mapping[str, str], text: str) -> None:
    """Below the panels: where and with what it was measured, and what the marks are."""
    where = f"{facts['processor']}, {facts['threads']} thread(s), torch {facts['torch']}, matfn {facts['matfn']}"
    lines = wrap(f"{where}; {text}", int(13 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=8, color="#555555")


def write(stem: Path, plain: Mapping[str, Any], figure: Figure) -> list[Path]:
    """Write STEM.json and STEM.png into a folder, made if need be; the paths are returned."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(".json"), stem.with_suffix(".png")]
    checkpoint.replace_text(paths[0], json.dumps(plain, indent=1) + "\n")
    png(figure, paths[1], dpi=120)
    return paths
