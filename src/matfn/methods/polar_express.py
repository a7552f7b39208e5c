"""Polar Express: the composition of minimax polynomials that is optimal in the worst case."""

from dataclasses import dataclass
from functools import lru_cache
from numbers import Real

from ..iteration.polynomial import Polynomial
from ..iteration.preparation import Preparation
from ..iteration.schedule import Schedule
from ..minimax import Request, cached_rows
from .checks import check_degrees, check_exponent, check_number, check_steps

__all__ = ["PolarExpress"]


@dataclass(frozen=True)
class PolarExpress:
    """At each step the polynomial that is best, in the worst case, on the interval the step before has left.

    The paper's method for p = 2, here for every p: the coefficients are computed by a Remez exchange in extended
    precision and cached. A wrong `lower` costs steps, never convergence.

    Attributes:
        degree: Odd, at least 3, or one degree per step, e.g. (9, 9, 5). 5 is the paper's choice.
        steps: The number of steps; by default 5, or as many as `degree` lists.
        lower: Assumed lower bound of s = m^(1/p) after division by the norm; for the polar factor the least
            singular value, for a p-th root the p-th root of the least eigenvalue. 1e-3 suits bfloat16.
        cushion: Each step is designed on [max(l, cushion * u), u], so that large values are not flattened before
            small ones are lifted. None takes the ratio whose image has ratio ten (0.0240732... for the quintic, which
            is the constant of the published table); 0 turns it off.
        safety: Every row but a converged one is evaluated at s / safety, so that rounding above the upper end does not
            diverge. 1.01 is the paper's; 1 turns it off.
        norm: What singular values are a part of: "frobenius", the paper's, or "schatten4", (sum of sigma^4)^(1/4),
            which is nearer to the greatest of them and known from M at no product. Division by it lifts all singular
            values, n equal ones by n^(1/4); on momenta of training runs it is worth half a step. Roots do not change.
        deflation: The share of the singular values, the largest, that are shrunk to the size of the next before the
            first step, by a sketch (`matfn.run.preparation`); 0 is none, 1/2 the most. A gradient has few large ones: a
            sixteenth saves more than a step, for less than a product. `lower` and the errors of the schedule are those
            after it; fewer than 1/deflation rows are left alone. For `orthogonalize` and the optimizers, not the roots.

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
        """Refuse nonsense, and settle the number of steps."""
        degrees = check_degrees(self.degree)
        settled = (len(degrees) if isinstance(self.degree, tuple) else 5) if self.steps is None else self.steps
        check_steps(settled)
        if isinstance(self.degree, tuple) and settled != len(degrees):
            raise ValueError(f"degree={self.degree} lists {len(degrees)} steps, but steps={self.steps}: leave out one")
        if isinstance(self.lower, bool) or not isinstance(self.lower, Real) or not 0 < float(self.lower) < 1:
            raise ValueError(
                f"lower must be a number in (0, 1), got {self.lower!r}: it bounds s from below, 1 from above"
            )
        if self.cushion is not None:
            check_number("cushion", self.cushion, 0, 1, "it is the least ratio lower/upper a step is designed for")
        check_number("safety", self.safety, 1, 2, "the argument is divided by it; 1.01 guards bfloat16, 1 is none")
        Preparation(self.norm, self.deflation)
        object.__setattr__(self, "steps", settled)

    def schedule(self, p: int = 2) -> Schedule:
        """All steps for exponent p."""
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
