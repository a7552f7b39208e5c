"""Verify: tests whether rows from the disk are the best polynomials of their request, without mpmath.

The error of the best q, of degree k, reaches its extreme values, with alternating signs, at k + 2 points of its
interval. So f(s) = s q(s^p) is evaluated there in double precision, and must take two values in turns, within rounding.
"""

from __future__ import annotations

import numpy as np

from .request import GridRequest, Request, Row

__all__ = ["rows_from", "trusted"]

Array = np.ndarray
_GRID = 60  # points for each extreme value: a grid point lies within 1e-3 of the height of every extreme value
_EDGE = 0.1  # least over greatest f on an interval that the default cushion shortens; see `composition.cushion`


def rows_from(stored: object) -> tuple[Row, ...]:
    """Return the rows that the parsed JSON of a file holds.

    Raises:
        ValueError: If they are no rows of finite numbers.
        TypeError: If the coefficients or the interval of a row are no list.
    """
    if not isinstance(stored, list) or not stored:
        raise ValueError("the rows must be a list")
    rows = []
    for row in stored:
        if not isinstance(row, dict) or set(row) != {"q", "interval", "converged"}:
            raise ValueError("a row has coefficients, an interval and a flag")
        numbers = [*row["q"], *row["interval"]]
        if len(row["interval"]) != 2 or not isinstance(row["converged"], bool):
            raise ValueError("an interval has two ends, and the flag is true or false")
        if not all(isinstance(number, float) and abs(number) < 1e300 for number in numbers):
            raise ValueError("the numbers of a row are finite")
        rows.append(Row(tuple(row["q"]), (row["interval"][0], row["interval"][1]), row["converged"]))
    return tuple(rows)


def trusted(request: Request | GridRequest, rows: tuple[Row, ...]) -> bool:
    """Whether rows are those of `compose(request)` or `tabulate(request)`, within rounding."""
    with np.errstate(all="ignore"):  # numbers that overflow are refused by the comparisons
        return _table(request, rows) if isinstance(request, GridRequest) else _composition(request, rows)


def _composition(request: Request, rows: tuple[Row, ...]) -> bool:
    """Whether each row is the step on the image of the row before."""
    p, interval = request.p, (request.lower, 1.0)
    if [len(row.coefficients) for row in rows] != [(degree - 1) // 2 + 1 for degree in request.degrees]:
        return False
    for number, row in enumerate(rows, start=1):
        low, high = (np.array([end]) for end in row.interval)
        q = np.array([row.coefficients])
        powers, inner = 1 + p * np.arange(q.shape[1]), request.inner_safety if number < len(rows) else 1.0
        carried = q if row.converged else q * request.safety**powers  # what the next row takes into account
        f = carried * inner**powers
        noise = _noise(p, f, high)
        if not np.all(abs(np.array(row.interval) - interval) <= (number > 1) * (noise + _eps(interval))):
            return False
        if not (_one(p, f, low, high) if row.converged else _step(request, f, low, high)):
            return False
        image = float(_f(p, carried, low[:, None])[0, 0])
        interval = (min(image, 2 - image), max(image, 2 - image))
    return True


def _step(request: Request, f: Array, low: Array, high: Array) -> bool:
    """Whether f alternates on [max(l, cushion u), u] and is recentred: f(l) and the greatest f have the mean 1."""
    p, noise = request.p, _noise(request.p, f, high)
    at_low = _f(p, f, low[:, None])[:, 0]
    if request.cushion is not None:
        start = np.maximum(low, request.cushion * high)
    else:
        edge = _EDGE * (2 - at_low)
        start = low if at_low >= edge - noise else _solved(p, f, edge)
    least, greatest, levelled = _levels(p, f, start, high)
    shortened = start > low
    edged = request.cushion is not None or not shortened or abs(least - _EDGE * greatest) <= noise
    return bool(levelled and edged and abs(at_low + greatest - 2) <= 2 * noise)


def _table(request: GridRequest, rows: tuple[Row, ...]) -> bool:
    """Whether the rows are single steps on the intervals [ratio, 1] of the table, and the last one alone converged."""
    p, count = request.p, len(rows)
    if count > request.limit or {len(row.coefficients) for row in rows} != {request.k + 1}:
        return False
    if [row.converged for row in rows] != [False] * (count - 1) + [True]:
        return False
    low, high = np.array([row.interval for row in rows]).T
    places = request.start + request.spacing * np.arange(count)
    right = 1 / (1 + np.exp(-places))
    if np.any(high != 1) or np.any(abs(low - right) > (4 + abs(places)) * _eps(right)):
        return False
    q = np.array([row.coefficients for row in rows])
    least, greatest, levelled = _levels(p, q[:-1], low[:-1], high[:-1])
    centred = abs(least + greatest - 2) <= 2 * _noise(p, q[:-1], high[:-1])
    return bool(np.all(levelled & centred)) and _one(p, q[-1:], low[-1:], high[-1:])


def _levels(p: int, q: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """Return the least and the greatest f on [l, u], (r,), and whether f takes them in turns, k + 2 times.

    If the values differ by little more than rounding, they only have to be near 1.
    """
    noise, extremes = _noise(p, q, high), q.shape[1] + 1
    angles = np.linspace(0, np.pi, _GRID * extremes)
    s = (low + high)[:, None] / 2 - (high - low)[:, None] / 2 * np.cos(angles)
    s[:, 0], s[:, -1] = low, high
    values = _f(p, q, s)
    least, greatest = values.min(1), values.max(1)
    flat = greatest - least <= 1e3 * noise
    levelled = flat & (abs(values - 1).max(1) <= 2e3 * noise)
    for row in np.flatnonzero(~flat):
        places = _turns(values[row])
        if len(places) == extremes:
            found = _f(p, q[row : row + 1], _polished(p, q[row], s[row, places]))[0]
            least[row], greatest[row] = found[::2].mean(), found[1::2].mean()
            spread = max(np.ptp(found[::2]), np.ptp(found[1::2]))
            levelled[row] = spread <= 2 * noise[row] and found[0] < found[1]
    return least, greatest, levelled


def _turns(values: Array) -> Array:
    """Return the indices at which values on a grid are greatest and least in turns."""
    least, greatest = values.min(), values.max()
    near = 1e-3 * (greatest - least)
    side = (values >= greatest - near).astype(int) - (values <= least + near)
    places = np.flatnonzero(side)
    runs = np.split(places, np.flatnonzero(np.diff(side[places])) + 1)
    middle = (least + greatest) / 2
    return np.array([run[abs(values[run] - middle).argmax()] for run in runs])


def _polished(p: int, q: Array, s: Array) -> Array:
    """Return the points s (n,) as (1, n), with each interior point moved to the root of f' nearby."""
    slope = q * (1 + p * np.arange(len(q)))
    inside = s[1:-1].copy()
    for _ in range(3):
        m = inside**p
        bend = p * inside ** (p - 1) * np.polynomial.polynomial.polyval(m, slope[1:] * np.arange(1, len(q)))
        inside -= np.polynomial.polynomial.polyval(m, slope) / bend
    return np.concatenate([s[:1], inside, s[-1:]])[None]


def _solved(p: int, q: Array, level: Array) -> Array:
    """Return the least s with f(s) = level, (1,), by Newton's method from below: f is concave there."""
    s = level / q[:, 0]
    for _ in range(60):
        powers = s[:, None] ** (p * np.arange(q.shape[1]))
        s = s - (s * (q * powers).sum(1) - level) / (q * powers * (1 + p * np.arange(q.shape[1]))).sum(1)
    return s


def _one(p: int, q: Array, low: Array, high: Array) -> bool:
    """Whether f is 1 on the interval within rounding, as the Taylor polynomial is."""
    s = np.linspace(low, high, 9, axis=1)
    return bool(np.all(abs(_f(p, q, s) - 1) <= _noise(p, q, high)[:, None]))


def _f(p: int, q: Array, s: Array) -> Array:
    """Return s q(s^p), (r, n), for the polynomials q (r, k + 1) at s (r, n)."""
    m, value = s**p, np.zeros_like(s)
    for coefficients in q.T[::-1]:
        value = value * m + coefficients[:, None]
    return s * value


def _noise(p: int, q: Array, high: Array) -> Array:
    """Return a bound of the rounding error of f on [0, u], (r,).

    Each term c_j s^(1+jp) has the rounding of c_j, of its power and sum, and 1 + jp times the rounding of s.
    """
    powers = 1 + p * np.arange(q.shape[1])
    return _eps(1.0) * ((8 + 2 * powers) * abs(q) * high[:, None] ** powers).sum(1)


def _eps(value: object) -> Array:
    """Return the spacing of doubles at a value."""
    return np.spacing(np.abs(np.asarray(value, dtype=float)))
