"""Resolvents: the best approximation of x^(-1/p) by a line and a few poles, c + d x + sum_j w_j / (x + t_j)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["PoleSum", "best_poles", "fewest_poles"]

Array = NDArray[np.float64]

_GRID = 1500  # points of [lower, 1], equispaced in log x, searched for extrema
_MOST = 24  # poles
_STARTS = (0.3, 0.1, 0.5, 0.0, 0.7, -0.2)  # trial starts of the first pole, in pole distances above `lower`


@dataclass(frozen=True)
class PoleSum:
    """r(x) = constant + slope x + sum_j weights_j / (x + shifts_j), with positive weights, so that it does not cancel.

    The slope is negative for p > 1, but constant + slope x > 0 on [0, 1]. The shifts are positive and ascend. `error`
    is the greatest
    |1 - x^(1/p) r(x)| on [lower, 1], reached with alternating signs.
    """

    constant: float
    slope: float
    weights: tuple[float, ...]
    shifts: tuple[float, ...]
    error: float

    def __call__(self, x: Array) -> Array:
        """Evaluate r at the points x."""
        terms = (w / (x + t) for w, t in zip(self.weights, self.shifts, strict=True))
        return self.constant + self.slope * x + sum(terms)


@lru_cache(maxsize=64)
def fewest_poles(p: int, lower: float, error: float) -> PoleSum:
    """Find the sum with the fewest poles, at most 24, whose worst relative error is at most `error`.

    Args:
        p: Exponent of x^(-1/p), at least 1.
        lower: Lower bound of x, in (0, 1).
        error: In [1e-3, 1); for smaller errors the exchange does not find a start on every interval.
    """
    if p < 1 or not 0 < lower < 1 or not 1e-3 <= error < 1:
        raise ValueError(f"poles need p >= 1, lower in (0, 1), error in [1e-3, 1); got {p=}, {lower=}, {error=}")
    if p == 1:
        return PoleSum(0.0, 0.0, (1.0,), (0.0,), 0.0)
    for count in range(1, _MOST + 1):
        found = best_poles(p, lower, count)
        if found.error <= error:
            return found
    raise ValueError(f"x^(-1/{p}) on [{lower:g}, 1] needs more than {_MOST} poles for {error:g}: use a larger ridge")


def best_poles(p: int, lower: float, count: int) -> PoleSum:
    """Compute the sum of `count` poles with the least relative error on [lower, 1], for p of at least 2.

    x^(-1/p) = sin(pi/p)/pi times the integral of t^(-1/p) / (x + t) over t > 0; the sum is a quadrature of this
    integral, so weights and shifts are positive. Remez's exchange takes 2 count + 3 alternating extrema and solves
    e(x_i) = +-E for log t_j, w_j, c, d and E by Newton's method. Its start is a least-squares fit. An ArithmeticError
    means that the extrema do not alternate often enough; the error is then close to rounding.

    References:
        Stahl, "Best uniform rational approximation of x^alpha on [0, 1]", Acta Math. 190 (2003).
    """
    x = np.geomspace(lower, 1.0, _GRID)
    for begin in _STARTS:
        try:
            return _exchanged(x, p, *_least_squares(x, p, lower ** (1 - (np.arange(count) + begin) / count)))
        except (ArithmeticError, np.linalg.LinAlgError):
            continue
    raise ArithmeticError(f"found no {count} poles for x^(-1/{p}) on [{lower:g}, 1]: try another error or ridge")


def _exchanged(x: Array, p: int, shifts: Array, linear: Array) -> PoleSum:
    """Run Remez's exchange from these shifts and linear coefficients (w_1 .. w_r, c, d)."""
    count = len(shifts)
    for _ in range(30):
        e = _defect(x, p, shifts, linear)
        at = _alternating(e, 2 * count + 3)
        shifts, linear, level = _equalized(x[at], p, shifts, linear, e[at])
        worst = float(np.abs(_defect(x, p, shifts, linear)).max())
        if worst <= level * (1 + 1e-3):
            order = np.argsort(shifts)
            weights = tuple(map(float, linear[:count][order]))
            return PoleSum(float(linear[-2]), float(linear[-1]), weights, tuple(map(float, shifts[order])), worst)
    raise ArithmeticError("the exchange did not settle")


def _columns(x: Array, p: int, shifts: Array) -> Array:
    """Return the columns x^(1/p) / (x + t_j), x^(1/p) and x^(1/p) x."""
    basis = np.concatenate([1 / (x[:, None] + shifts), np.ones((len(x), 1)), x[:, None]], axis=1)
    return basis * x[:, None] ** (1 / p)


def _defect(x: Array, p: int, shifts: Array, linear: Array) -> Array:
    return 1 - _columns(x, p, shifts) @ linear


def _slopes(x: Array, p: int, shifts: Array, linear: Array) -> Array:
    """Differentiate the defect by log t_j and by the linear coefficients."""
    by_shift = linear[: len(shifts)] * shifts / (x[:, None] + shifts) ** 2 * x[:, None] ** (1 / p)
    return np.concatenate([by_shift, -_columns(x, p, shifts)], axis=1)


def _solved(columns: Array, right: Array) -> Array:
    """Solve least squares with normalised columns: the columns of poles near `lower` are longer by many decades."""
    lengths = np.linalg.norm(columns, axis=0)
    return np.linalg.lstsq(columns / lengths, right, rcond=None)[0] / lengths


def _fitted(x: Array, p: int, shifts: Array) -> Array:
    return _solved(_columns(x, p, shifts), np.ones_like(x))


def _least_squares(x: Array, p: int, shifts: Array) -> tuple[Array, Array]:
    """Fit the logarithms of the shifts by Levenberg-Marquardt, with optimal linear coefficients for all shifts."""
    linear, damping = _fitted(x, p, shifts), 1e-3
    for _ in range(300):
        e, slopes = _defect(x, p, shifts, linear), _slopes(x, p, shifts, linear)
        held = np.diag(damping * np.linalg.norm(slopes, axis=0))
        move = _solved(np.concatenate([slopes, held]), np.concatenate([-e, np.zeros(len(held))]))[: len(shifts)]
        trial = shifts * np.exp(np.clip(move, -1, 1))
        fitted = _fitted(x, p, trial)
        if (_defect(x, p, trial, fitted) ** 2).sum() < (e**2).sum():
            shifts, linear, damping = trial, fitted, damping / 3
        else:
            damping *= 4
        if damping > 1e8 or np.abs(move).max() < 1e-9:
            break
    return shifts, linear


def _alternating(e: Array, wanted: int) -> NDArray[np.intp]:
    """Find the largest defect between sign changes; drop the smaller end while there are too many extrema."""
    pieces = np.split(np.arange(len(e)), np.flatnonzero(np.diff(np.sign(e))) + 1)
    at = np.array([piece[np.argmax(np.abs(e[piece]))] for piece in pieces])
    if len(at) < wanted:
        raise ArithmeticError(f"{len(at)} alternating extrema, but {wanted} are needed")
    while len(at) > wanted:
        at = at[1:] if abs(e[at[0]]) < abs(e[at[-1]]) else at[:-1]
    return at


def _equalized(x: Array, p: int, shifts: Array, linear: Array, e: Array) -> tuple[Array, Array, float]:
    """Make the defects at the points x equal in size, with the signs of `e`, by Newton's method."""
    signs, level = np.sign(e), float(np.abs(e).mean())
    for _ in range(40):
        system = np.concatenate([_slopes(x, p, shifts, linear), -signs[:, None]], axis=1)
        move = -_solved(system, _defect(x, p, shifts, linear) - signs * level)
        size = np.abs(move[: len(shifts)]).max()
        move *= min(1.0, 0.5 / max(size, 1e-300))  # no shift moves by more than half an e-fold
        shifts, linear = shifts * np.exp(move[: len(shifts)]), linear + move[len(shifts) : -1]
        level += float(move[-1])
        if size < 1e-12:
            break
    return shifts, linear, abs(level)
