"""An optimizer's momentum changes slowly: what a measurement is worth some steps later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matfn.methods.ritz_minimax.density import Density
from studies.ritz.rules import Grid, Look, Sight, followed_to_budget, followed_to_tolerance, looking, started, to_budget

__all__ = ["KINDS", "LAGS", "Carried", "carried", "momenta"]

BETA = 0.95
LAGS = (1, 4, 16)
STEPS = 5
KINDS = {
    "noise": "gradients of independent normal entries",
    "drift and noise": "the same, and a fixed gradient of rank 8 that grows to three times their norm",
    "steep": "gradients with singular values i^-1 between random orthogonal factors",
}


@dataclass(frozen=True)
class Carried:
    """Errors at five steps, and steps to 1e-6, by where the looks come from.

    Attributes:
        kind: Of the gradients.
        told: rms(1 - s) told the spectrum; as all errors, the rms over optimizer steps.
        fresh: Looking before each step.
        every_look: By lag, all looks from so many optimizer steps ago: no products now.
        first_look: By lag, only the one before the first step.
        to_accuracy: Mean steps to 1e-6 with fresh looks, and by lag with all looks carried; None counts as ten more.
    """

    kind: str
    told: float
    fresh: float
    every_look: dict[int, float]
    first_look: dict[int, float]
    to_accuracy: dict[int, float]


def momenta(kind: str, size: int, steps: int) -> Iterator[np.ndarray]:
    """Singular values of M <- 0.95 M + 0.05 G, after each of `steps` optimizer steps."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    low_rank = normal(size, 8) @ normal(8, size) * (3 / 8**0.5)
    M = torch.zeros(size, size, dtype=torch.float64)
    for t in range(steps):
        G = normal(size, size)
        if kind == "steep":
            U, V = (torch.linalg.qr(normal(size, size)).Q for _ in range(2))
            G = U * torch.arange(1.0, size + 1, dtype=M.dtype) ** -1 @ V
        if kind == "drift and noise":
            G = G + min(1.0, t / steps) * low_rank
        M = BETA * M + (1 - BETA) * G
        yield torch.linalg.svdvals(M).numpy()


def carried(kind: str, size: int, steps: int, seeds: int, notice: Callable[[str], None]) -> Carried:
    """All figures of one kind, over the second half of the optimizer steps."""
    values, kept = list(momenta(kind, size, steps)), []
    errors: dict[tuple[str, int], list[float]] = {}
    counts: dict[int, list[float]] = {}
    for t, s in enumerate(values):
        notice(f"carried: {kind}, optimizer step {t} of {steps}")
        start = started(s, 2, seeds)
        seen, ritz = _Kept(looking(Sight())), _Kept(looking(Sight()))
        fresh = followed_to_budget(start, STEPS, seen)
        counted = followed_to_tolerance(start, ritz)
        kept.append((seen.densities, ritz.densities))
        if t < steps // 2:
            continue
        _add(errors, ("fresh", 0), fresh)
        _add(errors, ("told", 0), to_budget(s, STEPS, Sight("truth"), grid=Grid(every=1)))
        counts.setdefault(0, []).append(_mean(counted))
        for lag in LAGS:
            old, old_ritz = kept[max(t - lag, 0)]
            _add(errors, ("every", lag), followed_to_budget(start, STEPS, _from(old)))
            _add(errors, ("first", lag), followed_to_budget(start, STEPS, _first(old, looking(Sight()))))
            counts.setdefault(lag, []).append(_mean(followed_to_tolerance(start, _from(old_ritz))))
    rms = {key: float(np.sqrt(np.mean(squares))) for key, squares in errors.items()}
    by_lag = {which: {lag: rms[which, lag] for lag in LAGS} for which in ("every", "first")}
    to_accuracy = {lag: float(np.mean(c)) for lag, c in counts.items()}
    return Carried(kind, rms["told", 0], rms["fresh", 0], by_lag["every"], by_lag["first"], to_accuracy)


class _Kept:
    """A look that keeps what it saw."""

    def __init__(self, look: Look) -> None:
        self.densities: list[Density] = []
        self._look = look

    def __call__(self, t: int, m: Tensor) -> Density | None:
        found = self._look(t, m)
        assert found is not None
        self.densities.append(found)
        return found


def _from(old: list[Density]) -> Look:
    """What was seen then; a run longer than that one goes on with its last steps mapped."""
    return lambda t, m: old[t] if t < len(old) else None


def _first(old: list[Density], look: Look) -> Look:
    return lambda t, m: old[0] if t == 0 else look(t, m)


def _add(errors: dict[tuple[str, int], list[float]], key: tuple[str, int], found: Tensor) -> None:
    errors.setdefault(key, []).append(float(found.square().mean()))


def _mean(counts: list[int | None]) -> float:
    known = [c for c in counts if c is not None]
    return float(np.mean([max(known, default=20) + 10 if c is None else c for c in counts]))
