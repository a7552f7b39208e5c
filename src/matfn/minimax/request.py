"""What is asked of the composition and what comes back; without mpmath, which takes 85 ms to import."""

from dataclasses import dataclass

__all__ = ["GridRequest", "Request", "Row"]


@dataclass(frozen=True)
class Request:
    """Everything a composition depends on.

    Attributes:
        p: Exponent; the composition maps s = m^(1/p) to 1.
        degrees: The odd degree d of each step; q has degree (d - 1)/2 for every p.
        lower: Assumed lower bound of s, in (0, 1); the upper bound is 1.
        cushion: Design each step on [max(l, cushion * u), u]; None takes `cushion(p, k)` of the step's own degree.
        safety: Divide the argument of the finished rows by this, except converged rows (the paper's table).
        inner_safety: Divide inside the recursion, so that later rows know of it, except in the last row.
    """

    p: int
    degrees: tuple[int, ...]
    lower: float
    cushion: float | None
    safety: float
    inner_safety: float = 1.0


@dataclass(frozen=True)
class GridRequest:
    """Everything a table of single steps depends on.

    Attributes:
        p: Exponent.
        k: Degree of q.
        start: The first point, in log(ratio / (1 - ratio)) for ratio = lower/upper of s.
        spacing: From one point to the next.
        limit: No more points than this.
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
        interval: [l, u] of s that the step was made for, before cushioning.
        converged: Whether it is the Taylor step, to which safety is not applied.
    """

    coefficients: tuple[float, ...]
    interval: tuple[float, float]
    converged: bool
