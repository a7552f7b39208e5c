"""Restarts: the steps after which the Gram engine starts again, from a first-order model of its rounding errors.

The engine carries M_t = X_t X_t^T and Q_t with X_t = Q_t X_0. Every step multiplies both by the same Z, as M <- Z M Z
and Q <- Z Q. So an error of Z changes the path, as in `Direct`, but M stays the Gram matrix of X. Rounding errors of
three kinds separate M from X X^T. A stretch is the steps from one restart to the next. Let s_i be the singular values
of X_t, m_i = s_i^2, z the polynomial of a step, R(m) the product of the z from step t to the end of the stretch, f(s)
the image of a number s under all steps after the stretch, and u the unit roundoff. `formed` and `carried` are the
relative rounding errors of the two products:

| error                            | size                      | change of X, left direction i, right direction j     |
|----------------------------------|---------------------------|------------------------------------------------------|
| M = X X^T is formed              | formed x max m            | (R_i - R_j) / (m_i - m_j) s_j, the derivative of R   |
| M <- Z (M Z) is carried          | carried x max z^2 x max m | the same, with the values at its step                |
| a product for Q, or Q X at last  | u x max z x ... x max z   | s_j                                                  |

The steps after the stretch multiply such a change by |f_i - f_j| / |s_i - s_j| or (f_i + f_j) / (s_i + s_j), the
derivative of an odd function of a matrix (Daleckii and Krein). The model adds the largest change of each error over all
pairs s_i, s_j from 0 to `upper`; a spectrum with a null space or a tiny tail has the worst pair. An error may have any
direction, because a mirrored product spreads it over all.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
import torch

from ..iteration.protocols import Iteration
from ..iteration.schedule import Schedule
from ..linalg.constant import constant

__all__ = ["best_restarts", "fewest_restarts", "gram_error", "margins", "restarts_for", "symmetric_error"]

_TOLERATED = 0.05  # largest rounding error for which Gram() itself leaves out a restart
# A sum of k products in float32 has an error of about k^(1/2) roundings (Higham, Mary, SIAM J. Sci. Comput. 41, 2019);
# a matrix with equal entries reaches it. 64 = 4096^(1/2). Matrix products in half precision add up in float32.
_SUMMED = 64
_CARRIED = 4  # roundings of Z (M Z), relative to max z^2 max m: two products, two roundings each
_SINGLE = torch.finfo(torch.float32).eps / 2


def restarts_for(method: Iteration, dtype: torch.dtype) -> tuple[int, ...]:
    """Return the fewest restarts that keep the rounding error (`gram_error`) below 5 %.

    In half precision one step alone may lose more than 5 %, and more restarts do not help. So the limit is at least
    twice the error of restarts after every step. A method without a schedule cannot be simulated; it restarts after
    every second step.
    """
    if not isinstance(method, Schedule):
        return tuple(range(2, method.steps, 2))
    every = gram_error(method, tuple(range(1, method.steps)), dtype)
    return fewest_restarts(method, dtype, max(_TOLERATED, 2 * every))


@lru_cache(maxsize=256)
def fewest_restarts(schedule: Schedule, dtype: torch.dtype, tolerated: float) -> tuple[int, ...]:
    """Return the fewest restarts, at the best places, with `gram_error` <= `tolerated`.

    If no places reach `tolerated`, every step restarts.
    """
    for restarts, error in _best_of_each_count(schedule, dtype):
        if error <= tolerated:
            return restarts
    return tuple(range(1, schedule.steps))


def best_restarts(schedule: Schedule, count: int, dtype: torch.dtype) -> tuple[tuple[int, ...], float]:
    """Return the positions of `count` restarts, from 1 to `steps` - 1, with the least `gram_error`, and this error.

    Raises:
        ValueError: If `count` is not from 0 to `steps` - 1.
    """
    if not 0 <= count < schedule.steps:
        raise ValueError(f"{schedule.steps} steps have room for 0 to {schedule.steps - 1} restarts, got count={count}")
    return next(islice(_best_of_each_count(schedule, dtype), count, None))


def gram_error(schedule: Schedule, restarts: tuple[int, ...], dtype: torch.dtype) -> float:
    """Predict the largest rounding error of the Gram engine, relative to the spectral norm of the result, about 1.

    This is the worst case over all spectra in [0, `upper`], exact zeros included. The model is of first order: a result
    above about 0.1 says that digits are lost, but not how many.
    """
    error = _stretches(schedule, dtype)
    return sum(error[stretch] for stretch in pairwise((0, *sorted(restarts), schedule.steps)))


def symmetric_error(schedule: Schedule, dtype: torch.dtype) -> float:
    """Bound the error of a result without a restart if Q is made symmetric at the end, relative to 1.

    A product for Q rounds to `_SUMMED` u times the largest Q. The mean of Q and Q^T carries this from the directions of
    small singular values, where Q is largest, to those of large ones.
    """
    s = schedule.upper * np.logspace(-10, 0, 10001)
    *_, last = schedule.trace(s)
    largest = float(np.abs(last / s).max())
    return _SUMMED * torch.finfo(dtype).eps / 2 * largest * schedule.upper


def margins(method: Iteration, restarts: tuple[int, ...], dtype: torch.dtype) -> tuple[float, ...]:
    """For each restart, the factor by which rounding may lift a singular value: 1 + (unit roundoff) max|Q|.

    The rounding error of Q is relative to its largest entry, and reaches the largest singular values of X. Above the
    interval of the next step a minimax step diverges, so the restart divides X by the margin, at the price of a little
    of the lower end. In bfloat16 the margin is 1.12 for two quintic steps, in float32 it is 1 to six digits.

    All margins are 1 for a method without a schedule, which looks at M itself, and for partial fractions, which map
    everything above the interval into it.
    """
    if not isinstance(method, Schedule) or method.rational:
        return (1.0,) * len(restarts)
    return _margins(method, restarts, torch.finfo(dtype).eps / 2)


@constant
def _margins(schedule: Schedule, restarts: tuple[int, ...], unit_roundoff: float) -> tuple[float, ...]:
    s = schedule.upper * np.logspace(-10, 0, 10001)
    images = [s, *schedule.trace(s)]
    return tuple(
        1 + unit_roundoff * float(np.abs(images[end] / images[start]).max()) for start, end in pairwise((0, *restarts))
    )


def _best_of_each_count(schedule: Schedule, dtype: torch.dtype) -> Iterator[tuple[tuple[int, ...], float]]:
    """Find the best positions of 0, 1, 2, ... restarts: the shortest path of each length through the steps."""
    error, steps = _stretches(schedule, dtype), schedule.steps
    ways: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(steps):
        longer = {
            end: min((lost + error[start, end], (*at, end)) for start, (lost, at) in ways.items() if start < end)
            for end in range(min(ways) + 1, steps + 1)
        }
        lost, at = longer.pop(steps)
        yield at[:-1], lost
        ways = longer


@lru_cache(maxsize=256)
def _stretches(schedule: Schedule, dtype: torch.dtype) -> dict[tuple[int, int], float]:
    """Return the error of each stretch [start, end) of steps without a restart, by the table at the top."""
    unit = torch.finfo(dtype).eps / 2
    formed = _SUMMED * unit if unit <= _SINGLE else unit + _SUMMED * _SINGLE
    s = schedule.upper * np.concatenate([[0.0], np.logspace(-10, 0, 101)])
    errors = {}
    with np.errstate(all="ignore"):
        values = [s, *schedule.trace(s)]
        z = [row(x**2) for row, x in zip(schedule.rows, values, strict=False)]
        largest, steepest = ([float(np.abs(x).max()) for x in rows] for rows in (values, z))
        for end in range(1, schedule.steps + 1):
            after = _after(values[end], values[-1])
            R, growth, carried = np.ones_like(s), 1.0, 0.0
            for start in reversed(range(end)):
                R, growth = R * z[start], growth * steepest[start]
                change = _worst(_divided(R, values[start] ** 2) * values[start] * after)
                factors = (end - start) * unit * growth * _worst(values[start] * after)
                errors[start, end] = _worst(formed * largest[start] ** 2 * change + carried + factors)
                if start:
                    carried += _CARRIED * unit * (steepest[start - 1] * largest[start - 1]) ** 2 * change
    return errors


def _after(s: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return by how much the steps that map s to f multiply a change of X between the directions i and j."""
    both = s[:, None] + s
    return np.maximum(np.abs(_divided(f, s)), np.where(both == 0, 0.0, (f[:, None] + f) / both))


def _divided(F: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return (F_i - F_j) / (x_i - x_j); 0 for equal x. Neighbours on the grid stand for the derivative."""
    gap = x[:, None] - x
    return np.where(gap == 0, 0.0, (F[:, None] - F) / gap)


def _worst(change: np.ndarray | float) -> float:
    """Return the largest magnitude; infinity if one is NaN, from a schedule that overflows."""
    return float(np.nan_to_num(np.abs(change), nan=np.inf).max())
