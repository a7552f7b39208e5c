"""Ways to measure a spectrum compared: error at a budget and steps to an accuracy, over spectra, at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from studies.ritz.rules import Grid, Sight, to_budget, to_tolerance
from studies.spectra import SPECTRA, drawn

__all__ = ["BUDGETS", "FULL", "QUICK", "Scale", "Score", "Study", "spectra"]

BUDGETS = (3, 4, 5, 6)
FLOOR = 1e-3  # added to both errors of a ratio: an error of 1e-6 instead of 1e-7 is no loss
TOLD = Sight("truth")


@dataclass(frozen=True)
class Scale:
    """How much is computed.

    Attributes:
        drawn: Spectra drawn at random, of 256 values.
        small: Spectra drawn at random, of 32 values.
        seeds: Draws of the random vectors for each.
        matrices: The size of the dense matrices.
        optimizer_steps: Over which those are followed.
        starts: Of each search.
    """

    drawn: int
    small: int
    seeds: int
    matrices: int
    optimizer_steps: int
    starts: int


FULL = Scale(drawn=40, small=20, seeds=20, matrices=192, optimizer_steps=48, starts=64)
QUICK = Scale(drawn=3, small=1, seeds=3, matrices=48, optimizer_steps=10, starts=4)


def spectra(scale: Scale) -> dict[str, np.ndarray]:
    """Singular values by name: of known laws, and drawn at random."""
    found = {name: of(512, 512, 0) for name, of in SPECTRA.items()}
    found["gaussian 1024x256"] = SPECTRA["gaussian"](1024, 256, 0)
    found["gaussian 4096x512"] = SPECTRA["gaussian"](4096, 512, 0)
    found["i^-1/2"] = np.arange(1.0, 513.0) ** -0.5
    found |= {f"drawn {i}": drawn(256, 256, i) for i in range(scale.drawn)}
    return found | {f"small {i}": drawn(32, 32, 1000 + i) for i in range(scale.small)}


@dataclass(frozen=True)
class Score:
    """How one way does over all spectra.

    Attributes:
        sight: The way.
        grid: The candidates.
        relative: By budget and spectrum, (rms + 1e-3) / (rms told the spectrum + 1e-3); rms over values and draws.
        unlucky: As `relative`, of the worst draw instead of the rms over draws.
        beyond: By spectrum that has a limit, mean steps to 1e-6 beyond those of the method told the spectrum.
    """

    sight: Sight
    grid: Grid
    relative: dict[int, dict[str, float]]
    unlucky: dict[int, dict[str, float]]
    beyond: dict[str, float] = field(default_factory=dict)

    @property
    def means(self) -> dict[int, float]:
        """By budget, the geometric mean over spectra."""
        return {steps: _geometric(r) for steps, r in self.relative.items()}

    @property
    def worst_draws(self) -> dict[int, float]:
        """By budget, the geometric mean over spectra of the worst draw."""
        return {steps: _geometric(r) for steps, r in self.unlucky.items()}

    @property
    def worst(self) -> dict[int, tuple[float, str]]:
        """By budget, the greatest ratio and whose it is."""
        return {steps: max((v, name) for name, v in r.items()) for steps, r in self.relative.items()}

    @property
    def more(self) -> tuple[float, float]:
        """Mean and greatest number of steps beyond."""
        values = list(self.beyond.values())
        return (float(np.mean(values)), max(values)) if values else (float("nan"), float("nan"))

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {
            "sight": vars(self.sight),
            "grid": vars(self.grid),
            "mean": self.means,
            "worst": {steps: list(worst) for steps, worst in self.worst.items()},
            "worst draws": self.worst_draws,
            "steps": list(self.more),
            "relative": {steps: _rounded(r) for steps, r in self.relative.items()},
            "beyond": _rounded(self.beyond),
        }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def _geometric(ratios: dict[str, float]) -> float:
    return float(np.exp(np.mean(np.log(list(ratios.values())))))


class Study:
    """Scores of ways on a set of spectra, and what they are measured by."""

    def __init__(self, scale: Scale, notice: Callable[[str], None], p: int = 2) -> None:
        """Of the polar factor, or of inverse p-th roots of X X^T for the same X; the references are computed here.

        Args:
            scale: How much.
            notice: Told of the progress.
            p: Exponent.
        """
        self.scale, self.notice, self.p = scale, notice, p
        self.spectra = {name: s ** (2 / p) for name, s in spectra(scale).items()}
        self.told: dict[int, dict[str, float]] = {steps: {} for steps in BUDGETS}
        self.least: dict[str, int] = {}
        for name, s in self.spectra.items():
            notice(f"told the spectrum: {name}")
            for steps in BUDGETS:
                self.told[steps][name] = float(to_budget(s, steps, TOLD, p=p, grid=Grid(every=1)))
            (count,) = to_tolerance(s, TOLD, p=p)
            if count is not None:
                self.least[name] = count

    def score(self, sight: Sight, grid: Grid | None = None, *, budget_alone: bool = False) -> Score:
        """Of one way."""
        grid = grid or Grid()
        self.notice(f"{sight.way}, {sight.columns} x {sight.depth}, every {sight.every}")
        seeds = 1 if sight.way == "truth" else self.scale.seeds
        relative: dict[int, dict[str, float]] = {steps: {} for steps in BUDGETS}
        unlucky: dict[int, dict[str, float]] = {steps: {} for steps in BUDGETS}
        for name, s in self.spectra.items():
            for steps in BUDGETS:
                errors = to_budget(s, steps, sight, p=self.p, seeds=seeds, grid=grid)
                rms, told = float(errors.square().mean().sqrt()), self.told[steps][name] + FLOOR
                relative[steps][name] = (rms + FLOOR) / told
                unlucky[steps][name] = (float(errors.max()) + FLOOR) / told
        counted = {} if budget_alone else self.least
        return Score(sight, grid, relative, unlucky, {name: self._beyond(name, sight, seeds) for name in counted})

    def scores(self, sights: Sequence[Sight]) -> list[Score]:
        """Of several."""
        return [self.score(sight) for sight in sights]

    def _beyond(self, name: str, sight: Sight, seeds: int) -> float:
        """A run that ends without the accuracy, where the roundoff alone is left, counts as ten steps more."""
        counts = to_tolerance(self.spectra[name], sight, p=self.p, seeds=seeds)
        return float(np.mean([self.least[name] + 10 if c is None else c for c in counts])) - self.least[name]
