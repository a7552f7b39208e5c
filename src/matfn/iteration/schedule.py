"""Schedule: a finished list of steps, with the preparation of the matrix before them; it is itself a method."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from .residual import Residual
from .step import Polynomial, Scalar, Step

__all__ = ["NORMS", "PLAIN", "Preparation", "Schedule"]

NORMS = ("frobenius", "schatten4")
_MOST = 0.5  # to deflate more than half of the singular values costs more than the saved steps
_DIVERGED = 1e3  # no convergent schedule maps a value there; later powers of such a value overflow


@dataclass(frozen=True)
class Preparation:
    """The norm that divides the matrix, and the share of its singular values to deflate.

    Attributes:
        norm: "frobenius", or "schatten4" for (sum of sigma^4)^(1/4), which is closer to the largest singular value and
            is read from the first M without a product.
        deflation: The share of the singular values, the largest ones, that a sketch shrinks to the size of the next
            ones, from 0 (none) to 1/2 (`matfn.run.preparation.deflated`).
    """

    norm: str = "frobenius"
    deflation: float = 0.0

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ValueError(
                f"norm must be one of {NORMS}, got {self.norm!r}: the interval [lower, 1] is given relative to it"
            )
        share = self.deflation
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= _MOST:
            raise ValueError(
                f"deflation must be a number from 0 (none) to {_MOST}, got {share!r}: the share of the singular "
                "values, the largest, that are shrunk beforehand; 1/16 suits the momenta of networks"
            )

    def __str__(self) -> str:
        norm = {"frobenius": "Frobenius norm", "schatten4": "Schatten-4 norm"}[self.norm]
        return f"divide by the {norm}" + (f", deflate 1/{1 / self.deflation:g} of the values" if self.deflation else "")


PLAIN = Preparation()


@dataclass(frozen=True)
class Schedule:
    """Steps q_1, ..., q_T, polynomials or partial fractions, for one exponent p.

    On s = m^(1/p) (the singular value, for the polar factor) the steps act as s <- s q_t(s^p). Call the schedule to
    apply this map to numbers, arrays or tensors, or pass it as a `method` argument.

    Attributes:
        rows: The steps.
        p: Their exponent.
        lower: The assumed lower bound of s.
        source: Where the numbers come from.
        intervals: For each step, the interval of s for which it was designed; empty if there was none.
        upper: The upper bound of s: 1 holds for every matrix, `Recorder` finds the bound of one matrix.
        preparation: The norm and the deflation of the scaled matrix before the first step.
    """

    rows: tuple[Step, ...]
    p: int
    lower: float
    source: str
    intervals: tuple[tuple[float, float], ...] = ()
    upper: float = 1.0
    preparation: Preparation = PLAIN

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError(f"a schedule needs at least one step, got none ({self.source})")

    @property
    def steps(self) -> int:
        """The number of steps T."""
        return len(self.rows)

    @property
    def rational(self) -> bool:
        """Whether a step is no polynomial."""
        return not all(isinstance(row, Polynomial) for row in self.rows)

    @property
    def coefficients(self) -> tuple[tuple[float, ...], ...]:
        """For each step, the coefficients of q in ascending powers of m, as applied (after safety).

        Raises:
            TypeError: If a step is not a polynomial; see `rows` then.
        """
        return tuple(tuple(float(c) for c in row.coefficients) for row in self._polynomials())

    @property
    def degrees(self) -> tuple[int, ...]:
        """For each step, the degree 2k + 1 of the odd polynomial in x (p = 2), for q of degree k."""
        return tuple(2 * len(row.coefficients) - 1 for row in self._polynomials())

    @cached_property
    def rounding(self) -> float:
        """The most that q(M) amplifies a relative error of M: max of sum_j |c_j| m^j over steps and images.

        Times the unit roundoff of the iteration it predicts the rounding error of one step. It is 48 for the quintics
        of Polar Express, 250 in degree 7, 1400 in degree 9 and 7600 in degree 11. Partial fractions have positive terms
        and amplify nothing.
        """
        tops = (self.upper, *(high for _, high in self.images()[:-1]))
        sums = [
            sum(abs(float(c)) * top ** (j * self.p) for j, c in enumerate(row.coefficients))
            for row, top in zip(self.rows, tops, strict=True)
            if isinstance(row, Polynomial)
        ]
        return max(sums, default=1.0)

    def schedule(self, p: int = 2) -> "Schedule":
        """Return this schedule, which was made for one p; another one is refused."""
        if p != self.p:
            raise ValueError(
                f"this schedule ({self.source}) was made for p = {self.p}, and this function needs p = {p}: "
                f"ask the method for it, for example PolarExpress(...).schedule(p={p})"
            )
        return self

    def step(self, k: int, residual: Residual) -> Step:
        """Return step k; the residual only confirms the exponent."""
        return self.schedule(residual.p).rows[k]

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype to iterate in for an argument of `dtype`: the widest that a step needs."""
        for row in self.rows:
            dtype = row.precision(dtype)
        return dtype

    def __call__(self, s: Scalar) -> Scalar:
        """Apply the scalar map on s = m^(1/p) of all steps, elementwise."""
        *_, last = self.trace(s)
        return last

    def trace(self, s: Scalar) -> Iterator[Scalar]:
        """Yield s after the first step, after the second, ..."""
        for row in self.rows:
            s = s * row(s**self.p)
            yield s

    def images(self) -> tuple[tuple[float, float], ...]:
        """For each step, the exact image [least, greatest] of [lower, upper] in s.

        A step maps an interval onto an interval. Its ends are values at the old ends or at critical points inside, so
        no sampling is needed. A schedule that diverges in double precision (many steps without safety) ends at (-inf,
        inf).
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
        """For each step, the worst |1 - s| over [lower, upper] after it."""
        return tuple(max(abs(1 - low), abs(1 - high)) for low, high in self.images())

    def error(self) -> float:
        """Worst |1 - s| over [lower, upper] after all steps; for p = 2 the worst spectral error of the polar factor."""
        return self.errors()[-1]

    def _polynomials(self) -> tuple[Polynomial, ...]:
        polynomials = tuple(row for row in self.rows if isinstance(row, Polynomial))
        if len(polynomials) < len(self.rows):
            raise TypeError(f"this schedule ({self.source}) has steps without coefficients: look at its rows instead")
        return polynomials
