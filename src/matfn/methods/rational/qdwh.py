"""QDWH: the Halley iteration with weights that are best for the interval the singular values are known to lie in."""

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from ...iteration.schedule import Schedule
from ...iteration.target import Target
from .schedules import check_bounds, check_p2, measured, rational

__all__ = ["QDWH"]


@dataclass(frozen=True)
class QDWH:
    """s q(s^2) = s (a + b s^2) / (1 + c s^2), the best function of type (3, 2) on [lower, 1] at every step.

    Cubic and backward stable: six steps in float64 and float32 whatever the condition number, fewer for a known one. As
    partial fraction q(m) = b/c + (a - b/c)/c / (m + 1/c), by a QR factorization of [X; I/sqrt(c)] while the condition
    number of I + c X^T X may exceed 100, by Cholesky after (`PartialFraction`). Half precision is computed in float32.

    For p = 2: the polar factor, backward stable for every input; the sign, with an error that grows as the condition
    number of A and of its eigenvectors; square roots by the coupled engine, which forms M, with an error relative to
    the condition number of A. `Gram` forms X X^T and so loses what lies below sqrt(eps); `Direct` does not.

    Attributes:
        lower: Lower bound of the singular values divided by the Frobenius norm (for square roots: of the square roots
            of the eigenvalues so divided), from 1e-18 to 1. None: the accurate verbs measure it by one QR
            factorization, the least of the batch; `orthogonalize`, which reads nothing back, takes 1e-16.
        tolerance: The last step is the first after which all of [lower, 1] is within this of 1. The test costs nothing,
            since the interval is followed and not the matrix. 1e-15; the accurate verbs raise it to eps/8 of a coarser
            dtype.

    References:
        Nakatsukasa, Bai, Gygi, "Optimizing Halley's iteration for computing the matrix polar decomposition", SIAM J.
        Matrix Anal. Appl. 31 (2010). Nakatsukasa, Higham, SIAM J. Numer. Anal. 50 (2012), for its stability.
    """

    lower: float | None = None
    tolerance: float = 1e-15

    def __post_init__(self) -> None:
        """Refuse bounds that are none."""
        check_bounds(self)

    def schedule(self, p: int = 2) -> Schedule:
        """All steps, for p = 2 alone."""
        check_p2(self, p)
        return _schedule(self)

    def fitted(self, target: Target, A: Tensor) -> "QDWH":
        """With a measured `lower`, if it was left open, and a `tolerance` for the dtype."""
        return measured(self, target, A)


@lru_cache(maxsize=256)
def _schedule(method: QDWH) -> Schedule:
    return rational(1, method.lower, method.tolerance, repr(method))
