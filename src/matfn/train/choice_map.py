"""`matfn explain --map`: which method, engine, precision and products would compute matrices of every shape."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import matfn
from matfn import Schedule
from matfn.run.plan import RunPlan
from matfn.train import TrainError
from matfn.train.drawing import STYLE

__all__ = ["ChoiceMap", "choice_map", "draw"]

SIDES = tuple(round(16 * 2 ** (k / 2)) for k in range(21))  # 16 to 16384, two sizes in each octave
_OBLONG = ("orthogonalize", "polar", "muon", "normuon", "adamuon", "polargrad")
# Okabe and Ito's colours, lighter, and three more. Every cell has a letter too, so that nobody needs the colours.
COLOURS = ("#D9D9D9", "#F5C04A", "#62A9DA", "#4DBD98", "#DDA3C3", "#A5D6F2", "#EE9457", "#F3EC7F", "#B9A7E0", "#A89C84")


@dataclass(frozen=True)
class ChoiceMap:
    """The choices over shapes.

    Attributes:
        verb: The function or optimizer.
        machine: The profile that decides.
        sides: Rows and columns of the shapes.
        names: The different choices, the most frequent first. If there are more than ten, the rest counts as one.
        chosen: (rows, columns): the index of the choice for each shape.
    """

    verb: str
    machine: str
    sides: tuple[int, ...]
    names: tuple[str, ...]
    chosen: np.ndarray


def choice_map(verb: str, **options: Any) -> ChoiceMap:
    """Make the run plan of every shape; `options` are those of `matfn.explain`. No matrix is made.

    Raises:
        TrainError: The verb takes square matrices, so that its choices are no map.
        ValueError, TypeError: As `matfn.explain`.
    """
    if verb.lower() not in _OBLONG:
        raise TrainError(
            f"--map is for functions of oblong matrices: {', '.join(_OBLONG)}. {verb} takes square ones: give its shape"
        )
    plans = [[matfn.explain((m, n), verb, **options) for n in SIDES] for m in SIDES]
    told = [[_told(plan) for plan in row] for row in plans]
    counts = Counter(name for row in told for name in row)
    names = [name for name, _ in counts.most_common()]
    if len(names) > len(COLOURS):
        rest = len(names) - len(COLOURS) + 1
        names = [*names[: len(COLOURS) - 1], f"{rest} other choices"]
    places = {name: index for index, name in enumerate(names)}
    chosen = np.array([[places.get(name, len(names) - 1) for name in row] for row in told])
    machine = plans[0][0].machine
    return ChoiceMap(verb, f"{machine.name} ({machine.kind})", SIDES, tuple(names), chosen)


def _told(plan: RunPlan) -> str:
    """The choice in a line: method, engine, precision, products."""
    method = type(plan.method).__name__
    if isinstance(plan.iteration, Schedule) and not plan.iteration.rational:
        method += f" of degrees {', '.join(map(str, plan.iteration.degrees))}"
    if plan.preparation.deflation:
        method += f", deflation 1/{1 / plan.preparation.deflation:.0f}"
    engine = "" if plan.engine is None else repr(plan.engine)
    parts = [method, engine, str(plan.precision).removeprefix("torch."), repr(plan.products)]
    return re.sub(r"(?<=[A-Za-z])\(\)", "", "; ".join(filter(None, parts)))


def draw(found: ChoiceMap, shape: tuple[int, int] | None = None) -> Figure:
    """The map with a letter in each region and a legend; a cross marks `shape`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 8.2 + 0.22 * len(found.names)), layout="constrained")
        axes = figure.subplots()
        sides = np.array(found.sides, dtype=float)
        edges = np.concatenate([sides, [sides[-1] * 2**0.5]]) / 2**0.25
        colours = ListedColormap(COLOURS[: len(found.names)])
        limits: Any = {"vmin": -0.5, "vmax": len(found.names) - 0.5}
        axes.pcolormesh(edges, edges, found.chosen, cmap=colours, edgecolors="white", linewidth=0.4, **limits)
        for (m, n), index in np.ndenumerate(found.chosen):
            letter = chr(ord("A") + index)
            axes.text(found.sides[n], found.sides[m], letter, ha="center", va="center", fontsize=6.5, color="#222222")
        if shape is not None and all(edges[0] <= side <= edges[-1] for side in shape):
            axes.plot(shape[1], shape[0], "x", color="black", markersize=11, markeredgewidth=2.2)
        ticks = [side for side in found.sides if side & (side - 1) == 0]
        axes.set(xscale="log", yscale="log", aspect="equal", xlabel="columns n", ylabel="rows m")
        figure.suptitle(f"{found.verb} of m x n matrices on {found.machine}", fontsize=11)
        axes.grid(visible=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [str(tick) for tick in ticks])
            axis.set_ticks([], minor=True)
        patches = [
            Patch(facecolor=colour, label=f"{chr(ord('A') + index)}  {name}")
            for index, (colour, name) in enumerate(zip(COLOURS, found.names, strict=False))
        ]
        figure.legend(handles=patches, loc="outside lower left", fontsize=8.5, handlelength=1.2)
        return figure
