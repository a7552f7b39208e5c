"""Fused: a look at a matrix on an NVIDIA GPU by the kernels of `kernels.triton_look`, with the results of `density`."""

from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...linalg.constant import constant
from .table import chain, rounding_loss

if TYPE_CHECKING:
    from ...kernels.triton_look import Look, Rehearsal

__all__ = ["can_look", "fused_look", "rehearsal"]


def can_look(M: Tensor, columns: int, depth: int) -> bool:
    """Whether the kernels look at M (b, n, n): on an NVIDIA GPU, without derivatives, outside torch.compile."""
    if M.device.type != "cuda" or torch.compiler.is_compiling() or (torch.is_grad_enabled() and M.requires_grad):
        return False
    if torch.version.hip is not None or not _has_triton() or not M.numel():
        return False
    from ...kernels import triton_look as kernel  # late, because triton comes with torch for CUDA alone

    small = M.shape[-1] <= kernel.MOST_ROWS and columns <= kernel.MOST_COLUMNS and depth <= kernel.MOST_STEPS
    return small and M.dtype in kernel.DTYPES


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def fused_look(
    residual: Residual, degrees: tuple[int, ...], columns: int, depth: int, draw: int, power: Tensor | None
) -> "Look":
    """Look at the M of a residual before the step number `draw`.

    Args:
        residual: Has M, exponent and key.
        degrees: The degree of q of each step that is left.
        columns: Number of random vectors.
        depth: Number of Lanczos steps.
        draw: The number of the step. The upper end is measured before step 0.
        power: M^2 for the upper end, before step 0.
    """
    from ...kernels.triton_look import look

    M = residual.M.detach()
    power = None if power is None else power.detach()
    candidates = rehearsal(residual.p, degrees, residual.roundoff, M.device)
    key = residual.key
    return look(M, power, candidates, columns=columns, depth=depth, key=key, draw=draw, measured=draw == 0)


@constant
def rehearsal(p: int, degrees: tuple[int, ...], roundoff: float, device: torch.device) -> "Rehearsal":
    """Return the compositions of `chain` as one table for the kernel."""
    from ...kernels.triton_look import Rehearsal

    steps, k = chain(p, degrees, roundoff, torch.device("cpu")), max(degrees)
    count = len(steps[0])
    padded = -(-count // 32) * 32
    table = torch.zeros(len(steps) * (k + 1) + 1, padded, dtype=torch.float64)
    for t, c in enumerate(steps):
        table[t * (k + 1) : t * (k + 1) + c.shape[1], :count] = c.T
    table[-1, :count] = rounding_loss(p, steps, roundoff) if p > 2 else 0.0
    table[-1, count:] = torch.inf
    return Rehearsal(table.to(device), p, k, len(steps))
