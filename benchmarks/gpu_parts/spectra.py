"""Stacks of known spectrum on the device, and the errors of a result on them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Row

__all__ = ["POWER", "errors", "largest", "spread_out"]

POWER = 0.75  # singular values i^-0.75, as in momenta of language models


def spread_out(shape: tuple[int, int, int], device: str, sigma: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Matrices (b, m, n) in float32 with random singular vectors, and their singular values, i^-0.75 by default.

    All matrices of a stack are the same one: time does not depend on values, and one decomposition makes them.
    """
    b, m, n = shape
    generator = torch.Generator(device=device).manual_seed(0)
    if sigma is None:
        sigma = torch.arange(1, min(m, n) + 1, device=device) ** -POWER
    left, right = (torch.randn(side, len(sigma), generator=generator, device=device) for side in (m, n))
    X = (torch.linalg.qr(left).Q * sigma) @ torch.linalg.qr(right).Q.mT
    return X.expand(b, m, n).contiguous(), sigma


def _values(U: Tensor) -> Tensor:
    """Singular values of one matrix; from 1024 rows on by products in float32, whose 1e-6 is enough here."""
    one = U.double() if min(U.shape) <= 1024 else U.float()
    one = one if one.shape[0] <= one.shape[1] else one.mT
    return torch.linalg.eigvalsh(one @ one.mT).clamp(min=0).sqrt()


def errors(U: Tensor, X: Tensor, sigma: Tensor) -> Row:
    """Of the first matrix: rms(1 - sigma), the largest singular value, and the direction <U, X> / ||X||_*."""
    if not bool(torch.isfinite(U[0]).all()):
        return {"rms": float("nan"), "largest": float("nan"), "direction": float("nan")}
    values = _values(U[0])
    direction = (U[0].double() * X[0].double()).sum() / sigma.double().sum()
    return {
        "rms": (1 - values).square().mean().sqrt().item(), "largest": values.max().item(),
        "direction": direction.item(),
    }  # fmt: skip


def largest(U: Tensor) -> float:
    """The largest singular value of the first matrix."""
    return _values(U[0]).max().item() if bool(torch.isfinite(U[0]).all()) else float("nan")
