"""The comparisons of `reproduce ritz`: which ways are compared, and what comes out of each as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch

from matfn.linalg.lanczos import lanczos
from matfn.linalg.tridiagonal import sectioned
from studies.ritz import search as ritz_search
from studies.ritz.carry import KINDS, Carried, carried
from studies.ritz.rules import Grid, Sight
from studies.ritz.study import Scale, Score, Study
from studies.ritz.ways import closed_form

__all__ = ["Results", "computed", "three_by_three"]

EQUAL = (
    *(Sight("Lanczos, mean", c, 12 // c) for c in (1, 2, 3, 4, 6)),
    *(Sight(way, 2, 6) for way in ("Lanczos, Gauss", "Lanczos, Radau", "harmonic")),
    *(Sight("global, mean", c, 12 // c) for c in (2, 4)),
    *(Sight(way, 2, 6) for way in ("moments, float64", "moments, float32")),
    *(Sight(way, c, 12 // c) for way in ("block, Rayleigh-Ritz", "block, mean") for c in (2, 3, 4, 6)),
)
DEPTHS = {
    1: (2, 3, 4, 5, 6, 7, 8, 10, 12, 16),
    2: (2, 3, 4, 5, 6, 7, 8, 12),
    4: (2, 3, 4, 6, 8, 12),
    8: (2, 3, 4, 6),
    16: (2, 3, 6),
}
SWEEP = tuple(Sight("Lanczos, mean", c, depth) for c, depths in DEPTHS.items() for depth in depths)
ROOTS = tuple(Sight("Lanczos, mean", c, depth) for c, depth in ((1, 6), (1, 8), (1, 12), (2, 6), (4, 6), (4, 3)))
FIRST = 1000  # more steps than any run has
LESS = tuple(
    Sight("Lanczos, mean", c, depth, every)
    for c, depth, every in ((2, 6, 1), (2, 6, 2), (2, 12, 2), (1, 12, 2), (2, 6, FIRST), (2, 30, FIRST))
)
GRIDS = (*(Grid(1, every) for every in (1, 2, 4, 8, 16)), Grid(2, 2), Grid(4, 1), Grid(8, 1))


@dataclass(frozen=True)
class Results:
    """All that was computed.

    Attributes:
        equal: Ways at twelve products a step.
        sweep: Columns and depths of the Lanczos steps.
        roots: Some of these for inverse fourth roots.
        less: Looks at fewer steps.
        grids: Candidates and tables, each with the spectrum told and with the default's look.
        search: By spectrum and number of steps.
        carried: By kind of gradients.
        three: By depth of the spectrum, worst relative errors of the least eigenvalue of 3 x 3 matrices.
    """

    equal: list[Score]
    sweep: list[Score]
    roots: list[Score]
    less: list[Score]
    grids: list[tuple[Score, Score]]
    search: dict[str, dict[int, ritz_search.Found]]
    carried: list[Carried]
    three: dict[float, dict[str, float]]

    def plain(self) -> dict[str, Any]:
        """For JSON: every number, by spectrum where there is one."""
        return {
            "equal": [s.plain() for s in self.equal],
            "sweep": [s.plain() for s in self.sweep],
            "roots": [s.plain() for s in self.roots],
            "less": [s.plain() for s in self.less],
            "grids": [{"told": a.plain(), "measured": b.plain()} for a, b in self.grids],
            "search": self.search,
            "carried": [vars(c) for c in self.carried],
            "three": self.three,
        }


def computed(scale: Scale, notice: Callable[[str], None]) -> Results:
    """Everything."""
    study = Study(scale, notice)
    # In law the same looks serve several tables.
    known: dict[Sight, Score] = {}

    def score(sight: Sight) -> Score:
        if sight not in known:
            known[sight] = study.score(sight)
        return known[sight]

    return Results(
        [score(s) for s in EQUAL],
        [score(s) for s in SWEEP],
        Study(scale, notice, 4).scores(ROOTS),
        [score(s) for s in LESS],
        [
            (study.score(Sight("truth"), grid, budget_alone=True), study.score(Sight(), grid, budget_alone=True))
            for grid in GRIDS
        ],
        _searched(scale, notice),
        [carried(kind, scale.matrices, scale.optimizer_steps, scale.seeds, notice) for kind in KINDS],
        three_by_three(),
    )


def _searched(scale: Scale, notice: Callable[[str], None]) -> dict[str, dict[int, ritz_search.Found]]:
    results: dict[str, dict[int, ritz_search.Found]] = {}
    for name, s in ritz_search.CASES.items():
        for steps in (3, 4, 5):
            notice(f"search: {name}, {steps} steps")
            results.setdefault(name, {})[steps] = ritz_search.found(s, steps, scale.starts, scale.seeds)
    return results


def three_by_three() -> dict[float, dict[str, float]]:
    """Worst relative error of the least eigenvalue of T from three Lanczos steps on spectra of so many decades of m."""
    found: dict[float, dict[str, float]] = {}
    for decades in (2.0, 6.0, 10.0, 14.0):
        generator = torch.Generator().manual_seed(int(decades))
        m = torch.from_numpy(np.logspace(0, -decades, 256)).expand(50, -1)
        V = torch.randn(50, 256, 1, generator=generator, dtype=torch.float64)
        # A spectrum of two clusters, of which three steps find the lower one: the hard case for a formula.
        m = torch.where(torch.arange(256) < 128, m[:, :1] * (1 - 0.1 * torch.rand(256, generator=generator)), m[:, -1:])
        T = lanczos(lambda W, m=m: m.unsqueeze(-1) * W, V, 3)[:, 0, :3, :3]
        with mpmath.workdps(60):
            least = [float(min(mpmath.eigsy(mpmath.matrix(t.tolist()), eigvals_only=True))) for t in T]
        exact = torch.tensor(least, dtype=torch.float64)
        ways = {
            "closed form": closed_form(T)[..., 0],
            "closed form, float32": closed_form(T.float())[..., 0],
            "LAPACK": torch.linalg.eigvalsh(T)[..., 0],
            "sectioning": sectioned(T)[..., 0],
        }
        found[decades] = {name: float((least.double() / exact - 1).abs().max()) for name, least in ways.items()}
    return found
