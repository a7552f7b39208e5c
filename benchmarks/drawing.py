"""The frame of a figure: one legend for all panels, the conditions below, and the numbers in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matfn.train import files
from matfn.train.drawing import png

__all__ = ["foot", "legend", "write"]


def legend(figure: Figure, panels: Iterable[Axes], size: float) -> None:
    """One legend to the right of the panels, each label once, in letters of `size` points."""
    known: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(list(known.values()), list(known), loc="outside right upper", fontsize=size)


def foot(figure: Figure, facts: Mapping[str, str], text: str) -> None:
    """Below the panels: the machine, the versions, and `text`."""
    where = f"{facts['processor']}, {facts['threads']} thread(s), torch {facts['torch']}, matfn {facts['matfn']}"
    lines = wrap(f"{where}; {text}", int(13 * figure.get_figwidth()))
    figure.supxlabel("\n".join(lines), fontsize=8, color="#555555")


def write(stem: Path, plain: Mapping[str, Any], figure: Figure) -> list[Path]:
    """Write STEM.json and STEM.png and return their paths; the folder is made if missing."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(".json"), stem.with_suffix(".png")]
    files.replace_text(paths[0], json.dumps(plain, indent=1) + "\n")
    png(figure, paths[1], dpi=120)
    return paths
