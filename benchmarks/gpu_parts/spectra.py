"""Stacks of known spectrum on the device, and the errors of a result on them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Row
from matfn.linalg.lanczos import lanczos

__all__ = ["POWER", "errors", "spread_out"]

_EXACT, _COLUMNS, _STEPS = 2048, 16, 16
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


def _law(U: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of one matrix, and the weight of each.

    From 1024 rows on by products in float32, whose 1e-6 is enough here. Above 2048 rows, where a decomposition takes a
    second, by Gauss quadrature from 16 random vectors of signs, the same for every matrix: some percent of an rms.
    """
    one = U.double() if min(U.shape) <= 1024 else U.float()
    one = one if one.shape[0] <= one.shape[1] else one.mT
    n = one.shape[0]
    if n <= _EXACT:
        values = torch.linalg.eigvalsh(one @ one.mT)
        return values.clamp(min=0).sqrt(), torch.full_like(values, 1 / n)
    signs = torch.randint(0, 2, (n, _COLUMNS), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    T = lanczos(lambda V: one @ (one.mT @ V), signs.to(one)[None], _STEPS)[..., :_STEPS, :_STEPS]
    values, vectors = torch.linalg.eigh(T.double())
    return values.clamp(min=0).sqrt().flatten(), vectors[..., 0, :].square().flatten() / _COLUMNS


def errors(U: Tensor, X: Tensor, sigma: Tensor) -> Row:
    """Of the first matrix: rms(1 - sigma), the largest singular value, and the direction <U, X> / ||X||_*."""
    if not bool(torch.isfinite(U[0]).all()):
        return {"rms": float("nan"), "largest": float("nan"), "direction": float("nan")}
    values, weights = _law(U[0])
    direction = (U[0].double() * X[0].double()).sum() / sigma.double().sum()
    return {
        "rms": (weights * (1 - values).square()).sum().sqrt().item(), "largest": values.max().item(),
        "direction": direction.item(),
    }  # fmt: skip
