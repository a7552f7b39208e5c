"""Rules that divide rows (RowNorm, for NorMuon) or entries (ElementNorm, for AdaMuon) by their size over many steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..matrices.buckets import Kind, Run, number
from ..matrices.dials import Dial
from .rule import Rule

__all__ = ["ElementNorm", "RowNorm", "Sign"]

ROWS = "row_moment"
SQUARES = "exp_avg_sq"


class RowNorm(Rule):
    """v <- beta2 v + (1 - beta2) row means of U * U; V = U / (sqrt(v) + eps) row by row; V ||U||_F / ||V||_F.

    Options: beta2 and eps.
    """

    reads = ("beta2", "eps")
    dials = ("beta2",)

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """v, one number for each row."""
        return {ROWS: "row"}

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The formula for each matrix U, in place."""
        squares = (stack * stack).mean(-1)
        factor = torch.empty_like(squares)
        for run in runs:
            v = run[ROWS]
            v.lerp_(squares[run.where], _share(run, v))
            run[ROWS] = v
            # Rows that were always zero stay zero, even for eps = 0.
            factor[run.where] = torch.where(v > 0, (v.sqrt() + float(run.options["eps"])).reciprocal_(), 0.0)
        evened = (squares * factor**2).sum(-1, keepdim=True)
        factor *= torch.where(evened > 0, squares.sum(-1, keepdim=True) / evened, 0.0).sqrt()
        return stack.mul_(factor.unsqueeze(-1))


class Sign(Rule):
    """The sign of each entry."""

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The signs, in place. NaN stays, and infinity becomes NaN: its sign would hide it for ever."""
        lost = ~stack.isfinite()
        return stack.sign_().masked_fill_(lost, torch.nan)


class ElementNorm(Rule):
    """V <- beta2 V + (1 - beta2) U * U; D = U / (sqrt(V) + eps); sqrt(min(m, n)) D / ||D||_F.

    The result has the norm of an exact polar factor. Options: beta2 and eps.
    """

    reads = ("beta2", "eps")
    dials = ("beta2",)

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """V, one number for each entry."""
        return {SQUARES: "element"}

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """The formula for each matrix U, in place."""
        for run in runs:
            U, V = stack[run.where], run[SQUARES]
            V.lerp_(U * U, _share(run, V))
            run[SQUARES] = V
            # Entries that were always zero stay zero, even for eps = 0. NaN is not zero, so it reaches the weights.
            U.mul_(torch.where(V == 0, 0.0, V.sqrt_().add_(float(run.options["eps"])).reciprocal_()))
        norms = torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True)
        return stack.mul_(torch.where(norms == 0, 0.0, min(stack.shape[-2:]) ** 0.5 / norms))


def _share(run: Run, state: Tensor) -> float | Tensor:
    """1 - beta2, by which the state takes in new squares."""
    share = 1 - number(run.options["beta2"])
    return share.tensor(state.dtype) if isinstance(share, Dial) else share
