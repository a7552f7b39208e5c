"""Resolvents: inverse roots as a short sum of (A + t I)^-1, by Cholesky factors computed with matrix products."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ...iteration.target import Target
from ...kernels import EAGER, Products
from ...linalg.norms import prescale
from ...minimax.resolvents import PoleSum, fewest_poles
from ..checks import check_exponent, check_number
from .inverse_factor import add_resolvents

__all__ = ["Resolvents", "resolvents"]

ERROR = 1e-2


@dataclass(frozen=True)
class Resolvents:
    """A^(-1/p) = c I + d A + sum_j w_j (A + t_j I)^-1, with the fewest terms for a given worst relative error.

    x^(-1/p) is an integral of resolvents 1/(x + t) with a positive weight, so minimax sums of few resolvents converge
    geometrically. For condition 1e6 an error of 1e-2 takes 4 terms for p = 4 and 5 for p = 2; each further term divides
    the error by 3. The weights are positive, so the sum does not cancel: float32 rounding adds no more error than a
    float32 eigendecomposition. A term costs 0.85 n^3 to 1.2 n^3 multiply-adds (`inverse_factor`);
    docs/results/bench-roots.md compares the times.

    Attributes:
        p: Exponent of A^(-1/p), at least 1.
        lower: Lower bound of s = m^(1/p) after division by the Frobenius norm, in (0, 1), as in `PolarExpress`.
        error: Worst relative error of an eigenvalue of the root, at least 1e-3. The default 1e-2 is below other errors
            in training: with ridge 1e-6, float32 rounding of A changes the fourth root of an eigenvalue by up to
            1.5e-2, and roots that are ten steps old at beta2 = 0.99 are off by 2e-2.
        products: The products for large blocks; None is torch's own. A run plan fills in those of the machine.

    Raises:
        ValueError: A field is out of range, or the error needs more than 24 terms.

    References:
        Stahl, "Best uniform rational approximation of x^alpha on [0, 1]", Acta Math. 190 (2003).
        Hale, Higham, Trefethen, "Computing A^alpha, log(A), and related matrix functions by contour integrals", SIAM J.
        Numer. Anal. 46 (2008).
    """

    p: int
    lower: float
    error: float = ERROR
    products: Products | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_exponent(self.p)
        check_number("lower", self.lower, 1e-300, 1, "it bounds s = m^(1/p) from below after division by the norm")
        check_number("error", self.error, 1e-3, 1, "the worst relative error of an eigenvalue")
        self.terms()

    def terms(self) -> PoleSum:
        """Return the scalar function; its `error` is the error that it reaches."""
        return fewest_poles(self.p, self.lower**self.p, self.error)

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """Compute the inverse root of each matrix of A, (b, n, n); NaN for zero and if A + t I is not definite."""
        if target.homogeneity != -1 / self.p:
            raise ValueError(f"{self!r} computes A^(-1/{self.p}) alone, not {target}: Exact() computes any function")
        A, scale = prescale(A)
        terms = self.terms()
        root = terms.slope * A
        singular = A.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) <= 0  # the sum would be finite for a zero matrix
        root.diagonal(dim1=-2, dim2=-1).add_(terms.constant).masked_fill_(singular, torch.nan)
        weights, shifts = (torch.tensor(t, dtype=A.dtype, device=A.device) for t in (terms.weights, terms.shifts))
        add_resolvents(root, A, weights, shifts, EAGER if self.products is None else self.products)
        # In place instead of `scale.undo`: allocating a new stack takes longer than the product.
        return root.mul_(scale.norm ** (-1 / self.p) * scale.peak ** (-1 / self.p))


@lru_cache(maxsize=64)
def resolvents(p: int, lower: float) -> Resolvents:
    """Return `Resolvents(p, lower)`, for ``Shampoo(method=resolvents)``; the ridge gives `lower`, in (0, 1)."""
    return Resolvents(p, lower)
