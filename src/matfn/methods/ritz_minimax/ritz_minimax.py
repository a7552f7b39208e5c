"""RitzMinimax: at each step the minimax polynomial for the spectrum that a few Lanczos steps show."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...iteration.polynomial import Magnified, Polynomial
from ...iteration.residual import Residual
from ...linalg.bounds import greatest_eigenvalue
from ..checks import check_count, check_degrees, check_number, check_steps
from .density import Density, density
from .rehearsal import best_first_step, best_step, chain
from .tolerance import floor, reached

__all__ = ["RitzMinimax"]

_MOST = 100  # steps to an accuracy; they end long before, when every value above the roundoff must have converged


@dataclass(frozen=True)
class RitzMinimax:
    """Minimax polynomials, as in Polar Express, for an interval measured on the matrix at each step.

    No bound of the spectrum is asked for. The upper end is a norm of M and M^2 before the first step
    (`greatest_eigenvalue`) and the image of that end afterwards; it keeps the iteration from diverging. The lower end
    comes from Lanczos steps on random vectors; a wrong one costs speed alone.

    To a budget (`steps`), the lower end is the one whose composition over all remaining steps leaves the least mean
    (1 - s)^2 on the estimated spectrum: nothing is spent on values that the budget does not reach. To an accuracy
    (`tol`), it is the smallest Ritz value, and the iteration ends when ||I - M||_F <= tol sqrt(n) for every matrix of
    the batch, which is read from the device once a step and does not compile to one graph.

    Attributes:
        degree: Odd, at least 3, or one degree per step, the last of which is repeated.
        steps: The budget, 5 by default; with `tol`, the most steps to take.
        tol: The root mean square of the eigenvalues of I - M to reach, above the unit roundoff of the iteration. A
            singular matrix never reaches it: then the steps end when all else must have.
        sketch: Random vectors. More than 2 change the error by less than 1 %.
        krylov: Lanczos steps, each one product of M with those vectors. 3 instead of 6 add up to a quarter to the
            error, 8 take off 1 to 5 %.

    References:
        docs/ritz_minimax.md. Amsel et al., "The Polar Express", arXiv 2505.16932, for the polynomials. Golub, Meurant,
        "Matrices, Moments and Quadrature with Applications" (2010), for the spectrum.
    """

    degree: int | tuple[int, ...] = 5
    steps: int | None = None
    tol: float | None = None
    sketch: int = 2
    krylov: int = 6

    def __post_init__(self) -> None:
        """Refuse what makes no iteration, and settle the number of steps."""
        degrees = check_degrees(self.degree)
        if self.tol is not None:
            check_number("tol", self.tol, 1e-16, 1, "the root mean square of the eigenvalues of I - M to reach")
        if self.steps is None:
            usual = len(degrees) if isinstance(self.degree, tuple) else 5
            object.__setattr__(self, "steps", usual if self.tol is None else _MOST)
        check_steps(self.steps)
        check_count("sketch", self.sketch, 1)
        check_count("krylov", self.krylov, 2)

    def step(self, k: int, residual: Residual) -> Polynomial | Magnified:
        """The polynomial, its coefficients of shape (b, 1, 1): each matrix of a batch gets its own."""
        M = residual.M  # before gradients are switched off: what is seen only picks a row of a table
        with torch.no_grad():
            seen = density(residual, self.sketch, self.krylov, k)
        tiny = k == 0 and M.dtype == torch.float16  # squares of small entries are zero; else M^2 sharpens the bound
        powers = (residual.square,) if k == 0 and self._k(0) > 1 and not tiny else ()
        top = greatest_eigenvalue(M, *powers).double() if k == 0 else torch.ones_like(seen.greatest)
        # Where rounding has pushed a value above the end that the step before was made for, the Ritz values show it.
        top = torch.where(top > 0, top, 1.0).maximum(seen.greatest)  # 1 for a zero matrix and for NaN
        row = (self._to_budget if self.tol is None else self._to_tol)(k, residual, seen, top.detach())
        row = row / top[:, None] ** (torch.arange(row.shape[-1], dtype=row.dtype, device=row.device) + 1 / residual.p)
        step = Polynomial(tuple(c[:, None, None] for c in row.to(residual.wide.dtype).unbind(-1)), powers)
        return Magnified(step, top.detach()[:, None, None]) if tiny else step

    def done(self, k: int, residual: Residual) -> bool:
        """Whether the matrices need no step k. With `tol` it waits for the device."""
        return self.tol is not None and reached(self.tol, k, residual, self._ks)

    def _to_budget(self, k: int, residual: Residual, seen: Density, top: Tensor) -> Tensor:
        assert self.steps is not None
        p, u, degrees = residual.p, residual.roundoff, tuple(self._k(j) for j in range(k, self.steps))
        steps, nodes = chain(p, degrees, u, residual.M.device), (seen.nodes / top[:, None]).clamp(max=1)
        return best_first_step(p, steps, nodes, seen.weights, u)

    def _to_tol(self, k: int, residual: Residual, seen: Density, top: Tensor) -> Tensor:
        ratio = (seen.least / top) ** (1 / residual.p)
        return best_step(residual.p, self._k(k), residual.roundoff, ratio.clamp(min=floor(k, residual, self._ks)))

    @property
    def _ks(self) -> tuple[int, ...]:
        return tuple((degree - 1) // 2 for degree in check_degrees(self.degree))

    def _k(self, j: int) -> int:
        return self._ks[min(j, len(self._ks) - 1)]
