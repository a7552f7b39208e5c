"""Schedules: Zolotarev schedules for QDWH and ZOLO-PD, and the measurement of their lower bound."""

from dataclasses import replace
from math import floor, log2
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ...iteration.partial_fraction import PartialFraction
from ...iteration.schedule import Schedule
from ...iteration.target import Domain, Target
from ...linalg.bounds import least_singular_value
from ..checks import check_exponent, check_number

__all__ = ["check_bounds", "check_p2", "measured", "rational"]

# In float64, singular values below max(m, n) eps count as zero; no smaller value needs lifting.
DEFAULT_LOWER = 1e-16
WORST = 1e-18  # the shifts, near 10 lower^2, must stay above the least normal number of float32


class Rational(Protocol):
    """Fields of both methods."""

    @property
    def lower(self) -> float | None:
        """Lower bound of the singular values, or None to measure it."""
        ...

    @property
    def tolerance(self) -> float:
        """Largest |1 - s| at the end."""
        ...


AnyRational = TypeVar("AnyRational", bound=Rational)


def check_p2(method: Rational, p: int) -> None:
    """Refuse every exponent but 2."""
    check_exponent(p)
    if p != 2:
        raise ValueError(
            f"{type(method).__name__} has steps for p = 2 alone (polar factor, sign, square roots), not for p = {p}: "
            "use PolarExpress or Exact"
        )


def check_bounds(method: Rational) -> None:
    """Check `lower` and `tolerance`."""
    if method.lower is not None:
        check_number("lower", method.lower, WORST, 1, "it bounds singular values after division by the norm")
    check_number("tolerance", method.tolerance, 1e-30, 1, "it is the worst |1 - s| to stop at")


def rational(r: int | None, lower: float | None, tolerance: float, name: str) -> Schedule:
    """Build the schedule with r terms a step (None: the fewest for two steps), from `lower` to `tolerance`."""
    from ...minimax.zolotarev import compositions, least_terms  # late: imports mpmath, a fifth of `import matfn`

    lower = DEFAULT_LOWER if lower is None else float(lower)
    r = least_terms(lower, tolerance) if r is None else r
    steps = compositions(r, lower, tolerance)
    return Schedule(
        tuple(PartialFraction(f.constant, f.weights, f.shifts, f.interval[0]) for f in steps),
        2,
        lower,
        f"Zolotarev functions of type ({2 * r + 1}, {2 * r}), {name}",
        tuple(f.interval for f in steps),
    )


def measured(method: AnyRational, target: Target, A: Tensor) -> AnyRational:
    """If `lower` is None, return the method with `lower` measured on A and `tolerance` at least eps/8 of its dtype.

    For square roots M = A, and s is the square root of an eigenvalue. The bound is rounded down to a power of two, so
    that few schedules are computed, and is at most 1/2, so that the interval [lower, 1] is not empty.
    """
    if method.lower is not None:
        return method
    lower = least_singular_value(A)
    lower = lower**0.5 if target.domain is Domain.SPD else lower
    tolerance = max(method.tolerance, torch.finfo(A.dtype).eps / 8)
    lower = 2.0 ** min(floor(log2(lower)), -1) if lower > 2 * DEFAULT_LOWER else DEFAULT_LOWER
    return replace(method, lower=lower, tolerance=tolerance)  # pyright: ignore[reportArgumentType] -- a dataclass
