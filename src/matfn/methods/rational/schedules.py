"""What QDWH and ZOLO-PD share: schedules of Zolotarev functions, and the bound they begin from."""

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

# Singular values below max(m, n) eps count as zero, so that nothing smaller need be lifted in float64.
DEFAULT_LOWER = 1e-16
WORST = 1e-18  # the shifts, near 10 lower^2, must stay above the least normal number of float32


class Rational(Protocol):
    """The fields that both methods have."""

    @property
    def lower(self) -> float | None:
        """Lower bound of the singular values, None if it is to be measured."""
        ...

    @property
    def tolerance(self) -> float:
        """Where to stop."""
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
    """Refuse a `lower` or a `tolerance` that is none."""
    if method.lower is not None:
        check_number("lower", method.lower, WORST, 1, "it bounds singular values after division by the norm")
    check_number("tolerance", method.tolerance, 1e-30, 1, "it is the worst |1 - s| to stop at")


def rational(r: int | None, lower: float | None, tolerance: float, name: str) -> Schedule:
    """Zolotarev functions with r terms (None: the fewest for two steps) from `lower` on, to `tolerance`."""
    from ...minimax.zolotarev import compositions, least_terms  # here: mpmath is a fifth of an `import matfn`

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
    """The method with `lower` measured on A, if it is None, and `tolerance` no finer than the dtype of A has use for.

    M is A for square roots, where s is the square root of an eigenvalue. The bound is rounded down to a power of two,
    which costs next to nothing, so that few schedules are ever computed; an interval needs a length, hence 1/2 at most.
    """
    if method.lower is not None:
        return method
    lower = least_singular_value(A)
    lower = lower**0.5 if target.domain is Domain.SPD else lower
    tolerance = max(method.tolerance, torch.finfo(A.dtype).eps / 8)
    lower = 2.0 ** min(floor(log2(lower)), -1) if lower > 2 * DEFAULT_LOWER else DEFAULT_LOWER
    return replace(method, lower=lower, tolerance=tolerance)  # pyright: ignore[reportArgumentType] -- a dataclass
