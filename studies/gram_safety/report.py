"""The page of `studies.gram_safety`: the worst rounding error of every plan, by kind of spectrum, and its bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from matfn.run.machine import short
from matfn.train.drawing import STYLE
from studies.gram_safety.search import SPECTRA, VECTORS, Case, Matrices, bred, cases, drawn, errors
from studies.page import Report, Shown, number

__all__ = ["Found", "report", "search"]

NOTES = """The Gram engine against `Direct` in float64 with the same steps. Each plan is one that the library chooses by
itself: for `orthogonalize`, for methods that a caller may give, and for the steps of Muon; with full products, and with
products that mirror a symmetric result. A cell of the table is the worst over all shapes (16 x 64, 32 x 48, 24 x 768,
64 x 16, and some of 192 x 768), spectra and singular vectors: random, rotations of two or four coordinates, vectors of
nearly equal entries, the axes; a quarter of the matrices has a scale from 1e-30 to 1e30, a quarter has zero rows and
columns. From each draw the search climbs: the half with the largest errors stays, with changed copies."""

BOUND = """The error is the larger of the Frobenius and the spectral one, relative to the result. `of Direct` is the
error that `Direct` has in the same dtype, on the matrices that are worst for it: steep schedules and half precision
lose digits with every engine. The bound is for what Gram adds to the error of `Direct` on the same matrix. In float32
it is the promise of 1 %. In half precision no promise holds for every spectrum, because one rounding of M, 2^-9 in
bfloat16, is larger than the squares of small singular values; the bound is `matfn.engines.gram_error`, the model in the
worst case."""

_ROUNDS = 4


@dataclass
class Found:
    """The worst errors found for one plan.

    Attributes:
        case: The plan, for one of the shapes.
        run: Number of matrices run.
        worst: Largest error by kind of spectrum.
        added: The most that Gram adds to the error of `Direct`.
        direct: Largest error of `Direct`.
        at: Spectrum, singular vectors, shape and products of the largest error of all.
        greatest: The greatest singular value returned.
    """

    case: Case
    run: int
    worst: dict[str, float]
    at: str = ""
    added: float = 0.0
    direct: float = 0.0
    greatest: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether Gram adds no more than the bound."""
        return self.added <= self.case.bound


def search(found: Found, case: Case, members: int, rounds: int, draw: torch.Generator) -> None:
    """Add what the search finds for one plan, with every kind of spectrum."""
    names = list(VECTORS)
    shape = min(case.plan.shape), max(case.plan.shape)
    for family in SPECTRA:
        left, right = (names[int(torch.randint(len(names), (), generator=draw))] for _ in range(2))
        where = (
            f"{family}, {left} x {right}, {' x '.join(map(str, case.plan.shape))}, {type(case.plan.products).__name__}"
        )

        def score(M: Matrices, family: str = family, where: str = where) -> torch.Tensor:
            of = errors(case, M.dense())
            error = of.gram.max().item()
            found.at = where if error > max(found.worst.values()) else found.at
            found.worst[family] = max(found.worst[family], error)
            found.added = max(found.added, (of.gram - of.direct).max().item())
            found.direct = max(found.direct, of.direct.max().item())
            found.greatest = max(found.greatest, of.greatest.max().item())
            found.run += len(M.values)
            return of.gram

        score(bred(score, drawn(family, (left, right), shape, members, draw), rounds, draw))


def report(notice: Callable[[str], None], members: int) -> Report:
    """Search with batches of `members` matrices."""
    draw, found = torch.Generator().manual_seed(0), dict[tuple[str, str], Found]()
    plans = [(case, members, _ROUNDS) for case in cases()]
    plans += [(case, max(2, members // 4), 1) for case in cases(((192, 768),))]
    for done, (case, size, rounds) in enumerate(plans):
        notice(f"plan {done + 1} of {len(plans)}: {case.name}, {'x'.join(map(str, case.plan.shape))}")
        key = case.name, short(case.plan.precision)
        search(found.setdefault(key, Found(case, 0, dict.fromkeys(SPECTRA, 0.0))), case, size, rounds, draw)
    return made(list(found.values()))


def made(found: list[Found]) -> Report:
    """The report of the plans `found`."""
    total = sum(f.run for f in found)
    broken = [f.case.name for f in found if not f.kept]
    return Report(
        paper="gram_safety",
        title="The rounding of the Gram engine: a search for the worst matrices",
        notes=(NOTES, BOUND, f"{total:,} matrices; plans above their bound: {len(broken) or 'none'}."),
        tables=[
            Shown(
                "Worst error of each plan",
                (
                    "dtype",
                    "restarts",
                    "matrices",
                    "error",
                    "of Direct",
                    "added",
                    "bound",
                    "top",
                    "exact top",
                    "error found at",
                ),
                [(f.case.name, _cells(f)) for f in found],
                "`top`: the greatest singular value returned; `exact top`: the greatest in exact arithmetic.",
            )
        ],
        figures={"": ("worst error by plan and kind of spectrum", lambda: _map(found))},
        plain={"matrices": total, "broken": broken, "plans": [_plain(f) for f in found]},
        reading="Gram against Direct in float64",
    )


def _cells(f: Found) -> list[str]:
    top = f.case.schedule.images()[-1][1]
    values = (max(f.worst.values()), f.direct, max(f.added, 0.0), f.case.bound, f.greatest, top)
    return [short(f.case.plan.precision), str(f.case.restarts), f"{f.run:,}", *map(_short, values), f.at]


def _short(value: float) -> str:
    return number(float(f"{value:.3g}"))


def _plain(f: Found) -> dict[str, Any]:
    return {
        "plan": f.case.name,
        "dtype": short(f.case.plan.precision),
        "restarts": list(f.case.restarts),
        "matrices": f.run,
        "bound": f.case.bound,
        "worst": f.worst,
        "added": f.added,
        "direct": f.direct,
        "at": f.at,
        "greatest singular value": f.greatest,
    }


def _map(found: list[Found]) -> Figure:
    """Logarithms of the errors as colours and numbers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 0.42 * len(found) + 2.2), layout="constrained")
        axes = figure.subplots()
        errors_ = np.array([[max(f.worst[s], 1e-9) for s in SPECTRA] for f in found])
        axes.imshow(np.log10(errors_), cmap="viridis", aspect="auto", vmin=-6, vmax=0)
        for (i, j), value in np.ndenumerate(errors_):
            text = "0" if value <= 1e-9 else f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")
            axes.text(j, i, text, ha="center", va="center", color="black" if value > 1e-3 else "white", fontsize=8)
        axes.set_xticks(range(len(SPECTRA)), list(SPECTRA), rotation=35, ha="right")
        names = [f"{f.case.name}, {short(f.case.plan.precision)} (bound {_short(f.case.bound)})" for f in found]
        axes.set_yticks(range(len(found)), names)
        axes.grid(visible=False)
        axes.set_title("Worst error of Gram against Direct in float64")
        return figure
