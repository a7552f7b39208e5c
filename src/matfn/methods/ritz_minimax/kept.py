"""Kept: the steps of one look, kept for later matrices whose spectrum is nearly the same.

The momentum of an optimizer moves slowly, and the steps depend on it through ratios of its spectrum alone. The upper
end is measured on each matrix, from norms of the M and M^2 that the first step computes in any case. So kept steps are
safe for every matrix: the first one maps [0, upper end] into [0, 1], and each later one [0, 1] into [0, 1]. Only the
lower end is old, and a wrong lower end costs speed only.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...iteration.step import Polynomial
from ...linalg.bounds import greatest_eigenvalue
from .fused import kept_step
from .scaled import scaled_step
from .table import composition

if TYPE_CHECKING:
    from .ritz_minimax import RitzMinimax

__all__ = ["Kept", "Looking", "due"]

_USUAL = 1e-3  # the lower end of matrices without a look, as in `PolarExpress`


def due(step: int, every: int) -> bool:
    """Whether a step, counted from 1, looks: 1, 1 + every, ... do, and 2, 4, 8, ... below `every`."""
    return (step - 1) % every == 0 or (step < every and step & (step - 1) == 0)


class Looking:
    """The method, which looks before each step and writes what it chose.

    Args:
        method: Chooses the steps.
        rows: (b, steps, k + 1), to be written; k is the greatest degree of q.
    """

    def __init__(self, method: "RitzMinimax", rows: Tensor) -> None:
        self.method, self.rows = method, rows

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.rows.shape[1]

    def step(self, k: int, residual: Residual) -> Polynomial:
        """See `Iteration.step`."""
        step, row = self.method.looked(k, residual)
        self.rows[:, k, : row.shape[1]] = row
        return step


class Kept:
    """The steps that `Looking` wrote.

    Args:
        method: The method that chose them.
        rows: (b, steps, k + 1). Matrices without a look have zeros. Their steps are those for the lower end 1e-3.
        roundoff: The unit roundoff of the iteration.
    """

    def __init__(self, method: "RitzMinimax", rows: Tensor, roundoff: float) -> None:
        usual = composition(2, method.degrees, roundoff, _USUAL, rows.device).to(rows.dtype)
        self.method, self.rows = method, torch.where(rows[:, :1, :1] == 0, usual, rows)

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.rows.shape[1]

    def step(self, k: int, residual: Residual) -> Polynomial:
        """See `Iteration.step`."""
        rows = self.rows[:, k, : self.method.degrees[k] + 1]
        fused = kept_step(residual, rows, self.method.sketch, self.method.krylov, k)
        return self._by_torch(k, residual, rows) if fused is None else fused

    def _by_torch(self, k: int, residual: Residual, rows: Tensor) -> Polynomial:
        if k:
            return Polynomial(tuple(c[:, None, None] for c in rows.to(residual.wide.dtype).unbind(-1)))
        M, rows = residual.M, rows.double()
        tiny = M.dtype == torch.float16
        powers = (residual.square,) if rows.shape[1] > 2 and not tiny else ()
        top = greatest_eigenvalue(M, *powers).double()
        top = torch.where(top > 0, top, 1.0)
        return scaled_step(rows, top, residual, powers, first=True)
