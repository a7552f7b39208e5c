"""Predicted rounding: the final interval of singular values if every step errs, and the error left on a spectrum."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch

import matfn
from matfn.engines.restarts import margins
from matfn.iteration.schedule import Schedule
from studies.tune.laws import Laws

__all__ = ["KAPPA", "Engine", "expected", "rounded"]

Engine = matfn.Direct | matfn.Gram

# Root mean square of the relative error of a number rounded to nearest, in unit roundoffs: uniform in +-1/2 of a unit
# of the last place, that is +-1/x for a mantissa x, and mantissas are spread evenly in log x over [1, 2]:
# (1/3 * (1 - 1/4) / (2 ln 2))^(1/2).
KAPPA = math.sqrt((1 - 1 / 4) / (2 * math.log(2)) / 3)

_POINTS = 400
_GONE = (-math.inf, math.inf)
_DIVERGED = 10.0


def rounded(schedule: Schedule, engine: Engine, dtype: torch.dtype, n: int) -> tuple[float, float]:
    """The final interval of the singular values in [lower, upper], with the worst rounding error at every step.

    Every coefficient's term of a step errs by the typical relative error e = `KAPPA` x roundoff, all to the same side,
    as they do on a singular direction that lies in few coordinates (a matrix with one large row, say): s q(s^2) is
    wrong by e s sum_j |c_j| s^(2j). With `Gram` the factor Q of the steps since the last restart is rounded as well,
    which adds e s max|Q|: it is small beside the values that were lifted and large beside those that were not, and
    lifts a value at the upper end beyond it. And M = X X^T has errors of spectral norm 2 e ||M||_F / n^(1/2), as random
    matrices have, which lower small eigenvalues, below zero even.

    The next step starts from the wider interval, divided by the margin that `Gram` leaves at a restart. Beyond the
    upper end that it was made for a polynomial is steep (15 at the quintics of Polar Express, more for higher degrees),
    so that an error there decides whether anything is left.

    Args:
        schedule: Of polynomials, p = 2.
        engine: `Direct()`, or `Gram` with restarts of its own.
        dtype: Of the iteration.
        n: The short side of the matrices.

    Returns:
        (least, greatest); (-inf, inf) where a value changes its sign or leaves [0, 10] on the way.
    """
    low, high, e = schedule.lower, schedule.upper, KAPPA * torch.finfo(dtype).eps / 2
    gram = isinstance(engine, matfn.Gram)
    for start, end, margin in _stretches(schedule, engine, dtype):
        size = 1 / math.sqrt(n) if start == 0 else high**2  # ||M||_F / n^(1/2): at first ||X||_F is 1, then s <= high
        lowered = 2 * e * size if gram else 0.0
        x = np.concatenate([np.linspace(low, high, _POINTS), np.geomspace(low, high, _POINTS)])
        below = np.geomspace(1e-10 * high, low, _POINTS // 4)
        with np.errstate(all="ignore"):
            Q, wrong = _applied(schedule, start, end, np.concatenate([x, below]) ** 2 - lowered)
            if gram:
                wrong = wrong + np.abs(Q).max()
            value, error = x * Q[: len(x)], e * x * wrong[: len(x)]
            low, high = float((value - error).min()) / margin, float((value + error).max()) / margin
        if not 0 < low <= high < _DIVERGED:
            return _GONE
    return low, high


def expected(schedule: Schedule, engine: Engine, laws: Laws, dtype: torch.dtype) -> float:
    """The expected rms(1 - sigma), as the mean over the matrices.

    The scalar map; and with `Gram` the part by which each singular direction is turned aside, since Q has errors of
    e rms|Q| in every direction, which is much beside the Q of a large singular value.

    Args:
        schedule: Of polynomials, p = 2.
        engine: `Direct()`, or `Gram` with restarts of its own.
        laws: Of the singular values, as they are after the schedule's deflation and division by its norm.
        dtype: Of the iteration.
    """
    e, x = KAPPA * torch.finfo(dtype).eps / 2, laws.after(schedule.preparation.deflation, schedule.preparation.norm)
    turned = np.zeros_like(x)
    for start, end, margin in _stretches(schedule, engine, dtype):
        Q, _ = _applied(schedule, start, end, x**2)
        if isinstance(engine, matfn.Gram):
            with np.errstate(divide="ignore"):
                turned += (e / Q) ** 2 * np.mean(Q**2, -1, keepdims=True)
        x = x * Q / margin
    return float(np.sqrt(np.mean((1 - x) ** 2 + x**2 * np.minimum(turned, 1), -1)).mean())


def _stretches(schedule: Schedule, engine: Engine, dtype: torch.dtype) -> list[tuple[int, int, float]]:
    """The steps [start, end) between two computations of M, and the divisor of X at the start."""
    if isinstance(engine, matfn.Direct):
        return [(step, step + 1, 1.0) for step in range(schedule.steps)]
    restarts = engine.restarts or ()
    ends = pairwise((0, *restarts, schedule.steps))
    return [(*both, by) for both, by in zip(ends, (*margins(schedule, restarts, dtype), 1.0), strict=True)]


def _applied(schedule: Schedule, start: int, end: int, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q at the eigenvalues m, and its error in units of the relative error of every term of every step."""
    Q, wrong = np.ones_like(m), np.zeros_like(m)
    for row in schedule.rows[start:end]:
        coefficients = [float(c) for c in getattr(row, "coefficients", ())]
        z = row(m)
        size = sum(abs(c) * np.abs(m) ** j for j, c in enumerate(coefficients))
        Q, wrong, m = Q * z, wrong * np.abs(z) + np.abs(Q) * size, m * z**2
    return Q, wrong
