"""C5: whether any composition of odd polynomials has a smaller error than the greedy one, by independent searches.

Two searches: random changes of the greedy coefficients, and a numerical minimisation of the worst error from random
starts (sequential quadratic programming for "least E with |1 - p(x)| <= E at every point of a grid").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from matfn import PolarExpress
from studies.page import Shown
from studies.verdict import Verdict, judged

__all__ = ["CASES", "Found", "Search", "changed", "minimised", "shown", "verdicts"]

Array = np.ndarray
CASES = (((5, 5), 0.03), ((3, 5), 0.03), ((5, 3), 0.03), ((3, 3, 3), 0.03), ((5, 5), 0.2))


@dataclass(frozen=True)
class Found:
    """One case.

    Attributes:
        degrees: The degree of each step.
        lower: Left end of the interval [lower, 1].
        greedy: Worst error of the greedy composition.
        changes: Number of random changes, and the least worst error among them, less the greedy one.
        starts: Number of random starts of the minimisation.
        ends: Worst errors at their ends, ascending.
    """

    degrees: tuple[int, ...]
    lower: float
    greedy: float
    changes: tuple[int, float]
    starts: int
    ends: tuple[float, ...]

    @property
    def best(self) -> float:
        """The least error of the minimisation."""
        return self.ends[0]

    @property
    def arrived(self) -> int:
        """How many starts end within a relative 1e-6 of the greedy error."""
        return sum(end <= self.greedy * (1 + 1e-6) for end in self.ends)


class Search:
    """Compositions with free coefficients, on a grid of [lower, 1]."""

    def __init__(self, degrees: Sequence[int], lower: float, points: int) -> None:
        self.sizes = [(degree + 1) // 2 for degree in degrees]
        self.x = np.geomspace(lower, 1, points)
        self.fine = np.geomspace(lower, 1, 20001)

    def parts(self, c: Array) -> list[Array]:
        """The coefficients of each step, (..., size)."""
        return np.split(c, np.cumsum(self.sizes)[:-1], axis=-1)

    def value(self, c: Array, x: Array) -> Array:
        """p(x) for coefficients (..., all), (..., points)."""
        for part in self.parts(c):
            x = x * np.polynomial.polynomial.polyval(x**2, part.T[..., None] if part.ndim > 1 else part, tensor=False)
        return x

    def worst(self, c: Array, x: Array) -> Array:
        """The largest |1 - p| on a grid."""
        return np.abs(1 - self.value(c, x)).max(axis=-1)

    def peak(self, c: Array) -> float:
        """The largest |1 - p| of [lower, 1] for one vector: parabolas through the highest points of the fine grid."""
        e = np.abs(1 - self.value(c, self.fine))
        if not np.isfinite(e).all():
            return np.inf
        left, middle, right = e[:-2], e[1:-1], e[2:]
        bend = 2 * middle - left - right
        turns = (middle >= left) & (middle >= right) & (bend > 0)
        tops = middle[turns] + (right - left)[turns] ** 2 / (8 * bend[turns])
        return float(max(e[0], e[-1], *tops))

    def slope(self, c: Array) -> Array:
        """The derivatives of p(x) by the coefficients, (points, all)."""
        columns: list[Array] = []
        x = self.x
        for part in self.parts(c):
            powers = np.arange(len(part))
            outer = np.polynomial.polynomial.polyval(x**2, part * (1 + 2 * powers))
            columns = [outer * column for column in columns]
            columns += [x ** (1 + 2 * j) for j in powers]
            x = x * np.polynomial.polynomial.polyval(x**2, part)
        return np.stack(columns, axis=1)

    def polished(self, c: Array, rounds: int = 4) -> Array:
        """Repeat the minimisation with the extremes between the points of the grid as further points."""
        coarse = self.x
        for _ in range(rounds):
            c = self.descended(c)
            error = np.abs(1 - self.value(c, self.fine))
            tops = np.flatnonzero((error[1:-1] >= error[:-2]) & (error[1:-1] >= error[2:])) + 1
            if not np.isfinite(error).all():
                break
            self.x = np.union1d(self.x, self.fine[tops[error[tops] > 0.9 * error.max()]])
        self.x = coarse
        return c

    def descended(self, c: Array) -> Array:
        """The coefficients to which the minimisation leads from c."""
        begin = np.append(c, self.worst(c, self.x))
        done = minimize(
            lambda z: z[-1],
            begin,
            jac=lambda z: np.eye(len(z))[-1],
            method="SLSQP",
            constraints={"type": "ineq", "fun": self._room, "jac": self._room_slope},
            options={"maxiter": 300, "ftol": 1e-14},
        )
        return done.x[:-1]

    def _room(self, z: Array) -> Array:
        error = 1 - self.value(z[:-1], self.x)
        return np.concatenate([z[-1] - error, z[-1] + error])

    def _room_slope(self, z: Array) -> Array:
        slope, one = self.slope(z[:-1]), np.ones((len(self.x), 1))
        return np.concatenate([np.hstack([slope, one]), np.hstack([-slope, one])])


def greedy(degrees: tuple[int, ...], lower: float) -> tuple[float, Array]:
    """The worst error and the coefficients of the library's composition."""
    schedule = PolarExpress(degree=degrees, lower=lower, cushion=0, safety=1).schedule()
    return schedule.error(), np.concatenate(schedule.coefficients)


def changed(degrees: tuple[int, ...], lower: float, count: int) -> float:
    """The least worst error of `count` random changes, less the error of the greedy composition on the same grid."""
    search, rng = Search(degrees, lower, 401), np.random.default_rng(5)
    _, c = greedy(degrees, lower)
    least = np.inf
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        drawn = c * (1 + scale * rng.standard_normal((count // 4, len(c))))
        least = min(least, float(search.worst(drawn, search.x).min()))
    return least - float(search.worst(c, search.x))


def minimised(degrees: tuple[int, ...], lower: float, starts: int, seed: int = 0) -> tuple[float, ...]:
    """Worst errors, on a fine grid, at the ends of the minimisation from random starts, ascending.

    A start has steps with random positive slopes at 0 and random further coefficients. It is scaled so that p(x) = 1
    at one random point; which scale each step has cannot be seen in p.
    """
    search, rng, ends = Search(degrees, lower, 60), np.random.default_rng(seed), []
    with np.errstate(all="ignore"):
        while len(ends) < starts:
            parts, image = [], search.x
            for size in search.sizes:
                # Roots of q(m) above the image, or a complex pair: without a sign change the image stays positive.
                top = image.max() ** 2
                q = np.polynomial.polynomial.polyfromroots(top * (1 + rng.exponential(0.5, size - 1)))
                if size == 3 and rng.random() < 0.5:
                    centre, width = top * rng.random(), top * rng.exponential(0.3)
                    q = np.array([centre**2 + width**2, -2 * centre, 1.0])
                q = q / abs(q[0]) * np.sign(q[0])
                raw = image * np.polynomial.polynomial.polyval(image**2, q)
                scale = 2 / (raw.min() + raw.max())
                parts.append(q * scale)
                image = raw * scale
            c = search.polished(np.concatenate(parts))
            ends.append(search.peak(c))
    return tuple(sorted(ends))


def found(degrees: tuple[int, ...], lower: float, changes: int, starts: int) -> Found:
    """Both searches for one case."""
    error, _ = greedy(degrees, lower)
    return Found(
        degrees, lower, error, (changes, changed(degrees, lower, changes)), starts, minimised(degrees, lower, starts)
    )


def shown(cases: Sequence[Found]) -> Shown:
    """The searches as a table."""
    rows = [
        (
            f"{case.degrees}, l = {case.lower:g}",
            [
                f"{case.greedy:.12g}",
                f"{case.changes[1]:+.1e}",
                f"{case.best - case.greedy:+.1e}",
                f"{case.arrived}/{case.starts}",
            ],
        )
        for case in cases
    ]
    remark = (
        "Worst error of the greedy composition on [l, 1]; least error among random changes of its coefficients less "
        "that error; least error that the minimisation finds from random starts less that error; starts that end "
        "within a relative 1e-6 of it. The others end in worse local minima."
    )
    heads = ("greedy", "random changes", "minimised", "starts that reach it")
    return Shown("The greedy composition against brute force", heads, rows, remark)


def verdicts(cases: Sequence[Found]) -> Iterator[Verdict]:
    """C5, and the same for mixed degrees."""
    first, *others = cases
    yield _verdict("C5", "greedy is optimal among all compositions, degrees (5, 5)", first, 0.380311047746)
    for case in others:
        yield _verdict("C5", f"the same for degrees {case.degrees}, l = {case.lower:g}", case)


def _verdict(claim: str, says: str, case: Found, expected: float | None = None) -> Verdict:
    count, change = case.changes
    # A parabola misses a maximum by far less than 1e-10: neighbours on the fine grid differ by a relative 2e-4.
    held = change >= -1e-12 and case.best >= case.greedy - 1e-10 and case.arrived > 0
    known = "" if expected is None else f"error {expected} within 1e-10; "
    return judged(
        claim,
        says,
        f"{known}nothing below it, and the search reaches it",
        f"{case.greedy:.12f}; {count} changes {change:+.1e}; {case.starts} minimisations "
        f"{case.best - case.greedy:+.1e}, {case.arrived} reach it",
        held and (expected is None or abs(case.greedy - expected) <= 1e-10),
    )
