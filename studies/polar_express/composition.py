"""C1, C2, C4, C6, C7, C10, C20: the table, the recursion and its bounds, by the library's own construction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from matfn import NewtonSchulz, PolarExpress, Polynomial
from matfn.minimax import Request
from matfn.minimax.composition import compose, cushion
from matfn.minimax.remez import CONTEXT, best_odd, value_of
from studies.page import Shown
from studies.polar_express.published import CANS, CUBIC_ERRORS, CUSHION, ERRORS, SPEEDRUN, TABLE
from studies.verdict import FALSE, Verdict, judged

__all__ = ["apart", "bounds", "composed", "divided", "errors_of", "table", "verdicts"]

Coefficients = Sequence[float] | np.ndarray


def composed(
    steps: int, *, degree: int = 5, lower: float = 1e-3, kappa: float | None = None, inside: float = 1.0
) -> tuple[tuple[float, ...], ...]:
    """The rows of the library's own composition in 60 digits, without division afterwards."""
    request = Request(2, (degree,) * steps, lower, kappa, 1.0, inside)
    return tuple(row.coefficients for row in compose(request))


def apart(row: Coefficients, other: Coefficients) -> float:
    """The largest relative difference of the coefficients."""
    return max(abs(a - b) / abs(b) for a, b in zip(row, other, strict=True))


def divided(row: Coefficients, safety: float) -> tuple[float, ...]:
    """The coefficients of p(x / safety), for those of an odd polynomial p(x)."""
    return tuple(c / safety ** (1 + 2 * j) for j, c in enumerate(row))


def table() -> Shown:
    """The published rows beside the rows of this project."""
    rows = []
    for t, (row, printed) in enumerate(zip(composed(8), TABLE, strict=True), 1):
        rows.append(
            (str(t), [*(f"{c!r} ({p!r})" for c, p in zip(row, printed, strict=True)), f"{apart(row, printed):.1e}"])
        )
    remark = (
        "Coefficients of x, x^3 and x^5 before the division by 1.01, 1.01^3 and 1.01^5: this project's, in 60 digits "
        "and rounded to double (printed). The printed row 7 is rounding noise of a solver in double precision from "
        "the eleventh digit on."
    )
    return Shown("The published table, derived again", ("a", "b", "c", "relative difference"), rows, remark)


def verdicts() -> Iterator[Verdict]:
    """All claims about the composition itself."""
    yield _rederived()
    yield _cushion()
    yield _cubic()
    yield _recursion()
    yield _bound()
    yield _exponent()
    yield _cubic_bound()
    yield _errors()
    yield _products()
    yield _fixed_point()
    yield _relatives()


def _rederived() -> Verdict:
    rows = composed(8)
    first = max(apart(a, b) for a, b in zip(rows[:6], TABLE[:6], strict=True))
    seventh, eighth = apart(rows[6], TABLE[6]), apart(rows[7], TABLE[7])
    return judged(
        "C1",
        "the table can be derived again (60 digits)",
        "rows 1-6 within 2e-15, row 7 within 5e-11, row 8 within 1e-15",
        f"{first:.1e}, {seventh:.1e}, {eighth:.1e}",
        first <= 2e-15 and seventh <= 5e-11 and eighth <= 1e-15,
    )


def _cushion() -> Verdict:
    ratio = cushion(2, 2)
    error = best_odd(2, 2, ratio, 1).error
    off, image = abs(float(ratio) - CUSHION), abs(float(error) - 9 / 11)
    return judged(
        "C2",
        "the constant .0240733 of the code is the ratio whose image has ratio 1/10",
        "within 1e-15 of .02407327424182761, E = 9/11 within 1e-12",
        f"{off:.1e}, {image:.1e}",
        off <= 1e-15 and image <= 1e-12,
    )


def _cubic() -> Verdict:
    low, high = 0.03, 1.0
    alpha = math.sqrt(3 / (high**2 + low * high + low**2))
    beta = 4 / (2 + low * high * (low + high) * alpha**3)
    best = best_odd(2, 1, low, high)
    errors = [abs(float(1 - value_of(2, best.coefficients, x))) for x in best.points]
    worst = max(abs(e - (beta - 1)) for e in errors)
    formula = apart([float(c) for c in best.coefficients], [1.5 * alpha * beta, -0.5 * alpha**3 * beta])
    return judged(
        "C4",
        "the cubic step has a closed form",
        "l = .03: three errors .85753061891 within 1e-11",
        f"{beta - 1:.11f}, errors within {worst:.0e}, coefficients within {formula:.0e} of the exchange",
        abs(beta - 1 - 0.85753061891) <= 1e-11 and worst <= 1e-11 and formula <= 1e-13,
    )


def _recursion() -> Verdict:
    expected = (0.00847030, 0.0354280, 0.1402293, 0.4541067, 0.8865515, 0.9990835)
    rows = compose(Request(2, (5,) * 7, 1e-3, 0.0, 1.0))
    lows = [row.interval[0] for row in rows[1:]]
    off = max(abs(a - b) for a, b in zip(lows, expected, strict=True))
    missed = 0.0
    for now, after in pairwise(rows):
        x = np.geomspace(*now.interval, 20001)
        missed = max(missed, abs((x * Polynomial(now.coefficients)(x**2)).max() - (2 - after.interval[0])))
    return judged(
        "C6",
        "l_{t+1} = p_t(l_t) and u_{t+1} = 2 - l_{t+1}",
        "l_2..l_7 within 1e-6; sampled maxima within 1e-9",
        f"{off:.1e}, {missed:.1e}",
        off <= 1e-6 and missed <= 1e-9,
    )


@lru_cache
def errors_of(degree: int, lower: float, steps: int) -> tuple[Any, ...]:
    """The worst error after 1, 2, ..., `steps` steps, without cushion, in 60 digits; shorter if one is below 1e-17."""
    low, high, errors = CONTEXT.mpf(lower), CONTEXT.mpf(1), []
    for _ in range(steps):
        best = best_odd(2, (degree - 1) // 2, low, high)
        if best.converged:
            break
        errors.append(best.error)
        low, high = 1 - best.error, 1 + best.error
    return tuple(errors)


def bounds(degree: int, lower: float, base: int) -> tuple[float, float]:
    """The least log(error) / log(bound) over T for the bound (1 - l^2)^(base^T), and the least order once error < .1.

    A ratio below 1 says that the bound is violated.
    """
    errors = errors_of(degree, lower, 8 if degree == 5 else 14)
    unit = CONTEXT.log(1 - CONTEXT.mpf(lower) ** 2)
    ratios = [float(CONTEXT.log(e) / (base**t * unit)) for t, e in enumerate(errors, 1)]
    orders = [float(CONTEXT.log(b) / CONTEXT.log(a)) for a, b in pairwise(errors) if a < 0.1]
    return min(ratios), min(orders, default=math.inf)


_LOWERS = (1e-3, 1e-2, 0.1, 0.3, 0.5)


def _bound() -> Verdict:
    found = [bounds(5, lower, 3) for lower in _LOWERS]
    least, order = min(r for r, _ in found), min(o for _, o in found)
    loose = float(errors_of(5, 1e-3, 8)[4])
    return judged(
        "C7",
        "error <= (1 - l^2)^(3^T) for degree 5, of order 3",
        "never above for l = 1e-3 .. .5, T <= 8; order >= 2.9 once < .1",
        f"log error / log bound >= {least:.3g}; order >= {order:.3f}",
        least >= 1 and order >= 2.9,
        condition=f"but loose, {loose:.3g} against {(1 - 1e-6) ** 3**5:.5f} at l = 1e-3, T = 5",
    )


def _exponent() -> Verdict:
    found = {(degree, lower): bounds(degree, lower, degree + 1)[0] for degree in (3, 5) for lower in _LOWERS}
    held = all(ratio >= 1 for ratio in found.values())
    shown = ", ".join(f"degree {d}: {min(found[d, lower] for lower in _LOWERS):.3g}" for d in (3, 5))
    return judged(
        "text 5",
        "the appendix's exponent (d+1)^T: error <= (1 - l^2)^((d+1)^T)",
        "log error / log bound >= 1, same l and T",
        f"least {shown}",
        held,
        otherwise=FALSE,
        why="the exponent (q+1)^T of the theorem, with d = 2q + 1, is right",
    )


def _cubic_bound() -> Verdict:
    found = [bounds(3, lower, 2) for lower in _LOWERS]
    least, order = min(r for r, _ in found), min(o for _, o in found)
    return judged(
        "C7",
        "error <= (1 - l^2)^(2^T) for degree 3, of order 2",
        "never above, T <= 14; order >= 1.9 once < .1",
        f"log error / log bound >= {least:.3g}; order >= {order:.3f}",
        least >= 1 and order >= 1.9,
    )


def _errors() -> Verdict:
    off = 0.0
    for lower, expected in ERRORS.items():
        found = errors_of(5, lower, len(expected))
        off = max(off, *(abs(float(a) / b - 1) for a, b in zip(found, expected, strict=True)))
    cubic = max(abs(float(a) / b - 1) for a, b in zip(errors_of(3, 1e-3, 11), CUBIC_ERRORS, strict=True))
    return judged(
        "table 1.4",
        "worst errors by T, degree 5 (four l) and degree 3",
        "all within 1 % (two or more printed digits)",
        f"degree 5: {off:.1e}, degree 3: {cubic:.1e}",
        max(off, cubic) <= 1e-2,
    )


def _products() -> Verdict:
    quintic, cubic = errors_of(5, 1e-3, 8), errors_of(3, 1e-3, 14)
    pairs = [float(e) for e in (quintic[3], cubic[5], quintic[5], cubic[8])]
    return judged(
        "degrees 1",
        "at equal products a quintic beats a cubic",
        "12 products .546 < .568, 18 products 9.2e-4 < 2.2e-3",
        f"{pairs[0]:.3f} < {pairs[1]:.3f}, {pairs[2]:.1e} < {pairs[3]:.1e}",
        all(abs(a / b - 1) <= 2e-2 for a, b in zip(pairs, (0.546, 0.568, 9.2e-4, 2.2e-3), strict=True))
        and pairs[0] < pairs[1]
        and pairs[2] < pairs[3],
    )


def _fixed_point() -> Verdict:
    taylor = NewtonSchulz(5, 1).schedule().coefficients[0]
    row, x = Polynomial(divided(taylor, 1.01)), 0.5
    for _ in range(60):
        x = x * row(x**2)
    last = PolarExpress(steps=12).schedule()(0.5)
    return judged(
        "C10",
        "Newton-Schulz at x/1.01 has the fixed point .999998; a last row that is not divided gives 1",
        ".9999975898 within 1e-9; 1 within 1e-15",
        f"{x:.10f}; off by {abs(last - 1):.0e}",
        abs(x - 0.9999975898) <= 1e-9 and abs(last - 1) <= 1e-15,
    )


def _relatives() -> Verdict:
    plain = tuple(tuple(round(c, 4) for c in row) for row in composed(5, kappa=0.0))
    inside = composed(5, kappa=0.02, inside=1.02)
    off = max(apart(row, printed) for row, printed in zip(inside, SPEEDRUN, strict=True))
    return judged(
        "C20",
        "relatives: no cushion is CANS, cushion .02 with 1.02 inside is the speedrun's table",
        "CANS equal in four decimals; speedrun within 1e-13",
        f"{'equal' if plain == CANS else 'different'}; {off:.1e}",
        plain == CANS and off <= 1e-13,
    )
