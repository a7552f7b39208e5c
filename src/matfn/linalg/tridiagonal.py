"""Tridiagonal: eigenvalues and first eigenvector components of many small symmetric tridiagonal matrices."""

import torch
from torch import Tensor

__all__ = ["eigen"]

_POINTS = 256  # trial points a round: each round gives 8 bits of every eigenvalue
_ROUNDS = 6  # the first round finds the exponent, down to 2^-256 of the largest eigenvalue; the next five give 40 bits


def eigen(T: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the nodes and weights of a Gauss rule, both (..., n): ascending eigenvalues, squared first components.

    On a CPU this is LAPACK's eigh. On other devices eigh waits until the host has read an error flag. There `eigen`
    uses sectioning and a twisted factorization, a fixed sequence of elementwise operations, for positive semidefinite
    T: negative eigenvalues come out as about 0, and eigenvalues of weight 0 as arbitrary numbers. T (..., n, n) is
    symmetric, tridiagonal and finite, float64.
    """
    if T.device.type == "cpu":
        values, vectors = torch.linalg.eigh(T)
        return values, vectors[..., 0, :] ** 2
    T = _apart(T)
    values = sectioned(T)
    return values, first_components(T, values)


def _apart(T: Tensor) -> Tensor:
    """Move the blocks that are decoupled from the first one above the spectrum, so that no eigenvalue is shared."""
    a, b = T.diagonal(dim1=-2, dim2=-1), T.diagonal(1, -2, -1)
    coupled = torch.cat([torch.ones_like(b[..., :1]), b != 0], -1).cumprod(-1)
    above = 4 * T.abs().amax((-2, -1))[..., None]
    return T + torch.diag_embed(torch.where(coupled == 0, above - a, 0.0))


def sectioned(T: Tensor) -> Tensor:
    """Find the eigenvalues by Sturm counts: each round locates every eigenvalue between two of 256 trial points."""
    a, b2, tiny = _parts(T)
    n = a.shape[-1]
    off = b2.sqrt()
    pad = torch.zeros_like(a[..., :1])
    top = (a.abs() + torch.cat([pad, off], -1) + torch.cat([off, pad], -1)).amax(-1) + tiny.squeeze(-1)
    steps = torch.linspace(0, 1, _POINTS, dtype=T.dtype, device=T.device)
    order = torch.arange(n, dtype=torch.int64, device=T.device)
    edges = (top[..., None, None] * torch.exp2(_POINTS * (steps - 1))).expand(*a.shape, _POINTS)
    low = high = torch.zeros_like(a)
    for _ in range(_ROUNDS):
        below = _pivots(a, b2, edges, tiny).lt(0).sum(0)
        place = (below <= order[:, None]).sum(-1, keepdim=True)  # number of points at or below the eigenvalue
        low = torch.where(place > 0, edges.gather(-1, (place - 1).clamp(min=0)), 0.0)
        high = edges.gather(-1, place.clamp(max=_POINTS - 1))
        edges = low + (high - low) * steps
    return (low + high).squeeze(-1) / 2


def first_components(T: Tensor, values: Tensor) -> Tensor:
    """Compute the squared first components of the unit eigenvectors by the twisted factorization of smallest pivot.

    References:
        Parlett, Dhillon, "Fernando's solution to Wilkinson's problem", Linear Algebra Appl. 267 (1997).
    """
    a, b2, tiny = _parts(T)
    n = a.shape[-1]
    down = _pivots(a, b2, values, tiny)
    up = _pivots(a.flip(-1), b2.flip(-1), values, tiny).flip(0)
    shifted = (a[..., None] - values[..., None, :]).movedim(-2, 0)
    twist = (down + up - shifted).abs().argmin(0, keepdim=True)
    place = torch.arange(n, device=T.device).reshape(n, *(1,) * values.ndim)
    squares = b2.movedim(-1, 0).unsqueeze(-1)
    # v_{j-1} / v_j = -b_j / down_{j-1} above the twist, v_{j+1} / v_j = -b_j / up_{j+1} below; only squares are needed.
    lower = torch.cat([torch.ones_like(up[:1]), squares / up[1:] ** 2])
    upper = torch.cat([squares / down[:-1] ** 2, torch.ones_like(down[:1])])
    below = torch.where(place > twist, lower, 1.0).cumprod(0)
    above = torch.where(place < twist, upper, 1.0).flip(0).cumprod(0).flip(0)
    v2 = below * above
    return v2[0] / v2.sum(0)


def _parts(T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the diagonal (..., n), the squared off-diagonal (..., n - 1) and a number far below rounding, (..., 1)."""
    a, b = T.diagonal(dim1=-2, dim2=-1), T.diagonal(1, -2, -1)
    size = T.abs().amax((-2, -1))[..., None]
    return a, b**2, size * 1e-60 + 1e-150  # its square must not underflow


def _pivots(a: Tensor, b2: Tensor, x: Tensor, tiny: Tensor) -> Tensor:
    """Compute the pivots of T - x = L D L^T, (n, ...); the number of negative pivots counts the eigenvalues below x.

    a is the diagonal (..., n), b2 the squared off-diagonal (..., n - 1); x (..., points) may have several axes of
    points; `tiny` (..., 1) replaces a pivot that is exactly zero.
    """
    points = (1,) * (x.ndim - a.ndim + 1)
    entries = [entry.reshape(*entry.shape, *points) for entry in a.unbind(-1)]
    squares = [square.reshape(*square.shape, *points) for square in b2.unbind(-1)]
    least = tiny.reshape(*tiny.shape[:-1], *points)
    pivots = [_nonzero(entries[0] - x, least)]
    for entry, square in zip(entries[1:], squares, strict=True):
        pivots.append(_nonzero(entry - x - square / pivots[-1], least))
    return torch.stack(pivots)


def _nonzero(pivot: Tensor, least: Tensor) -> Tensor:
    return torch.where(pivot.abs() < least, -least, pivot)
