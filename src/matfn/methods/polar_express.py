"""Polar Express: a composition of minimax polynomials, with two margins against rounding."""

from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

from ..errors import shown
from ..iteration.schedule import Preparation, Schedule
from ..iteration.step import Polynomial
from ..minimax import Request, cached_rows
from .checks import MOST_STEPS, check_count, check_degrees, check_exponent, check_number, check_work

__all__ = ["PolarExpress"]


@dataclass(frozen=True)
class PolarExpress:
    """Each step is the minimax polynomial for the interval that the step before leaves.

    The paper treats p = 2; here p is any positive integer. A Remez exchange in extended precision computes the
    coefficients, which are cached. A wrong `lower` costs steps, never convergence.

    With `cushion=0` and `safety=1` no other composition of these degrees has a smaller worst-case error on [lower, 1].
    The default margins make it larger: .154 instead of .113 for p = 2, five quintics and `lower` 1e-3.

    Attributes:
        degree: Odd, at least 3, or one degree per step, e.g. (9, 9, 5). The paper uses 5.
        steps: Number of steps; by default 5, or the length of `degree`.
        lower: Assumed lower bound of s = m^(1/p) after division by the norm; for the polar factor the least
            singular value, for a p-th root the p-th root of the least eigenvalue. 1e-3 suits bfloat16.
        cushion: Each step is designed for [max(l, cushion * u), u], so that no step sends large values below small
            ones. None takes the interval whose image has ends of ratio ten (0.0240732... for the quintic, the constant
            of the published table); 0 turns the cushion off.
        safety: Rows are evaluated at s / safety, except converged rows, so that rounding above the upper end does not
            make the iteration diverge. The paper uses 1.01; 1 turns it off.
        norm: The norm to divide by: "frobenius", as in the paper, or "schatten4", (sum of sigma^4)^(1/4), which is
            closer to the greatest singular value and needs no extra product. Singular values start larger, by n^(1/4)
            if all are equal; on momenta of training runs this saves half a step. No effect on roots.
        deflation: Share of the singular values to deflate, from 0 (off) to 1/2. Before the first step a sketch finds
            the largest ones and shrinks them to the size of the next. Gradients have few large singular values: 1/16
            saves more than a step and costs less than a product. `lower` and the errors of the schedule hold after
            deflation. Matrices with fewer than 1/deflation rows stay as they are. Only for `orthogonalize` and the
            optimizers, not for roots.

    References:
        Amsel, Persson, Musco, Gower, "The Polar Express", arXiv 2505.16932: Theorem 3.1, Algorithms 1 and 2.
    """

    degree: int | tuple[int, ...] = 5
    steps: int | None = None
    lower: float = 1e-3
    cushion: float | None = None
    safety: float = 1.01
    norm: str = "frobenius"
    deflation: float = 0.0

    def __post_init__(self) -> None:
        degrees = check_degrees(self.degree)
        settled = (len(degrees) if isinstance(self.degree, tuple) else 5) if self.steps is None else self.steps
        check_count("steps", settled, 1, MOST_STEPS)
        check_work(degrees if isinstance(self.degree, tuple) else degrees * settled)
        if isinstance(self.degree, tuple) and settled != len(degrees):
            raise ValueError(f"degree={self.degree} lists {len(degrees)} steps, but steps={self.steps}: leave out one")
        number = isinstance(self.lower, Real) and not isinstance(self.lower, bool)
        if not number or not 0 < self.lower < 1 or float(self.lower) == 0:
            raise ValueError(
                f"lower must be a number in (0, 1), got {shown(self.lower)}: it bounds s from below, 1 from above"
            )
        if self.cushion is not None:
            check_number("cushion", self.cushion, 0, 1, "it is the least ratio lower/upper a step is designed for")
        check_number("safety", self.safety, 1, 2, "the argument is divided by it; 1.01 guards bfloat16, 1 is none")
        Preparation(self.norm, self.deflation)
        object.__setattr__(self, "steps", settled)

    def schedule(self, p: int = 2) -> Schedule:
        """Return all steps for exponent p."""
        check_exponent(p)
        return _schedule(self, p)


@lru_cache(maxsize=256)
def _schedule(method: PolarExpress, p: int) -> Schedule:
    assert method.steps is not None
    degrees = method.degree if isinstance(method.degree, tuple) else (method.degree,) * method.steps
    rows = cached_rows(Request(p, degrees, float(method.lower), method.cushion, float(method.safety)))
    return Schedule(
        tuple(Polynomial(row.coefficients) for row in rows),
        p,
        float(method.lower),
        f"minimax composition, {method!r}",
        tuple(row.interval for row in rows),
        preparation=Preparation(method.norm, float(method.deflation)),
    )
