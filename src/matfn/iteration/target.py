"""Target: one matrix function as the limit of an iteration."""

from dataclasses import dataclass, field, replace
from enum import Enum

from torch import Tensor

from ..errors import shown
from .residual import Form

__all__ = ["INV", "INV_ROOT", "INV_SQRT", "ORTHOGONALIZE", "POLAR", "ROOT", "SIGN", "SQRT", "TARGETS"]
__all__ += ["MOST_EXPONENT", "Domain", "Target", "is_exponent"]

MOST_EXPONENT = 256  # the p-th root of a matrix of condition 1e16 is then within 15 % of a multiple of I


def is_exponent(p: object) -> bool:
    """Whether p is an integer from 1 to `MOST_EXPONENT`."""
    return isinstance(p, int) and not isinstance(p, bool) and 1 <= p <= MOST_EXPONENT


class Domain(Enum):
    """The matrices for which a function is defined."""

    RECTANGULAR = "any matrix (..., m, n)"
    SQUARE = "square matrices"
    SPD = "symmetric positive definite matrices"


@dataclass(frozen=True)
class Target:
    """One function of a matrix A as the limit of an iteration that drives M to the identity.

    Each step multiplies M <- M q(M)^p and Q <- Q q(M), so Q tends to M_0^(-1/p). A is first divided by a bound c of its
    spectral norm:

    | name     | M_0   | p   | result    | homogeneity h, f(cA) = c^h f(A) |
    |----------|-------|-----|-----------|---------------------------------|
    | polar    | A^T A | 2   | A Q       | 0                               |
    | sign     | A^2   | 2   | A Q       | 0                               |
    | sqrt     | A     | 2   | A Q       | 1/2                             |
    | inv_sqrt | A     | 2   | Q         | -1/2                            |
    | inv_root | A     | any | Q         | -1/p                            |
    | root     | A     | any | A Q^(p-1) | 1/p                             |
    | inv      | A^T A | 1   | Q A^T     | -1                              |

    `Direct` and `Gram` carry polar, sign and inv as one iterate X; `Coupled` carries the others as a pair.

    Attributes:
        name: As in the table.
        p: The exponent, at least 1.
        domain: The matrices for which it is defined.
        homogeneity: The exponent h with which the result is scaled back.
        verb: The public function that computes it; error messages name it.
        form: How M is formed from the iterate.
    """

    name: str
    p: int
    domain: Domain
    homogeneity: float
    verb: str = field(compare=False)
    form: Form = Form.PRODUCT

    def __str__(self) -> str:
        return f"{self.verb} (p = {self.p})" if self.name in ("inv_root", "root") else self.verb

    def with_exponent(self, p: int) -> "Target":
        """Return the same function for another p; only `inv_root` and `root` have a choice of p.

        Raises:
            ValueError: If p is no integer from 1 to `MOST_EXPONENT`.
        """
        if not is_exponent(p):
            raise ValueError(
                f"{self.verb}: p must be a positive integer, got {shown(p)}, and at most {MOST_EXPONENT}: the p-th "
                "root of A solves R^p = A"
            )
        return replace(self, p=p, homogeneity=self.homogeneity / p)

    @property
    def mirrored(self) -> bool:
        """Whether the iteration stays stable when a product mirrors half of a symmetric result.

        Only the polar factor does. The coupled iteration diverges from condition 1e4 on, because Z and Y correct each
        other by the same error that makes Z Y nonsymmetric.
        """
        return self.domain is Domain.RECTANGULAR

    def start(self, A: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the first iterate of `Direct` for the scaled A, and the fixed matrix beside it in `Form.matrix`."""
        return (A.mT, A) if self.name == "inv" else (A, None)

    def result(self, Y: Tensor, Z: Tensor) -> Tensor:
        """Return the result from the coupled pair: Y tends to A^(1/p), Z to A^(-1/p)."""
        return Y if self.homogeneity > 0 else Z


POLAR = Target("polar", 2, Domain.RECTANGULAR, 0.0, "polar", Form.GRAM)
ORTHOGONALIZE = replace(POLAR, verb="orthogonalize")
SIGN = Target("sign", 2, Domain.SQUARE, 0.0, "signm", Form.SQUARE)
SQRT = Target("sqrt", 2, Domain.SPD, 0.5, "sqrtm")
INV_SQRT = Target("inv_sqrt", 2, Domain.SPD, -0.5, "inv_sqrtm")
INV_ROOT = Target("inv_root", 1, Domain.SPD, -1.0, "inv_rootm")
ROOT = Target("root", 1, Domain.SPD, 1.0, "rootm")
INV = Target("inv", 1, Domain.SQUARE, -1.0, "inv")

TARGETS = (POLAR, SIGN, SQRT, INV_SQRT, INV_ROOT, ROOT, INV)
