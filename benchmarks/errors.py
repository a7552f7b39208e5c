"""Errors of a polar factor: the distance of its singular values from 1, and its direction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import matfn
from matfn.linalg.lanczos import lanczos
from studies.spectra import SPECTRA

__all__ = ["DENSE", "deviation", "direction", "matrix"]

DENSE = 512  # up to this short side singular values are computed, beyond it their law is estimated
_COLUMNS, _STEPS = 16, 16
_FACTORED = 2048


def deviation(U: Tensor) -> float:
    """rms(1 - sigma) over the singular values of one matrix (m, n).

    Beyond `DENSE` by Gauss quadrature from 16 random vectors of signs: s^T (I - (U U^T)^(1/2))^2 s / n has that mean,
    with a relative standard deviation of at most (2 / 16)^(1/2) where one singular value makes all of it, and a tenth
    of that where fifty and more do.
    """
    U = U.to(torch.float64) if U.shape[-2] <= U.shape[-1] else U.to(torch.float64).mT
    if not bool(torch.isfinite(U).all()):
        return float("nan")
    n = U.shape[-2]
    if n <= DENSE:
        return float((1 - torch.linalg.svdvals(U)).square().mean().sqrt())
    generator = torch.Generator().manual_seed(0)
    S = torch.randint(0, 2, (n, _COLUMNS), generator=generator).to(torch.float64) * 2 - 1
    T = lanczos(lambda V: U @ (U.mT @ V), S[None], _STEPS)[..., :_STEPS, :_STEPS]
    values, vectors = torch.linalg.eigh(T)
    squares = (1 - values.clamp(min=0).sqrt()) ** 2
    return float((vectors[..., 0, :] ** 2 * squares).sum(-1).mean().sqrt())


def direction(X: Tensor, U: Tensor) -> float:
    """<U, X> / ||X||_* of one matrix: 1 for the polar factor."""
    if not bool(torch.isfinite(U).all()):
        return float("nan")
    return float(matfn.certify(X, U, exact=min(X.shape) <= DENSE).direction)


def matrix(spectrum: str, shape: tuple[int, int], dtype: torch.dtype, seed: int = 1) -> Tensor:
    """A matrix of a known spectrum, greatest singular value 1, between random orthonormal factors.

    Args:
        spectrum: A key of `SPECTRA`; "gaussian" is a Gaussian matrix itself.
        shape: (m, n).
        dtype: Rounded to.
        seed: Of everything.
    """
    generator, (m, n) = torch.Generator().manual_seed(seed), shape
    if spectrum == "gaussian":
        return torch.randn(m, n, generator=generator).to(dtype)
    values = torch.from_numpy(np.ascontiguousarray(SPECTRA[spectrum](m, n, seed))).float()
    left, right = (_orthonormal(side, min(shape), generator) for side in shape)
    return ((left * values) @ right.mT).to(dtype)


def _orthonormal(n: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns (n, columns); of a large n those of a cosine transform, rows and signs drawn.

    A decomposition of 8192 rows would take longer than all that is to be measured on them.
    """
    if n <= _FACTORED:
        return torch.linalg.qr(torch.randn(n, columns, generator=generator)).Q
    rows = torch.randperm(n, generator=generator)[:, None]
    turns = torch.arange(columns) * (2 * rows + 1) % (4 * n)  # in integers: float32 would lose digits of many turns
    Q = torch.cos(turns * (torch.pi / (2 * n))).mul_((2 / n) ** 0.5)
    Q[:, 0] *= 0.5**0.5
    signs = torch.randint(0, 2, (n, 1), generator=generator) * 2 - 1
    return Q * signs
