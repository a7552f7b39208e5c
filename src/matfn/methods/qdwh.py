"""QDWH: the Halley iteration with the best weights for an interval that holds the singular values.

`Rational` is the part that QDWH and ZOLO-PD share: Zolotarev schedules, and the measurement of their lower bound.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import floor, log2
from typing import Self

import torch
from torch import Tensor

from ..iteration.partial_fraction import PartialFraction
from ..iteration.schedule import Schedule
from ..iteration.target import Domain, Target
from ..linalg.bounds import least_singular_value
from .checks import check_exponent, check_number

__all__ = ["QDWH", "Rational"]

# In float64, singular values below max(m, n) eps count as zero; no smaller value needs lifting.
DEFAULT_LOWER = 1e-16
WORST = 1e-18  # the shifts, near 10 lower^2, must stay above the least normal number of float32


class Rational:
    """The part that both methods share; r = 1 is QDWH."""

    r: int | None = 1
    lower: float | None
    tolerance: float

    def schedule(self, p: int = 2) -> Schedule:
        """Return all steps; p must be 2."""
        check_exponent(p)
        if p != 2:
            raise ValueError(
                f"{type(self).__name__} has steps for p = 2 alone (polar factor, sign, square roots), not for p = {p}: "
                "use PolarExpress or Exact"
            )
        return _schedule(self.r, self.lower, self.tolerance, repr(self))

    def fitted(self, target: Target, A: Tensor) -> Self:
        """Return the method for A: if `lower` is None, measure it, and raise `tolerance` to eps/8 of the dtype.

        For square roots M = A, and s is the square root of an eigenvalue. The bound is rounded down to a power of two,
        so that few schedules are computed, and is at most 1/2, so that the interval [lower, 1] is not empty.
        """
        if self.lower is not None:
            return self
        lower = least_singular_value(A)
        lower = lower**0.5 if target.domain is Domain.SPD else lower
        tolerance = max(self.tolerance, torch.finfo(A.dtype).eps / 8)
        lower = 2.0 ** min(floor(log2(lower)), -1) if lower > 2 * DEFAULT_LOWER else DEFAULT_LOWER
        return replace(self, lower=lower, tolerance=tolerance)  # pyright: ignore[reportArgumentType] -- a dataclass

    def _check_bounds(self) -> None:
        if self.lower is not None:
            check_number("lower", self.lower, WORST, 1, "it bounds singular values after division by the norm")
        check_number("tolerance", self.tolerance, 1e-30, 1, "it is the worst |1 - s| to stop at")


@dataclass(frozen=True)
class QDWH(Rational):
    """s q(s^2) = s (a + b s^2) / (1 + c s^2), at every step the best function of type (3, 2) on the current interval.

    Converges cubically and is backward stable: six steps in float64 and float32 for any condition number, fewer if it
    is known. The partial fraction is q(m) = b/c + (a - b/c)/c / (m + 1/c). It is evaluated by a QR factorization of
    [X; I/sqrt(c)] while the condition number of I + c X^T X may exceed 100, later by Cholesky (`PartialFraction`). Half
    precision is computed in float32.

    For p = 2: the polar factor, backward stable for every input; the sign, with an error that grows with the condition
    numbers of A and of its eigenvectors; square roots by the coupled engine, which forms M, with an error that grows
    with the condition number of A. `Gram` forms X X^T and loses singular values below sqrt(eps); `Direct` does not.

    Attributes:
        lower: Lower bound of the singular values divided by the Frobenius norm, in [1e-18, 1); for square roots, of the
            square roots of the eigenvalues divided by the norm. None: the accurate verbs measure the least of the batch
            by one QR factorization; `orthogonalize` reads nothing back and takes 1e-16. For a bound up to eps
            `orthogonalize` and the optimizers set singular values up to max(m, n) eps of the largest to zero, because
            they may be rounding noise; for a greater bound they set none to zero.
        tolerance: Stop after the first step whose image of [lower, 1] is within this distance of 1. The image is known
            without the matrix, so the test is free. With lower=None the accurate verbs use at least eps/8 of the dtype.

    References:
        Nakatsukasa, Bai, Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition", SIAM J.
        Matrix Anal. Appl. 31 (2010). Nakatsukasa, Higham, SIAM J. Numer. Anal. 50 (2012), for its stability.
    """

    lower: float | None = None
    tolerance: float = 1e-15

    def __post_init__(self) -> None:
        self._check_bounds()


@lru_cache(maxsize=256)
def _schedule(r: int | None, lower: float | None, tolerance: float, name: str) -> Schedule:
    """Build the schedule with r terms a step (None: the fewest for two steps), from `lower` to `tolerance`."""
    from ..minimax.zolotarev import compositions, least_terms  # late: imports mpmath, a fifth of `import matfn`

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
