"""ZOLO-PD: two Zolotarev functions of high degree; the partial fractions of each are one batch."""

from dataclasses import dataclass

from ..errors import shown
from .qdwh import Rational

__all__ = ["ZoloPD"]


@dataclass(frozen=True)
class ZoloPD(Rational):
    """q(m) = constant + sum_{j <= r} w_j / (m + t_j); s q(s^2) is the best function of type (2r+1, 2r) on an interval.

    `QDWH` is r = 1. A larger r needs fewer steps, and the r factorizations of a step are independent. Two steps with
    r = 8 reach float64 from lower = 1e-16. Terms are computed as in `QDWH`, with the same stability.

    For p = 2: polar factor, sign, square roots.

    Attributes:
        r: Terms of each step, 1 to 8; backward stability is not known for more. None: the fewest terms for two steps.
        lower: See `QDWH`.
        tolerance: See `QDWH`.

    References:
        Nakatsukasa, Freund, "Computing fundamental matrix decompositions accurately via the matrix sign function in two
        iterations: the power of Zolotarev's functions", SIAM Review 58 (2016).
    """

    r: int | None = None
    lower: float | None = None
    tolerance: float = 1e-15

    def __post_init__(self) -> None:
        if self.r is not None and (isinstance(self.r, bool) or not isinstance(self.r, int) or not 1 <= self.r <= 8):
            raise ValueError(
                f"r must be None or an integer from 1 to 8, got {shown(self.r)}: it counts the terms of a step"
            )
        self._check_bounds()
