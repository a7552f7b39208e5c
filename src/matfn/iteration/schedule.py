"""Schedule: a finished list of steps with its exponent, interval and source; it is itself a method."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .polynomial import Polynomial
from .preparation import PLAIN, Preparation
from .residual import Residual
from .step import Step

__all__ = ["Schedule"]

Scalar = TypeVar("Scalar", float, np.ndarray, Tensor)

_DIVERGED = 1e3  # no step of a convergent schedule maps anything there; powers of what does overflow


@dataclass(frozen=True)
class Schedule:
    """Steps q_1, ..., q_T, polynomials or partial fractions, for one exponent p.

    On s = m^(1/p) (the singular value, for the polar factor) the steps act as s <- s q_t(s^p). Calling the schedule
    applies that map to numbers, arrays or tensors; a method argument takes it as it takes any method.

    Attributes:
        rows: The steps.
        p: The exponent they were made for.
        lower: The assumed lower bound of s.
        source: Where the numbers come from.
        intervals: For each step, the interval of s it was made for (empty if it was made for none).
        upper: The upper bound of s: 1, which holds for every matrix, or what one matrix has shown (`Recorder`).
        preparation: What is done to the scaled matrix before the first step: the norm that s is relative to, deflation.
    """

    rows: tuple[Step, ...]
    p: int
    lower: float
    source: str
    intervals: tuple[tuple[float, float], ...] = ()
    upper: float = 1.0
    preparation: Preparation = PLAIN

    def __post_init__(self) -> None:
        """Refuse a schedule of nothing."""
        if not self.rows:
            raise ValueError(f"a schedule needs at least one step, got none ({self.source})")

    @property
    def steps(self) -> int:
        """The number of steps T."""
        return len(self.rows)

    @property
    def coefficients(self) -> tuple[tuple[float, ...], ...]:
        """Per step, the coefficients of q in ascending powers of m, as they are applied (after safety).

        Raises:
            TypeError: If a step is no polynomial; `rows` then has what it is.
        """
        return tuple(tuple(float(c) for c in row.coefficients) for row in self._polynomials())

    @property
    def degrees(self) -> tuple[int, ...]:
        """Per step, the degree of the odd polynomial in x (p = 2): 2k + 1 for q of degree k."""
        return tuple(2 * len(row.coefficients) - 1 for row in self._polynomials())

    @cached_property
    def rounding(self) -> float:
        """By how much a relative error of M at most shows in q(M): the largest sum_j |c_j| m^j over steps and images.

        Times the unit roundoff of the iteration's dtype it foretells the error that rounding adds to one step. 48 for
        the quintics of Polar Express, 250 in degree 7, 1400 in degree 9 and 7600 in degree 11. Partial fractions have
        positive terms, and amplify nothing.
        """
        tops = (self.upper, *(high for _, high in self.images()[:-1]))
        sums = [
            sum(abs(float(c)) * top ** (j * self.p) for j, c in enumerate(row.coefficients))
            for row, top in zip(self.rows, tops, strict=True)
            if isinstance(row, Polynomial)
        ]
        return max(sums, default=1.0)

    def schedule(self, p: int = 2) -> "Schedule":
        """This schedule, if it was made for p.

        Raises:
            ValueError: If it was made for another exponent.
        """
        if p != self.p:
            raise ValueError(
                f"this schedule ({self.source}) was made for p = {self.p}, and this function needs p = {p}: "
                f"ask the method for it, for example PolarExpress(...).schedule(p={p})"
            )
        return self

    def step(self, k: int, residual: Residual) -> Step:
        """The k-th step, whatever the residual."""
        return self.schedule(residual.p).rows[k]

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype to iterate in for an argument of `dtype`: the widest that a step asks for."""
        for row in self.rows:
            dtype = row.precision(dtype)
        return dtype

    def __call__(self, s: Scalar) -> Scalar:
        """The scalar map on s = m^(1/p) after all steps; elementwise."""
        *_, last = self.trace(s)
        return last

    def trace(self, s: Scalar) -> Iterator[Scalar]:
        """Yield s after the first step, after the second, ..."""
        for row in self.rows:
            s = s * row(s**self.p)
            yield s

    def images(self) -> tuple[tuple[float, float], ...]:
        """After each step, the exact image [least, greatest] of [lower, upper] in s.

        One step maps an interval onto an interval whose ends are values at its own ends or at critical points inside,
        so the composition needs no sampling. A schedule that diverges in double precision (many steps without safety)
        ends at (-inf, inf).
        """
        low, high = self.lower, self.upper
        images = []
        for row in self.rows:
            if high < math.inf:
                s = np.concatenate([[low, high], row.critical(self.p, low, high)])
                values = s * row(s**self.p)
                low, high = float(values.min()), float(values.max())
            if not -_DIVERGED < low <= high < _DIVERGED:
                low, high = -math.inf, math.inf
            images.append((low, high))
        return tuple(images)

    def errors(self) -> tuple[float, ...]:
        """Worst |1 - s| over [lower, upper] after each step."""
        return tuple(max(abs(1 - low), abs(1 - high)) for low, high in self.images())

    def error(self) -> float:
        """Worst |1 - s| over [lower, upper] after all steps: for p = 2 the worst spectral error of the polar factor."""
        return self.errors()[-1]

    def _polynomials(self) -> tuple[Polynomial, ...]:
        polynomials = tuple(row for row in self.rows if isinstance(row, Polynomial))
        if len(polynomials) < len(self.rows):
            raise TypeError(f"this schedule ({self.source}) has steps without coefficients: look at its rows instead")
        return polynomials
