"""The paper's text about its table: the readings of Algorithm 1, and Algorithm 2 as printed in double precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from matfn import Polynomial
from matfn.minimax.remez import CONTEXT, best_odd, value_of
from studies.page import Shown, number
from studies.polar_express.composition import apart, divided
from studies.polar_express.published import CUSHION, TABLE
from studies.verdict import FALSE, Verdict, judged

__all__ = ["Convention", "conventions", "distance", "double_rows", "exchange", "first_gain", "readings", "verdicts"]

_SWEEPS = 50  # the printed stopping rule may never be met: 1 - l/u near 0 makes the system singular in double


@dataclass(frozen=True)
class Convention:
    """One reading of the paper: the cushion, whether rows are centred again, and the safety inside the recursion."""

    name: str
    kappa: Any
    recentred: bool = True
    inside: float = 1.0

    def rows(self, steps: int = 6, lower: float = 1e-3) -> list[list[float]]:
        """The rows; row t maps the true left end l_t to l_{t+1}, and u_{t+1} = 2 - l_{t+1}."""
        low, high, made = CONTEXT.mpf(lower), CONTEXT.mpf(1), []
        for _ in range(steps):
            best = best_odd(2, 2, max(low, self.kappa * high), high)
            gain = 2 / (value_of(2, best.coefficients, low) + 1 + best.error) if self.recentred else 1
            c = tuple(gain * x / CONTEXT.mpf(self.inside) ** (1 + 2 * j) for j, x in enumerate(best.coefficients))
            made.append([float(x) for x in c])
            low = value_of(2, c, low)
            high = 2 - low
        return made


@lru_cache
def readings() -> dict[str, Convention]:
    """The readings that are compared; the first is the code that made the table."""
    tenth = CONTEXT.mpf(1) / 10
    return {
        "code": Convention("cushion .0240733, centred again, no division inside", CONTEXT.mpf(CUSHION)),
        "not centred": Convention("cushion .0240733, not centred again", CONTEXT.mpf(CUSHION), recentred=False),
        "text": Convention("cushion 1/10 of the text", tenth),
        "algorithm 1": Convention("Algorithm 1 as listed: u/10, not centred, 1.01 inside", tenth, False, 1.01),
        "rounded": Convention("cushion .024", CONTEXT.mpf("0.024")),
        "main": Convention("cushion .02 of the repository today", CONTEXT.mpf("0.02")),
        "none": Convention("no cushion", CONTEXT.zero),
    }


@lru_cache
def distance(convention: Convention) -> float:
    """The worst relative difference to the printed rows 1 to 6; for a division inside, of rows divided as printed."""
    printed = [divided(row, convention.inside) for row in TABLE[:6]]
    return max(apart(row, p) for row, p in zip(convention.rows(), printed, strict=True))


def first_gain(convention: Convention) -> float:
    """The least p_1(x)/x of [.005, 1], stabilised by 1.01, at the local minimum of p_1 (Figure 7 prints .236)."""
    inside = Convention("", convention.kappa, convention.recentred)
    row = Polynomial(divided(inside.rows(1, 0.005)[0], 1.01))
    return float(row(row.critical(2, 0.005, 1.01).max() ** 2))


def conventions() -> Shown:
    """How far each reading of the paper is from its table, and its value in Figure 7."""
    rows = [
        (c.name, [number(distance(c)), f"{-math.log10(distance(c)):.1f}", f"{first_gain(c):.4f}"])
        for c in readings().values()
    ]
    remark = (
        "Worst relative difference to the printed rows 1 to 6, the same as digits, and p(x)/x at the local minimum of "
        "the first step for [.005, 1] after division by 1.01, which the paper prints as .236."
    )
    return Shown("Which reading gives the published table", ("difference", "digits", "p(x)/x"), rows, remark)


def exchange(low: float, high: float, *, start: str = "ends") -> tuple[np.ndarray, float, int]:
    """Algorithm 2 as printed, in double precision: the quintic, E and the number of sweeps.

    Args:
        low: Left end.
        high: Right end.
        start: "ends" starts at (3l+u)/4 and (l+3u)/4, "one" at (3l+1)/4 and (l+3)/4 like the first published code.
    """
    if low / high >= 1 - 5e-6:
        return np.array([15 / 8 / high, -10 / 8 / high**3, 3 / 8 / high**5]), 0.0, 0
    end = high if start == "ends" else 1.0
    inner, error = np.array([(3 * low + end) / 4, (low + 3 * end) / 4]), math.inf
    solved = np.zeros(4)
    for sweep in range(1, _SWEEPS + 1):
        y = np.array([low, *inner, high])
        solved = np.linalg.solve(np.stack([y, y**3, y**5, np.array([1.0, -1.0, 1.0, -1.0])], 1), np.ones(4))
        a, b, c = solved[:3]
        root = math.sqrt(max(9 * b * b - 20 * a * c, 0.0))
        inner = np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))
        if abs(solved[3] - error) <= 1e-15:
            return solved[:3], float(solved[3]), sweep
        error = solved[3]
    return solved[:3], float(solved[3]), _SWEEPS


@lru_cache
def double_rows(steps: int = 7, start: str = "ends") -> tuple[list[np.ndarray], int]:
    """The table by the printed algorithms in double precision, with the cushion of the code; and the most sweeps."""
    low, high, made, most = 1e-3, 1.0, [], 0
    for _ in range(steps):
        row, _, sweeps = exchange(max(low, CUSHION * high), high, start=start)
        ends = [float(np.polyval([row[2], 0, row[1], 0, row[0], 0], x)) for x in (low, high)]
        row = row * 2 / sum(ends)
        low, most = ends[0] * 2 / sum(ends), max(most, sweeps)
        high = 2 - low
        made.append(row)
    return made, most


def verdicts() -> Iterator[Verdict]:
    """What the printed algorithms give."""
    yield _double()
    yield from _printed()
    yield _solver()
    yield _sweeps()


def _double() -> Verdict:
    rows, _ = double_rows()
    first = max(apart(a, b) for a, b in zip(rows[:6], TABLE[:6], strict=True))
    seventh = apart(rows[6], TABLE[6])
    return judged(
        "C1",
        "the table can be derived again (Algorithm 2 in double precision)",
        "rows 1-6 within 1e-13, row 7 within 1e-9",
        f"{first:.1e}, {seventh:.1e}",
        first <= 1e-13 and seventh <= 1e-9,
    )


def _printed() -> Iterator[Verdict]:
    """Section 2.6: what the text says about the table, against the table."""
    far = {name: distance(convention) for name, convention in readings().items()}
    gains = {name: first_gain(readings()[name]) for name in ("code", "text", "main")}
    yield judged(
        "text 1",
        "the cushion of the table is u/10",
        "rows 1-6 within 1e-3 of the printed rows; p(x)/x = .236",
        f"{number(far['text'])}, {gains['text']:.3f}; with .0240733: {number(far['code'])}, {gains['code']:.3f}",
        far["text"] <= 1e-3 and abs(gains["text"] - 0.236) <= 5e-4,
        otherwise=FALSE,
        why="1/10 is the ratio of the image, not of the design interval (C2)",
    )
    yield judged(
        "text 2",
        "Algorithm 1 as listed (u/10, 1.01 inside the loop, not centred again) yields the printed table",
        "rows 1-6 within 1e-3",
        f"{number(far['algorithm 1'])}; the code's convention: {number(far['code'])}",
        far["algorithm 1"] <= 1e-3,
        otherwise=FALSE,
        why="only Implementation 2 yields the table",
    )
    others = {name: value for name, value in far.items() if name not in ("code", "text", "algorithm 1")}
    yield judged(
        "text 3",
        "the convention of the table is unique among the readings tried",
        "every other reading differs by more than 1e-6",
        ", ".join(f"{readings()[name].name}: {number(value)}" for name, value in others.items()),
        min(others.values()) > 1e-6 and far["code"] <= 2e-15,
    )


def _solver() -> Verdict:
    best = best_odd(2, 2, 1e-3, 1)
    errors = [(1 - value_of(2, best.coefficients, x)) * (-1) ** i for i, x in enumerate(best.points)]
    level = max(abs(float(e / best.error) - 1) for e in errors)
    _, double, sweeps = exchange(1e-3, 1.0)
    return judged(
        "C3",
        "the solver of a quintic step is optimal",
        "four alternating errors within 1e-12; E(1e-3) = .99152970; <= 6 sweeps",
        f"{level:.0e}; E = {float(best.error):.8f} (Algorithm 2 in double: {double:.8f}); "
        f"{best.sweeps} and {sweeps} sweeps",
        level <= 1e-12 and abs(float(best.error) - 0.99152970) <= 1e-8 and max(best.sweeps, sweeps) <= 6,
    )


def _sweeps() -> Verdict:
    ratios = [*np.geomspace(1e-8, 0.9, 100), *(1 - np.geomspace(1e-4, 0.1, 50))]
    near = 1 - np.geomspace(5.1e-6, 9e-5, 50)
    most = max(exchange(float(r), 1.0)[2] for r in ratios)
    late = max(exchange(float(r), 1.0)[2] for r in near)
    table_, other = double_rows()[1], double_rows(start="one")[1]
    return judged(
        "text 4",
        "the exchange never needs more than five sweeps",
        "<= 5 on the table's intervals and on 200 ratios l/u from 1e-8 to .999995",
        f"table {table_}, ratios {most}, ratios above .99991 {late}; "
        f"with the start of the first published code {other}",
        max(table_, most, late) <= 5,
    )
