"""Request: the arguments and the rows of compositions and tables, without importing mpmath."""

import math
from dataclasses import dataclass

__all__ = ["GridRequest", "Request", "Row", "check_size"]

# The methods allow degree 21 at most, because of rounding. A composition alone may have higher degrees.
MOST_P = 256
MOST_DEGREE = 41


@dataclass(frozen=True)
class Request:
    """All arguments of a composition.

    Attributes:
        p: Exponent; the composition maps s = m^(1/p) to 1.
        degrees: The odd degree d of each step; q has degree (d - 1)/2 for every p.
        lower: Assumed lower bound of s, in (0, 1); the upper bound is 1.
        cushion: Design each step on [max(l, cushion * u), u]; None means `cushion(p, k)` for the degree of the step.
        safety: Divisor of the argument of the finished rows, converged rows excepted (as in the paper's table).
        inner_safety: Divisor inside the recursion, the last row excepted; later rows take it into account.
    """

    p: int
    degrees: tuple[int, ...]
    lower: float
    cushion: float | None
    safety: float
    inner_safety: float = 1.0

    def __post_init__(self) -> None:
        check_size(self.p, max(self.degrees, default=0))
        if not (math.isfinite(self.lower) and 0 < self.lower < 1):
            raise ValueError(f"a composition needs 0 < lower < 1, got {self.lower}")


@dataclass(frozen=True)
class GridRequest:
    """All arguments of a table of at most `limit` single steps, with q of degree k for exponent p.

    The points are `start`, `start` + `spacing`, ... in log(ratio / (1 - ratio)) for ratio = lower/upper of s.
    """

    p: int
    k: int
    start: float
    spacing: float
    limit: int = 1000

    def __post_init__(self) -> None:
        check_size(self.p, 2 * self.k + 1)


def check_size(p: int, degree: int) -> None:
    """Refuse exponents and degrees for which the Remez exchange takes minutes, or is singular in its precision."""
    if not 1 <= p <= MOST_P or not 3 <= degree <= MOST_DEGREE:
        raise ValueError(
            f"minimax steps are computed for p from 1 to {MOST_P} and degrees from 3 to {MOST_DEGREE}, got {p=} and "
            f"{degree=}"
        )


@dataclass(frozen=True)
class Row:
    """One step of a composition, in double precision.

    Attributes:
        coefficients: q in ascending powers of m, after safety.
        interval: Design interval [l, u] of s, before the cushion.
        converged: Whether this is the Taylor step; safety does not apply to it.
    """

    coefficients: tuple[float, ...]
    interval: tuple[float, float]
    converged: bool
