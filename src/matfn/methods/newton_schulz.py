"""Newton-Schulz: the Taylor polynomial of m^(-1/p) about 1 at every step."""

from dataclasses import dataclass
from functools import lru_cache

from ..iteration.polynomial import Polynomial
from ..iteration.schedule import Schedule
from .checks import check_degree, check_exponent, check_steps

__all__ = ["NewtonSchulz"]


@dataclass(frozen=True)
class NewtonSchulz:
    """q(m) = sum_{j <= k} binom(-1/p, j) (m - 1)^j, the same at every step.

    Needs no bound and always converges from a spectrum in (0, 1], slowly where it is small: a value s grows only by
    the factor q(0) a step (15/8 for the quintic). p = 2 is Newton-Schulz, p = 1 Newton's (Chebyshev's, ...) iteration
    for the inverse, other p coupled Newton.

    Attributes:
        degree: Odd, at least 3; q has degree (degree - 1)/2. 5, as Muon uses.
        steps: At least 1. 5, as Muon uses; for an accurate result count ln(1/s_min) / ln q(0) steps and 4 more.
    """

    degree: int = 5
    steps: int = 5

    def __post_init__(self) -> None:
        """Refuse degrees and step counts that make no iteration."""
        check_degree(self.degree)
        check_steps(self.steps)

    def schedule(self, p: int = 2) -> Schedule:
        """All steps for exponent p."""
        check_exponent(p)
        return _schedule(self, p)


@lru_cache(maxsize=256)
def _schedule(method: NewtonSchulz, p: int) -> Schedule:
    from ..minimax import taylor  # here and not above: mpmath, which it computes with, is a fifth of an `import matfn`

    row = Polynomial(tuple(float(c) for c in taylor(p, (method.degree - 1) // 2)))
    # It assumes no bound; errors are reported on the interval that Polar Express assumes by default.
    return Schedule((row,) * method.steps, p, 1e-3, f"Taylor polynomial of m^(-1/{p}) of degree {method.degree}")
