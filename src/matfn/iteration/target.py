"""Target: which function is computed - which matrix is driven to I, with which exponent, and what is read off."""

from dataclasses import dataclass, replace
from enum import Enum

__all__ = [
    "INV",
    "INV_ROOT",
    "INV_SQRT",
    "POLAR",
    "ROOT",
    "SIGN",
    "SQRT",
    "TARGETS",
    "Domain",
    "Target",
]


class Domain(Enum):
    """The matrices a function is defined for."""

    RECTANGULAR = "any matrix (..., m, n)"
    SQUARE = "square matrices"
    SPD = "symmetric positive definite matrices"


@dataclass(frozen=True)
class Target:
    """One function of a matrix A as the limit of an iteration that drives M to the identity.

    Each step multiplies M <- M q(M)^p and Q <- Q q(M), so Q tends to M_0^(-1/p). With A first divided by a bound c of
    its spectral norm:

    | name     | M_0   | p   | result    | homogeneity h, f(cA) = c^h f(A) |
    |----------|-------|-----|-----------|---------------------------------|
    | polar    | A^T A | 2   | A Q       | 0                               |
    | sign     | A^2   | 2   | A Q       | 0                               |
    | sqrt     | A     | 2   | A Q       | 1/2                             |
    | inv_sqrt | A     | 2   | Q         | -1/2                            |
    | inv_root | A     | any | Q         | -1/p                            |
    | root     | A     | any | A Q^(p-1) | 1/p                             |
    | inv      | A^T A | 1   | Q A^T     | -1                              |

    Attributes:
        name: As in the table.
        p: The exponent, at least 1.
        domain: The matrices it is defined for.
        homogeneity: h, by which the result is scaled back.
    """

    name: str
    p: int
    domain: Domain
    homogeneity: float

    def __str__(self) -> str:
        """The name, with p where the name leaves it open."""
        return f"{self.name} (p = {self.p})" if self.name in ("inv_root", "root") else self.name

    def with_exponent(self, p: int) -> "Target":
        """The same function for another p; only `inv_root` and `root` have one to choose.

        Args:
            p: An integer, at least 1.

        Raises:
            ValueError: If p is not a positive integer.
        """
        if isinstance(p, bool) or not isinstance(p, int) or p < 1:
            raise ValueError(f"p must be a positive integer, got {p!r}: the p-th root of A solves R^p = A")
        return replace(self, p=p, homogeneity=self.homogeneity / p)


POLAR = Target("polar", 2, Domain.RECTANGULAR, 0.0)
SIGN = Target("sign", 2, Domain.SQUARE, 0.0)
SQRT = Target("sqrt", 2, Domain.SPD, 0.5)
INV_SQRT = Target("inv_sqrt", 2, Domain.SPD, -0.5)
INV_ROOT = Target("inv_root", 1, Domain.SPD, -1.0)
ROOT = Target("root", 1, Domain.SPD, 1.0)
INV = Target("inv", 1, Domain.SQUARE, -1.0)

TARGETS = (POLAR, SIGN, SQRT, INV_SQRT, INV_ROOT, ROOT, INV)
