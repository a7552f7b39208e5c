"""Scaled: a row of the table for matrices with any upper end. The table is made for the upper end 1."""

import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...iteration.step import Magnified, Polynomial

__all__ = ["scaled_step"]


def scaled_step(row: Tensor, top: Tensor, residual: Residual, powers: tuple[Tensor, ...], *, first: bool) -> Polynomial:
    """Return the step with the coefficients `row` (b, k + 1) for the upper end 1, on matrices with the upper ends top.

    Both are float64. In float16 the first step magnifies M, because squares of small entries underflow.
    """
    row = row / top[:, None] ** (torch.arange(row.shape[-1], dtype=row.dtype, device=row.device) + 1 / residual.p)
    step = Polynomial(tuple(c[:, None, None] for c in row.to(residual.wide.dtype).unbind(-1)), powers)
    tiny = first and residual.M.dtype == torch.float16
    return Magnified(step.coefficients, upper=top.detach()[:, None, None]) if tiny else step
