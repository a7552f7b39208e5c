"""Newton-Schulz: the Taylor polynomial of m^(-1/p) about 1 at every step."""

from dataclasses import dataclass
from functools import lru_cache

from ..iteration.schedule import Schedule
from ..iteration.step import Polynomial
from .checks import MOST_STEPS, check_count, check_degree, check_exponent

__all__ = ["NewtonSchulz"]


@dataclass(frozen=True)
class NewtonSchulz:
    """q(m) = sum_{j <= k} binom(-1/p, j) (m - 1)^j, the same at every step.

    Needs no bound and converges from every spectrum in (0, 1], but slowly from small values: a small s grows by the
    factor q(0) a step (15/8 for the quintic). p = 2 is Newton-Schulz, p = 1 the iteration of Newton (degree 3) or
    Chebyshev (degree 5) for the inverse, other p coupled Newton.

    Attributes:
        degree: Odd, at least 3; q has degree (degree - 1)/2. Muon uses 5.
        steps: At least 1. Muon uses 5; an accurate result needs ln(1/s_min) / ln q(0) + 4 steps.
    """

    degree: int = 5
    steps: int = 5

    def __post_init__(self) -> None:
        check_degree(self.degree)
        check_count("steps", self.steps, 1, MOST_STEPS)

    def schedule(self, p: int = 2) -> Schedule:
        """Return all steps for exponent p."""
        check_exponent(p)
        return _schedule(self, p)


@lru_cache(maxsize=256)
def _schedule(method: NewtonSchulz, p: int) -> Schedule:
    from ..minimax.remez import taylor  # late: imports mpmath, a fifth of the time of `import matfn`

    row = Polynomial(tuple(float(c) for c in taylor(p, (method.degree - 1) // 2)))
    # The method has no lower bound; reports use 1e-3, the default of Polar Express.
    return Schedule((row,) * method.steps, p, 1e-3, f"Taylor polynomial of m^(-1/{p}) of degree {method.degree}")
