"""RitzMinimax: at each step the minimax polynomial for the spectrum that Lanczos steps estimate."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...iteration.residual import Form, Residual
from ...iteration.step import Magnified, Polynomial
from ...linalg.bounds import greatest_eigenvalue
from ..checks import MOST_COLUMNS, MOST_STEPS, check_count, check_degrees, check_number
from .density import Density, check_symmetric, density
from .fused import can_look, fused_step
from .scaled import scaled_step
from .table import best_first_step, best_step, chain, floor, reached

__all__ = ["RitzMinimax"]

_DEGREE = 11  # the largest: a table of 350 polynomials of this degree takes half a minute, once
_MOST = 100  # default steps with `tol`; the iteration ends earlier, when all values above roundoff have converged


@dataclass(frozen=True)
class RitzMinimax:
    """Minimax polynomials as in Polar Express, for an interval measured on the matrix at each step.

    The method needs no bound of the spectrum. The upper end is computed from norms of M and M^2 before the first step
    (`greatest_eigenvalue`), then it is the image of the previous end; it keeps the iteration from diverging. The lower
    end comes from Lanczos steps on random vectors; a wrong lower end costs speed only.

    With a budget (`steps`), the lower end is the one whose composition over all remaining steps has the least mean
    (1 - s)^2 on the estimated spectrum, so the steps ignore values that the budget cannot reach. With an accuracy
    (`tol`), the lower end is the least Ritz value, and the iteration ends when ||I - M||_F <= tol sqrt(n) for every
    matrix of the batch. This test reads from the device once a step and does not compile to one graph.

    Attributes:
        degree: Odd, at least 3, or one degree per step; the last degree is repeated.
        steps: Number of steps, 5 by default; with `tol`, the largest number.
        tol: Root mean square of the eigenvalues of I - M to reach, above the unit roundoff of the iteration. A
            singular matrix never reaches it; the iteration then ends when all values above roundoff have converged.
        sketch: Number of random vectors. More than 2 change the error by less than 1 %.
        krylov: Number of Lanczos steps, each one product of M with these vectors. 3 instead of 6 raise the error by up
            to a quarter, 8 lower it by 1 to 5 %.
        every: For the optimizers: look at every so many steps, and at the steps 2, 4, 8, ... before. Between two looks
            the steps stay, for the upper end that is measured on each matrix. Looks up to four steps old raise the
            error by 0 to 3 %, up to sixteen by up to 6 %.

    References:
        docs/ritz_minimax.md. Amsel et al., "The Polar Express", arXiv 2505.16932, for the polynomials. Golub, Meurant,
        "Matrices, Moments and Quadrature with Applications" (2010), for the spectrum.
    """

    degree: int | tuple[int, ...] = 5
    steps: int | None = None
    tol: float | None = None
    sketch: int = 2
    krylov: int = 6
    every: int = 1

    def __post_init__(self) -> None:
        degrees = check_degrees(self.degree)
        if self.tol is not None:
            check_number("tol", self.tol, 1e-16, 1, "the root mean square of the eigenvalues of I - M to reach")
        if self.steps is None:
            usual = len(degrees) if isinstance(self.degree, tuple) else 5
            object.__setattr__(self, "steps", usual if self.tol is None else _MOST)
        check_count("steps", self.steps, 1, MOST_STEPS)
        check_count("sketch", self.sketch, 1, MOST_COLUMNS)
        check_count("krylov", self.krylov, 2, _MOST)
        check_count("every", self.every, 1, MOST_STEPS)
        if self.every > 1 and self.tol is not None:
            raise ValueError(
                f"RitzMinimax takes every={self.every} with steps=..., got tol={self.tol}: an accuracy is reached by "
                "as many steps as each matrix needs, so there are none to keep"
            )
        if max(degrees) > _DEGREE:
            raise ValueError(
                f"RitzMinimax takes degrees up to {_DEGREE}, got {max(degrees)}: its tables of minimax steps would "
                "take minutes to compute"
            )

    def step(self, k: int, residual: Residual) -> Polynomial | Magnified:
        """Return the polynomial of step k, with coefficients (b, 1, 1): each matrix has its own."""
        self.refuse_every("a single call")
        return self.looked(k, residual)[0]

    def refuse_every(self, caller: str) -> None:
        """Raise ValueError if there is an `every`, which a caller that keeps no steps cannot follow."""
        if self.every > 1:
            raise ValueError(
                f"{caller}: {self!r} keeps its steps from one step of an optimizer to the next, as Muon, NorMuon, "
                f"AdaMuon and PolarGrad allow. {caller} keeps nothing: leave every out"
            )

    def looked(self, k: int, residual: Residual) -> tuple[Polynomial | Magnified, Tensor]:
        """Look at M, and return step k and its coefficients (b, k + 1), in step 0 those for the upper end 1."""
        M = residual.M  # outside no_grad; the density only selects a row of the table and needs no gradient
        if self.tol is None and can_look(M, self.sketch, self.krylov):
            if k == 0 and residual.form is Form.SQUARE:
                check_symmetric(residual.wide, residual.roundoff)
            return fused_step(residual, self.degrees[k:], self.sketch, self.krylov, k)
        with torch.no_grad():
            seen = density(residual, self.sketch, self.krylov, k)
        tiny = k == 0 and M.dtype == torch.float16  # squares of small entries underflow
        powers = (residual.square,) if k == 0 and self._k(0) > 1 and not tiny else ()
        top = greatest_eigenvalue(M, *powers).double() if k == 0 else torch.ones_like(seen.greatest)
        # Rounding may lift a value above the upper end of the step before; the greatest Ritz value shows this.
        top = torch.where(top > 0, top, 1.0).maximum(seen.greatest)  # 1 for a zero matrix and for NaN
        row = (self._to_budget if self.tol is None else self._to_tol)(k, residual, seen, top.detach())
        step = scaled_step(row, top, residual, powers, first=k == 0)
        return step, row if k == 0 else torch.cat([c.flatten(1) for c in step.coefficients if isinstance(c, Tensor)], 1)

    @property
    def degrees(self) -> tuple[int, ...]:
        """The degree of q of each step."""
        assert self.steps is not None
        return tuple(self._k(j) for j in range(self.steps))

    def done(self, k: int, residual: Residual) -> bool:
        """Tell whether to stop before step k. With `tol` this waits for the device."""
        return self.tol is not None and reached(self.tol, k, residual, self._ks)

    def _to_budget(self, k: int, residual: Residual, seen: Density, top: Tensor) -> Tensor:
        p, u = residual.p, residual.roundoff
        steps, nodes = chain(p, self.degrees[k:], u, residual.M.device), (seen.nodes / top[:, None]).clamp(max=1)
        return best_first_step(p, steps, nodes, seen.weights, u)

    def _to_tol(self, k: int, residual: Residual, seen: Density, top: Tensor) -> Tensor:
        ratio = (seen.least / top) ** (1 / residual.p)
        return best_step(residual.p, self._k(k), residual.roundoff, ratio.clamp(min=floor(k, residual, self._ks)))

    @property
    def _ks(self) -> tuple[int, ...]:
        return tuple((degree - 1) // 2 for degree in check_degrees(self.degree))

    def _k(self, j: int) -> int:
        return self._ks[min(j, len(self._ks) - 1)]
