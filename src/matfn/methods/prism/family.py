"""Family: Taylor steps with a free highest coefficient a, and the interval of a."""

from dataclasses import dataclass
from fractions import Fraction
from math import comb, factorial, prod

import numpy as np

from ...linalg.constant import constant

__all__ = ["Family", "family"]

Coefficients = tuple[float, ...]

# (p, d) -> the upper end of a recommended by the paper.
_RECOMMENDED = {(2, 2): 29 / 20, (1, 2): 2.0}


@dataclass(frozen=True)
class Family:
    """g(xi; a) = f(xi) + a xi^d, with f the Taylor polynomial of (1 - xi)^(-1/p) about 0 of degree d - 1.

    With M = I - R, a step maps R to h(R; a), where h(xi; a) = 1 - (1 - xi) g^p = c_0 + a c_1 + ... + a^p c_p.

    Attributes:
        p: The exponent.
        d: Degree of g, at least 1.
        fixed: f in ascending powers of m = 1 - xi, d + 1 coefficients (the last is 0).
        free: xi^d in ascending powers of m, so that g = fixed + a free.
        constant: c_0 in ascending powers of xi; the first d coefficients are 0.
        slopes: c_j / (1 - xi) = -binom(p, j) f^(p - j) xi^(d j) in ascending powers of xi, for j = 1 .. p.
        interval: [l, u] for a. l is the Taylor coefficient; for every a in [l, u] residuals in [min h(.; u), 1] stay
            there. u = 2/p for d = 1; for d = 2, u = 29/20 for p = 2 (the paper's choice) and 2 for p = 1; otherwise
            0.98 times the least u for which they do not stay.
    """

    p: int
    d: int
    fixed: Coefficients
    free: Coefficients
    constant: Coefficients
    slopes: tuple[Coefficients, ...]
    interval: tuple[float, float]


@constant
def family(p: int, d: int) -> Family:
    """Compute the family in exact arithmetic, rounded once."""
    series = [prod((Fraction(1, p) + i for i in range(j)), start=Fraction(1)) / factorial(j) for j in range(d + 1)]
    f = series[:d]
    powers = [[Fraction(1)]]
    for _ in range(p):
        powers.append(_times(powers[-1], f))
    constant = [-c for c in _times([Fraction(1), Fraction(-1)], powers[p])]
    constant[0] += 1
    slopes = tuple(_floats([Fraction(0)] * (d * j) + [-comb(p, j) * c for c in powers[p - j]]) for j in range(1, p + 1))
    fixed = [sum((f[i] * comb(i, j) * (-1) ** j for i in range(j, d)), Fraction(0)) for j in range(d + 1)]
    free = _floats([Fraction(comb(d, j) * (-1) ** j) for j in range(d + 1)])
    low = float(series[d])
    high = 2 / p if d == 1 else _RECOMMENDED.get((p, d)) or 0.98 * _invariance_ends(p, _floats(f), low)
    return Family(p, d, _floats(fixed), free, _floats(constant), slopes, (low, high))


def _invariance_ends(p: int, f: Coefficients, low: float) -> float:
    """Find the least a for which a step leaves [min h(.; a), 1], by bisection to 1e-6."""
    good, bad = low, 2 * low
    while _invariant(p, f, low, bad):
        good, bad = bad, 2 * bad
    while bad - good > 1e-6 * good:
        middle = (good + bad) / 2
        good, bad = (middle, bad) if _invariant(p, f, low, middle) else (good, middle)
    return good


def _invariant(p: int, f: Coefficients, low: float, high: float) -> bool:
    """Tell whether every a in [low, high] maps [min h(.; high), 1] into itself, on a grid."""
    least = _residual(p, f, np.linspace(0, 1, 4001), high).min()
    after = _residual(p, f, np.linspace(least, 1, 801)[:, None], np.linspace(low, high, 65))
    return bool(after.min() >= least - 1e-6 and after.max() <= 1 + 1e-12)  # the error of the grid is 1e-7


def _residual(p: int, f: Coefficients, xi: np.ndarray, a: float | np.ndarray) -> np.ndarray:
    return 1 - (1 - xi) * (np.polynomial.polynomial.polyval(xi, f) + a * xi ** len(f)) ** p


def _times(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
    product = [Fraction(0)] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            product[i + j] += x * y
    return product


def _floats(values: list[Fraction]) -> Coefficients:
    return tuple(float(v) for v in values)
