"""ZOLO-PD: two compositions of a Zolotarev function of high degree; its partial fractions are one batch."""

from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from ...iteration.schedule import Schedule
from ...iteration.target import Target
from .schedules import check_bounds, check_p2, measured, rational

__all__ = ["ZoloPD"]


@dataclass(frozen=True)
class ZoloPD:
    """s q(s^2) is the best function of type (2r+1, 2r) on [lower, 1]: q(m) = constant + sum_{j <= r} w_j / (m + t_j).

    Fewer, wider steps than `QDWH`, which is r = 1: the r factorizations of a step do not depend on each other. Two
    steps reach float64 from `lower` = 1e-16 with r = 8. How terms are computed, and for which input that is stable, is
    as for `QDWH`.

    For p = 2: polar factor, sign, square roots.

    Attributes:
        r: Terms of each step, from 1 to 8, beyond which backward stability was not shown. None: the fewest with which
            two steps suffice.
        lower: As of `QDWH`.
        tolerance: As of `QDWH`.

    References:
        Nakatsukasa, Freund, "Computing fundamental matrix decompositions accurately via the matrix sign function in two
        iterations: the power of Zolotarev's functions", SIAM Review 58 (2016).
    """

    r: int | None = None
    lower: float | None = None
    tolerance: float = 1e-15

    def __post_init__(self) -> None:
        """Refuse bounds and counts that are none."""
        if self.r is not None and (isinstance(self.r, bool) or not isinstance(self.r, int) or not 1 <= self.r <= 8):
            raise ValueError(f"r must be None or an integer from 1 to 8, got {self.r!r}: it counts the terms of a step")
        check_bounds(self)

    def schedule(self, p: int = 2) -> Schedule:
        """All steps, for p = 2 alone."""
        check_p2(self, p)
        return _schedule(self)

    def fitted(self, target: Target, A: Tensor) -> "ZoloPD":
        """With a measured `lower`, if it was left open, and a `tolerance` for the dtype."""
        return measured(self, target, A)


@lru_cache(maxsize=256)
def _schedule(method: ZoloPD) -> Schedule:
    return rational(method.r, method.lower, method.tolerance, repr(method))
