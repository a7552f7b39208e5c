"""Fit: the coefficient for which the next residual is least, from a few skinny products, solved on the device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .family import Family

__all__ = ["blocks", "least", "least_of_any_size", "moments"]

_GRID = 33  # points; the loss has degree 2p, and three Newton steps from the best point reach its minimum
_NEWTON = 3
_SCALES = (1.0, 1e-4, 1e-8, 1e-12)


def blocks(product: Callable[[Tensor], Tensor], W: Tensor, family: Family) -> list[Tensor]:
    """C_j = c_j(R) W, j = 0 .. p, of the next residual h(R; a) = sum_j a^j c_j(R).

    Every c_j with j > 0 has the factor 1 - xi, so it is made of M R^i W = V_i, which is precise where M is small; what
    is left of R^i W by subtraction, R^(i+1) W = W_i - V_i, is precise where M is not. Moments tr R^i would cancel in
    both places.

    Args:
        product: W -> M W.
        W: S^T, (n, k) or (b, n, k); the identity for exact norms.
        family: c_0, c_1, ...
    """
    powers, images = [W], []
    for _ in range(len(family.slopes[-1])):
        images.append(product(powers[-1]))
        powers.append(powers[-1] - images[-1])
    return [_sum(family.constant, powers), *(_sum(slope, images) for slope in family.slopes)]


def moments(C: list[Tensor]) -> Tensor:
    """Coefficients m_1 .. m_2p of the loss ||sum_j a^j C_j||_F^2 - m_0, (b, 2p), up to a common positive factor.

    C is divided by the largest entry of C_0 first: near convergence m_2p is of order r^(2 d (p + 1)), which underflows.
    m_0 is left out because it moves no minimum and would hide small differences.
    """
    # The factor has no influence on the minimum, hence no gradient.
    peak = C[0].detach().abs().amax((-2, -1), keepdim=True)
    flat = torch.stack([(c / torch.where(peak == 0, 1.0, peak)).flatten(-2) for c in C], -2)
    gram, p = flat @ flat.mT, len(C) - 1
    rows = [[gram[..., i, k - i] for i in range(max(0, k - p), min(k, p) + 1)] for k in range(1, 2 * p + 1)]
    return torch.stack([torch.stack(row).sum(0) for row in rows], -1)


def least(m: Tensor, low: float, high: float) -> Tensor:
    """The a in [low, high] for which m_1 a + m_2 a^2 + ... is least, (b,).

    Free of branches, so nothing is read back: the best of 33 equispaced points, then 3 Newton steps of at most the
    spacing, where the loss is convex. Where it is flat (R = I, a zero matrix), `high`, which lifts small values most.

    Args:
        m: (b, 2p), as `moments` gives them.
        low: Lower end.
        high: Upper end.
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
    """The a in [0, 1] for which m_1 a + m_2 a^2 + ... is least, (b,), be it of order 1 or 1e-16.

    An equispaced grid of a would take a best value below its spacing for 0 and stay there. So the search is in b with
    a = scale b^4, which resolves four decades, for scales four decades apart; the best of these is taken.

    Args:
        m: (b, 2p), as `moments` gives them.
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
    """The combination, zeros left out."""
    total = None
    for c, term in zip(coefficients, terms, strict=False):
        if c:
            total = c * term if total is None else torch.add(total, term, alpha=c)
    assert total is not None
    return total
