"""PRISM: Newton-Schulz with the highest coefficient fitted to the matrix at each step."""

from dataclasses import dataclass

from ...errors import shown
from ...iteration.residual import Residual
from ...iteration.step import Polynomial
from ..checks import MOST_STEPS, check_count, check_degree, check_interval, check_sketch
from .family import Family, family
from .fit import blocks, least, moments, sketched

__all__ = ["Prism"]


@dataclass(frozen=True)
class Prism:
    """q = f(R) + a R^d, with f the Taylor polynomial of (1 - xi)^(-1/p) of degree d - 1 and a fitted at every step.

    The fit chooses, for each matrix, the a in an interval that minimises ||S h(R; a)||_F, with a sketch S and the next
    residual h = 1 - (1 - xi) q^p. It needs no bound of the spectrum. p = 2 gives the paper's iterations for the polar
    factor, the sign and the pair of square roots, p = 1 with degree 5 Chebyshev's iteration for the inverse, other p
    coupled Newton iterations for p-th roots. The fit is in float32 for half-precision iterates.

    The paper's Theorem 1 (||R_k|| <= ||R_0||^(2^(k-2)) for the sign of A with A^2 symmetric, d = 1) needs one more
    hypothesis, A^2 positive semidefinite: for A = [[0, -1], [1, 0]], ||R_k|| is 2, 5, 50, 33125.

    Attributes:
        degree: Odd, at least 3; d = (degree - 1)/2. None takes the paper's degree: 5 for p = 1 and 2, 3 for larger p.
        steps: At least 1; 5 as in the paper's Shampoo. A small s grows by up to 2.95 a step (d = 2, p = 2).
        sketch: Columns of the sketch, or "exact" for the Frobenius norm itself, which costs d p + 1 full products. 8
            columns cost 1 % of a step at n = 1024; 1 column costs at most one step more.
        interval: Interval of a. None takes [Taylor coefficient, u], for which the iteration converges: u = 1 and 29/20
            for p = 2 (d = 1, 2), 2/p for d = 1, 2 for p = 1, d = 2.
        warm: Number of first steps that take a = u without a fit; for most spectra the fit gives u there.
        draw: "fresh" for a new sketch at each step, "fixed" for the same sketch at all steps.

    References:
        Yang, Wang, Balabanov, Erichson, Mahoney, "PRISM", arXiv 2601.22137: Sections 3 and 4.2, Table 1.
    """

    degree: int | None = None
    steps: int = 5
    sketch: int | str = 8
    interval: tuple[float, float] | None = None
    warm: int = 0
    draw: str = "fresh"

    def __post_init__(self) -> None:
        if self.degree is not None:
            check_degree(self.degree)
        check_count("steps", self.steps, 1, MOST_STEPS)
        check_sketch(self.sketch)
        if not isinstance(self.draw, str) or self.draw not in ("fresh", "fixed"):
            raise ValueError(
                f'draw must be "fresh" (one sketch per step) or "fixed" (one for all), got {shown(self.draw)}'
            )
        check_count("warm", self.warm, 0, MOST_STEPS)
        if self.interval is not None:
            check_interval("interval", self.interval, 1e3)

    @property
    def invariant(self) -> bool:
        """Tell whether the steps depend on the eigenvalues of M alone, as in an exact fit, not on its eigenvectors."""
        return self.sketch == "exact"

    def step(self, k: int, residual: Residual) -> Polynomial:
        """Return the polynomial of step k; fitted coefficients have the shape (b, 1, 1)."""
        of = self.family(residual.p)
        low, high = of.interval if self.interval is None else self.interval
        if k < self.warm:
            return Polynomial(tuple(c + high * x for c, x in zip(of.fixed, of.free, strict=True)))
        W = sketched(residual, self.sketch, 0 if self.draw == "fixed" else k)
        a = least(moments(blocks(residual.product, W, of)), low, high)[:, None, None]
        return Polynomial(tuple(c + a * x for c, x in zip(of.fixed, of.free, strict=True)))

    def family(self, p: int) -> Family:
        """Return the family of steps for exponent p."""
        degree = self.degree or (5 if p <= 2 else 3)
        return family(p, (degree - 1) // 2)
