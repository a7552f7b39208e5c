"""Fit: the free coefficient a with the least next residual, from products with a sketch, without host reads."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...iteration.residual import Residual
from .family import Family

__all__ = ["blocks", "least", "least_of_any_size", "moments", "sketched"]

_GRID = 33  # points; the loss has degree 2p, and three Newton steps from the best point reach the minimum
_NEWTON = 3
_SCALES = (1.0, 1e-4, 1e-8, 1e-12)


def sketched(residual: Residual, sketch: int | str, draw: int) -> Tensor:
    """Return S^T with `sketch` columns, or I for "exact"."""
    return residual.identity() if isinstance(sketch, str) else residual.sketch(sketch, draw)


def blocks(product: Callable[[Tensor], Tensor], W: Tensor, family: Family) -> list[Tensor]:
    """Compute C_j = c_j(R) W, j = 0 .. p, of the next residual h(R; a) = sum_j a^j c_j(R); `product` maps W to M W.

    Every c_j with j > 0 has the factor 1 - xi, so C_j is a sum of products V_i = M R^i W, which are precise for small
    M. C_0 is a sum of R^(i+1) W = R^i W - V_i, which are precise for other M. Moments tr R^i would cancel in both
    cases. W is S^T, (n, k) or (b, n, k); the identity gives exact norms.
    """
    powers, images = [W], []
    for _ in range(len(family.slopes[-1])):
        images.append(product(powers[-1]))
        powers.append(powers[-1] - images[-1])
    return [_sum(family.constant, powers), *(_sum(slope, images) for slope in family.slopes)]


def moments(C: list[Tensor]) -> Tensor:
    """Compute m_1 .. m_2p of the loss ||sum_j a^j C_j||_F^2 = sum_i m_i a^i, (b, 2p), up to a common positive factor.

    C is divided by the largest entry of C_0 first, because m_2p is of order r^(2 d (p + 1)) near convergence and would
    underflow. m_0 does not move the minimum and would hide small differences, so it is omitted.
    """
    # The factor does not move the minimum, so it needs no gradient.
    peak = C[0].detach().abs().amax((-2, -1), keepdim=True)
    flat = torch.stack([(c / torch.where(peak == 0, 1.0, peak)).flatten(-2) for c in C], -2)
    gram, p = flat @ flat.mT, len(C) - 1
    rows = [[gram[..., i, k - i] for i in range(max(0, k - p), min(k, p) + 1)] for k in range(1, 2 * p + 1)]
    return torch.stack([torch.stack(row).sum(0) for row in rows], -1)


def least(m: Tensor, low: float, high: float) -> Tensor:
    """Find the a in [low, high] with the least m_1 a + m_2 a^2 + ..., (b,), for m (b, 2p) from `moments`.

    Takes the best of 33 equispaced points, then 3 Newton steps of at most the spacing where the loss is convex. There
    are no branches, so nothing is read back. If the loss is flat (R = I, a zero matrix), the result is `high`, which
    lifts small values most.
    """
    grid = torch.linspace(high, low, _GRID, dtype=m.dtype, device=m.device)
    loss = [m[..., i : i + 1] for i in range(m.shape[-1])]
    values = _horner(loss, grid) * grid
    a = grid[values.argmin(-1, keepdim=True)]
    slope = [(i + 1) * c for i, c in enumerate(loss)]
    curvature = [i * c for i, c in enumerate(slope)][1:]
    spacing = (high - low) / (_GRID - 1)
    for _ in range(_NEWTON):
        bend = _horner(curvature, a)
        step = torch.where(bend > 0, _horner(slope, a) / torch.where(bend > 0, bend, 1.0), 0.0)
        a = (a - step.clamp(-spacing, spacing)).clamp(low, high)
    return a.squeeze(-1)


def least_of_any_size(m: Tensor) -> Tensor:
    """Find the a in [0, 1] with the least m_1 a + m_2 a^2 + ..., (b,), also if a is as small as 1e-16.

    An equispaced grid does not see minima below its spacing. So the search is in b with a = scale b^4, which resolves
    four decades, for scales four decades apart. The best of these results is returned.
    """
    loss = [m[..., i : i + 1] for i in range(m.shape[-1])]
    power = torch.arange(1, m.shape[-1] + 1, dtype=m.dtype, device=m.device)
    found = []
    for scale in _SCALES:
        spread = torch.stack([torch.zeros_like(m)] * 3 + [m * scale**power], -1).flatten(-2)
        found.append(scale * least(spread, 0.0, 1.0) ** 4)
    a = torch.stack(found, -1)
    return a.gather(-1, (_horner(loss, a) * a).argmin(-1, keepdim=True)).squeeze(-1)


def _horner(coefficients: list[Tensor], a: Tensor) -> Tensor:
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * a + c
    return total + 0 * a


def _sum(coefficients: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    total = None
    for c, term in zip(coefficients, terms, strict=False):
        if c:
            total = c * term if total is None else torch.add(total, term, alpha=c)
    assert total is not None
    return total
