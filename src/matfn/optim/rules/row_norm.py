"""RowNorm: NorMuon's rule. Rows get equal size over many steps, and the matrix keeps its norm."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..matrices.buckets import Kind, Run
from .rule import Rule

__all__ = ["RowNorm"]

ROWS = "row_moment"


class RowNorm(Rule):
    """v <- beta2 v + (1 - beta2) row means of U * U; V = U / (sqrt(v) + eps) row by row; V ||U||_F / ||V||_F.

    Options: beta2 and eps.
    """

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """v, one number for each row."""
        return {ROWS: "row"}

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The formula for each matrix U, in place."""
        squares = (stack * stack).mean(-1)
        factor = torch.empty_like(squares)
        for run in runs:
            v = run[ROWS]
            v.lerp_(squares[run.where], 1 - float(run.options["beta2"]))
            run[ROWS] = v
            # Rows that were always zero stay zero, even for eps = 0.
            factor[run.where] = torch.where(v > 0, 1 / (v.sqrt() + float(run.options["eps"])), 0.0)
        evened = (squares * factor**2).sum(-1, keepdim=True)
        factor *= torch.where(evened > 0, squares.sum(-1, keepdim=True) / evened, 0.0).sqrt()
        return stack.mul_(factor.unsqueeze(-1))
