"""Remez: the best odd polynomial on one interval, in extended precision.

For an exponent p and an interval [lower, upper] of s = m^(1/p) the exchange finds

    f(s) = s q(s^p) = c_0 s + c_1 s^(1+p) + ... + c_k s^(1+kp)

that minimises max |1 - f(s)|. The functions s, s^(1+p), ... are a Haar system on (0, inf), so the error of the best f
reaches its extreme value E at k + 2 points with alternating signs. f' has only k positive roots, so these points are
the two ends of the interval and the k roots. The exchange solves for (c, E) on trial points, replaces the interior
points by the roots of f', and repeats. It converges quadratically from any start.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mpmath

__all__ = ["CONTEXT", "Minimax", "best_odd", "taylor", "value_of"]

# A separate context, so that mpmath's global precision is neither read nor changed. The linear system is worst at the
# switch to Taylor (condition about (1 - lower/upper)^-(k+1) <= 1e18); of 60 digits at least 30 stay correct there.
CONTEXT: Any = mpmath.MPContext()
CONTEXT.dps = 60

_SWEEPS = 100  # the exchange needs 4 to 8; the limit turns a bug into an error instead of an endless loop
_LEVEL = CONTEXT.mpf(10) ** -25  # stop at this relative difference between the largest error and |E|
_TAYLOR = CONTEXT.mpf(10) ** -17  # at this error the minimax and Taylor polynomials agree to double precision


@dataclass(frozen=True)
class Minimax:
    """The best approximation of 1 on an interval.

    Attributes:
        coefficients: c_0 .. c_k of s, s^(1+p), ..., s^(1+kp), in extended precision.
        error: E = max |1 - f| over the interval.
        points: Points with 1 - f = +E, -E, +E, ... (empty for the Taylor polynomial).
        sweeps: Sweeps of the exchange (0 for the Taylor polynomial).
    """

    coefficients: tuple[Any, ...]
    error: Any
    points: tuple[Any, ...]
    sweeps: int

    @property
    def converged(self) -> bool:
        """Tell whether this is the Taylor polynomial: on a short interval the best one to double precision."""
        return self.sweeps == 0


def taylor(p: int, k: int) -> tuple[Any, ...]:
    """Return the Taylor polynomial of m^(-1/p) about m = 1 of degree k >= 1, in ascending powers of m.

    For p = 2, k = 2 it is (15/8, -10/8, 3/8), the quintic Newton-Schulz step.
    """
    _check(p, k)
    ctx = CONTEXT
    series = [ctx.binomial(-ctx.mpf(1) / p, j) for j in range(k + 1)]  # in powers of m - 1
    return tuple(
        ctx.fsum(series[j] * ctx.binomial(j, i) * (-1) ** (j - i) for j in range(i, k + 1)) for i in range(k + 1)
    )


def best_odd(p: int, k: int, lower: Any, upper: Any) -> Minimax:
    """Compute the best approximation f(s) = s q(s^p) of 1 on [lower, upper], with q of degree k >= 1 and lower > 0.

    For p = 2 the odd polynomial f has degree 2k + 1. If its error is below 1e-17, the result is the Taylor polynomial
    about the middle of the interval, equal to it in double precision.

    References:
        Amsel et al., "The Polar Express", arXiv 2505.16932, Theorem 3.1 and Algorithm 2 for p = 2 and k = 1, 2.
    """
    _check(p, k)
    ctx = CONTEXT
    lower, upper = ctx.mpf(lower), ctx.mpf(upper)
    if not 0 < lower <= upper < ctx.inf:
        raise ValueError(f"the interval of s needs 0 < lower <= upper, got [{ctx.nstr(lower)}, {ctx.nstr(upper)}]")
    ratio = lower / upper  # only the ratio matters: solve on [ratio, 1], then rescale
    # The first omitted term of the Taylor series at the ends of the interval, with m - 1 close to p (s - 1).
    omitted = abs(ctx.binomial(-ctx.mpf(1) / p, k + 1)) * (p * (1 - ratio) / 2) ** (k + 1)
    if omitted <= _TAYLOR:
        middle = (lower + upper) / 2
        return Minimax(tuple(c / middle ** (1 + j * p) for j, c in enumerate(taylor(p, k))), omitted, (), 0)
    scaled, error, points, sweeps = _exchange(p, k, ratio)
    return Minimax(
        tuple(c / upper ** (1 + j * p) for j, c in enumerate(scaled)), error, tuple(upper * x for x in points), sweeps
    )


def _check(p: int, k: int) -> None:
    for name, value in (("p", p), ("k", k)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _exchange(p: int, k: int, ratio: Any) -> tuple[tuple[Any, ...], Any, tuple[Any, ...], int]:
    ctx = CONTEXT
    # Start from the extrema of the Chebyshev polynomial, the solution for a short interval.
    points = [(1 + ratio) / 2 - (1 - ratio) / 2 * ctx.cospi(ctx.mpf(i) / (k + 1)) for i in range(k + 2)]
    for sweep in range(1, _SWEEPS + 1):
        coefficients, error = _levelled(p, k, points)
        points = [ratio, *_critical(p, coefficients, points[1:-1]), ctx.mpf(1)]
        if not all(a < b for a, b in pairwise(points)):
            raise ArithmeticError(f"exchange lost a critical point (p={p}, k={k}, lower/upper={ctx.nstr(ratio, 8)})")
        largest = max(abs(1 - value_of(p, coefficients, x)) for x in points)
        if largest - abs(error) <= _LEVEL * largest:
            return coefficients, error, tuple(points), sweep
    raise ArithmeticError(f"exchange did not level after {_SWEEPS} sweeps (p={p}, k={k}, lower/upper={ratio})")


def _levelled(p: int, k: int, points: list[Any]) -> tuple[tuple[Any, ...], Any]:
    """Solve sum_j c_j x_i^(1+jp) + (-1)^i E = 1 at the k + 2 points."""
    ctx = CONTEXT
    rows = [[x ** (1 + j * p) for j in range(k + 1)] + [(-1) ** i] for i, x in enumerate(points)]
    solution = ctx.lu_solve(ctx.matrix(rows), ctx.ones(k + 2, 1))
    return tuple(solution[j] for j in range(k + 1)), solution[k + 1]


def value_of(p: int, coefficients: tuple[Any, ...], s: Any) -> Any:
    """Evaluate s q(s^p)."""
    return s * CONTEXT.polyval(list(reversed(coefficients)), s**p)


def _critical(p: int, coefficients: tuple[Any, ...], interior: list[Any]) -> list[Any]:
    """Find the roots of f', ascending: f'(s) = sum_j (1 + jp) c_j m^j is a polynomial in m = s^p.

    The levelled f alternates at k + 2 points, so f' has k simple positive roots, each near a trial point. The
    corrections of Ehrlich and Aberth (Newton's, with a term that keeps two estimates apart) improve all roots at once.
    When the last correction is below half the working precision, the error is far smaller.
    """
    ctx = CONTEXT
    derivative = [(1 + j * p) * c for j, c in enumerate(coefficients)][::-1]
    m, tiny = [x**p for x in interior], ctx.mpf(10) ** (-ctx.dps // 2)
    for _ in range(_SWEEPS):
        moved = ctx.zero
        for i, x in enumerate(m):
            value, slope = ctx.polyval(derivative, x, derivative=True)
            newton = value / slope
            m[i] = x - newton / (1 - newton * ctx.fsum(1 / (x - y) for j, y in enumerate(m) if j != i))
            moved = max(moved, abs(m[i] - x) / abs(x))
        if moved <= tiny:
            return sorted(ctx.root(x, p) if x > 0 else x for x in m)
    raise ArithmeticError(f"no {len(m)} real critical points after {_SWEEPS} corrections (p={p})")
