"""Request: the arguments and the rows of compositions and tables, without importing mpmath."""

from dataclasses import dataclass

__all__ = ["GridRequest", "Request", "Row"]


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
