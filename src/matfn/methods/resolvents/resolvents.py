"""Resolvents: inverse roots as a short sum of (A + t I)^-1, each by a Cholesky factor made of matrix products."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ...iteration.target import Target
from ...kernels import EAGER, Products
from ...linalg.scaling import prescale
from ...minimax.resolvents import PoleSum, fewest_poles
from .inverse_factor import add_resolvents

__all__ = ["Resolvents", "resolvents"]

ERROR = 1e-2


@dataclass(frozen=True)
class Resolvents:
    r"""A^(-1/p) = c I + d A + sum_j w_j (A + t_j I)^-1, with the fewest terms for a worst relative error.

    x^(-1/p) is an integral of resolvents 1/(x + t) with positive weight, so a sum of few of them, best in the minimax
    sense, converges geometrically: 4 terms for p = 4 and 5 for p = 2 give 1e-2 over condition 1e6 (8e-3 and 4e-3
    reached); each further one divides the error by 3. The weights are positive, nothing cancels, and no error of a
    term reaches another: rounding in float32 adds about what it adds to an eigendecomposition in float32, or less.

    A term costs 0.85 n^3 to 1.2 n^3 multiply-adds (`inverse_factor`), where the coupled minimax iteration takes 34 n^3
    for p = 4 in quintic steps, and an eigendecomposition in float32 the time of 19 products at 256 rows, 8 at 1024.

    Attributes:
        p: Of A^(-1/p), at least 1.
        lower: Lower bound of s = m^(1/p) after division by the Frobenius norm, in (0, 1), as `PolarExpress` has it.
        error: The worst relative error of an eigenvalue of the root, 1e-3 at least. The default is below what
            surrounds a root in training: float32 rounding of A moves an eigenvalue at ridge 1e-6 by 6e-8 / 1e-6, its
            fourth root by 1.5e-2; roots that are ten steps old at beta2 = 0.99 are off by 2e-2.

        products: The products for large blocks; None is torch's own. A run plan fills in those of the machine.

    Raises:
        ValueError: A field is out of range.

    References:
        Stahl, "Best uniform rational approximation of x^alpha on [0, 1]", Acta Math. 190 (2003).
        Hale, Higham, Trefethen, "Computing A^alpha, log(A), and related matrix functions by contour integrals",
        SIAM J. Numer. Anal. 46 (2008).
    """

    p: int
    lower: float
    error: float = ERROR
    products: Products | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what has no terms."""
        self.terms()

    def terms(self) -> PoleSum:
        """The scalar function that is evaluated; `error` of it is the one reached."""
        return fewest_poles(self.p, self.lower**self.p, self.error)

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """The inverse root of each matrix (b, n, n).

        NaN where A + t I is not positive definite in working precision, and for a zero matrix.

        Raises:
            ValueError: Another function than the inverse p-th root.
        """
        if target.homogeneity != -1 / self.p:
            raise ValueError(f"{self!r} computes A^(-1/{self.p}) alone, not {target}: Exact() computes any function")
        A, scale = prescale(A)
        terms = self.terms()
        root = terms.slope * A
        singular = A.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) <= 0  # of the zero matrix the sum is finite
        root.diagonal(dim1=-2, dim2=-1).add_(terms.constant).masked_fill_(singular, torch.nan)
        add_resolvents(
            root,
            A,
            *(torch.tensor(t, dtype=A.dtype, device=A.device) for t in (terms.weights, terms.shifts)),
            EAGER if self.products is None else self.products,
        )
        # As `scale.undo`, in place: a fresh stack of matrices is slower to touch than to compute with.
        return root.mul_(scale.norm ** (-1 / self.p) * scale.peak ** (-1 / self.p))


@lru_cache(maxsize=64)
def resolvents(p: int, lower: float) -> Resolvents:
    """`Resolvents` for a bound that a ridge gives; a value for ``Shampoo(method=...)``.

    Raises:
        ValueError: The bound is no number in (0, 1), as it is without a ridge.
    """
    return Resolvents(p, lower)
