"""Runs of measured minimax on vectors of eigenvalues: to a budget and to an accuracy, however the spectrum is seen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matfn.lab.papers.ritz.ways import WAYS, true_density
from matfn.methods.ritz_minimax.density import Density
from matfn.methods.ritz_minimax.table import lower_ends, table

__all__ = [
    "Grid",
    "Look",
    "Sight",
    "applied",
    "compositions",
    "followed_to_budget",
    "followed_to_tolerance",
    "looking",
    "started",
    "to_budget",
    "to_tolerance",
    "upper_end",
]

ROUNDOFF = 2.0**-53


@dataclass(frozen=True)
class Sight:
    """How the spectrum is looked at.

    Attributes:
        way: A name of `WAYS`, or "truth" for the spectrum itself.
        columns: Random vectors.
        depth: Products with each of them.
        every: Look before every so many steps; in between the nodes are mapped as the values are.
    """

    way: str = "Lanczos, mean"
    columns: int = 2
    depth: int = 6
    every: int = 1

    @property
    def products(self) -> int:
        """Products of M with a vector at one look."""
        return self.columns * self.depth

    def cost(self, steps: int) -> float:
        """Products of M with a vector for each of `steps` steps."""
        return self.products * -(-steps // self.every) / steps

    def look(self, m: Tensor, generator: torch.Generator) -> Density:
        """At m, (b, n), with other vectors for each row."""
        if self.way == "truth":
            return true_density(m)
        V = torch.randn(*m.shape, self.columns, generator=generator, dtype=m.dtype)
        return WAYS[self.way](m, V, self.depth)


@dataclass(frozen=True)
class Grid:
    """Which rows of the minimax table are used.

    Attributes:
        stride: The table has every so many rows; one row is 0.125 in log(ratio / (1 - ratio)).
        every: Of those rows every so many are tried as the first lower end.
    """

    stride: int = 1
    every: int = 4


def upper_end(m: Tensor) -> Tensor:
    """`greatest_eigenvalue` of diagonal matrices, without its allowance for rounding."""
    mean = m.mean(-1, keepdim=True)
    deviation = (m - mean).square()
    n = m.shape[-1]
    samuelson = (deviation.sum(-1) * (n - 1) / n).sqrt()
    return mean.squeeze(-1) + torch.minimum(samuelson, deviation.square().sum(-1) ** 0.25)


@functools.lru_cache(maxsize=256)
def compositions(p: int, k: int, steps: int, grid: Grid) -> tuple[Tensor, ...]:
    """As `choice.chain`, from a coarser table or with other candidates: coefficients of each step, (g, k + 1)."""
    of = table(p, k)
    ratios, coefficients, errors = of.ratios[:: grid.stride], of.coefficients[:: grid.stride], of.errors[:: grid.stride]
    low = np.searchsorted(ratios, np.exp(-3.0 * (steps + 1))) // grid.every * grid.every
    at, found = np.arange(low, len(ratios), grid.every), []
    for t in range(steps):
        top = 1 + errors[at] if t < steps - 1 else np.ones(len(at))
        found.append(torch.from_numpy(coefficients[at] / top[:, None]))
        images = (1 - errors[at]) / top
        at = np.clip(np.searchsorted(ratios, images * (1 + 1e-12), side="right") - 1, 0, None)
    return tuple(found)


def applied(s: Tensor, p: int, coefficients: Tensor) -> Tensor:
    """S q(s^p), with coefficients (..., k + 1) that broadcast against s."""
    m, (q, *rest) = s**p, coefficients.flip(-1).unbind(-1)
    for c in rest:
        q = q * m + c
    return s * q


def chosen(p: int, steps: tuple[Tensor, ...], nodes: Tensor, weights: Tensor) -> Tensor:
    """The first step of the composition with the least error at its end: as `best_first_step`, few nodes at a time."""
    loss = torch.zeros(len(nodes), len(steps[0]), dtype=nodes.dtype)
    for part, share in zip(nodes.split(64, -1), weights.split(64, -1), strict=True):
        s = part.unsqueeze(-1) ** (1 / p)
        for coefficients in steps:
            s = applied(s, p, coefficients)
        loss += (share.unsqueeze(-1) * (1 - s).square()).sum(1)
    return steps[0][loss.argmin(-1)]


Look = Callable[[int, Tensor], Density | None]  # before step t at m; None takes the nodes as the step before maps them


def to_budget(
    s: np.ndarray, steps: int, sight: Sight, *, p: int = 2, seeds: int = 1, grid: Grid | None = None
) -> Tensor:
    """rms(1 - s) after `steps` quintic steps from s, (n,), for each draw of the vectors, (seeds,)."""
    return followed_to_budget(started(s, p, seeds), steps, looking(sight), p=p, grid=grid)


def to_tolerance(s: np.ndarray, sight: Sight, *, p: int = 2, seeds: int = 1, tol: float = 1e-6) -> list[int | None]:
    """Quintic steps until rms(1 - m) <= tol, for each draw; None where those that lift the roundoff do not do."""
    return followed_to_tolerance(started(s, p, seeds), looking(sight), p=p, tol=tol)


def looking(sight: Sight) -> Look:
    """At the values themselves, with vectors of a fixed stream."""
    generator = torch.Generator().manual_seed(0)
    return lambda t, m: sight.look(m, generator) if t % sight.every == 0 else None


def followed_to_budget(state: Tensor, steps: int, look: Look, *, p: int = 2, grid: Grid | None = None) -> Tensor:
    """`to_budget` from s, (seeds, n), of norm 1."""
    seen = None
    for t in range(steps):
        seen, top, relative = _seen(t, state**p, look, seen)
        rows = chosen(p, compositions(p, 2, steps - t, grid or Grid()), relative, seen.weights)
        seen, state = _mapped(p, rows, relative, seen), applied(state / top[:, None] ** (1 / p), p, rows[:, None])
    return (1 - state).square().mean(-1).sqrt()


def followed_to_tolerance(state: Tensor, look: Look, *, p: int = 2, tol: float = 1e-6) -> list[int | None]:
    """`to_tolerance` from s, (seeds, n), of norm 1."""
    floors, of, seen = lower_ends(p, (2,), 2 * ROUNDOFF), table(p, 2), None
    rows = of.coefficients / of.top(ROUNDOFF)[:, None]
    counts: list[int | None] = [None] * len(state)
    for t in range(len(floors) + 1):
        done = (1 - state**p).square().mean(-1).sqrt() <= tol
        counts = [t if d and c is None else c for d, c in zip(done.tolist(), counts, strict=True)]
        if None not in counts or t == len(floors):
            break
        seen, top, relative = _seen(t, state**p, look, seen)
        ratios = ((seen.least / top) ** (1 / p)).clamp(min=floors[t])
        taken = torch.from_numpy(rows[of.index(ratios.numpy())])
        seen, state = _mapped(p, taken, relative, seen), applied(state / top[:, None] ** (1 / p), p, taken[:, None])
    return counts


def _seen(t: int, m: Tensor, look: Look, before: Density | None) -> tuple[Density, Tensor, Tensor]:
    """The density, the upper end and the nodes relative to it."""
    fresh = look(t, m)
    seen = fresh or before
    assert seen is not None
    top = upper_end(m) if t == 0 else torch.ones(len(m), dtype=m.dtype)
    top = top if fresh is None else top.maximum(fresh.greatest)
    return seen, top, (seen.nodes / top[:, None]).clamp(max=1)


def _mapped(p: int, rows: Tensor, relative: Tensor, seen: Density) -> Density:
    """What the step makes of the nodes; the least of them need not be where the least one was."""
    nodes = applied(relative ** (1 / p), p, rows[:, None]) ** p
    return Density(nodes, seen.weights, nodes.amin(-1), nodes.amax(-1))


def started(s: np.ndarray, p: int, seeds: int) -> Tensor:
    """Scaled to a Frobenius norm of 1, once for each draw."""
    values = torch.from_numpy(np.array(s, dtype=np.float64))
    return (values / (values**p).norm() ** (1 / p)).expand(seeds, -1)
