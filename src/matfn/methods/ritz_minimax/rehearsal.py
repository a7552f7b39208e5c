"""Rehearsal: of many minimax compositions for the remaining steps, the one that serves a given spectrum best."""

import numpy as np
import torch
from torch import Tensor

from ...linalg.constant import constant
from .table import SPACING, START, table

__all__ = ["best_first_step", "best_step", "chain"]

_EVERY = 4  # every fourth row of the table is tried: all of them would lower the error by another 1 %


@constant
def chain(p: int, degrees: tuple[int, ...], roundoff: float, device: torch.device) -> tuple[Tensor, ...]:
    """For each remaining step the coefficients, (candidates, k + 1), of compositions that differ in their first ratio.

    The image of every step but the last is scaled to have its upper end at 1, where the next one expects it; what
    comes out of the last one lies symmetrically about 1.

    Args:
        p: Exponent.
        degrees: k of each remaining step.
        roundoff: Unit roundoff of the iteration.
        device: Where the tensors shall live.
    """
    # A wide quintic multiplies small s by 8.5, and exp(3) = 20: candidates further down would all do the same.
    low = max(0, int((-3.0 * (len(degrees) + 1) - START) / SPACING)) // _EVERY * _EVERY
    ratios, steps = table(p, degrees[0]).ratios[low::_EVERY], []
    for t, k in enumerate(degrees):
        of = table(p, k)
        at, image = of.lifted(ratios, roundoff)
        top = of.top(roundoff)[at] if t < len(degrees) - 1 else np.ones(len(at))
        steps.append(torch.from_numpy(of.coefficients[at] / top[:, None]).to(device))
        ratios = image
    return tuple(steps)


def best_first_step(p: int, steps: tuple[Tensor, ...], nodes: Tensor, weights: Tensor, roundoff: float) -> Tensor:
    """The first step of the composition with the least sum of weights (1 - s)^2 at its end, (b, k + 1).

    For p > 2 with what rounding adds: there the engine is the coupled one, which multiplies Y by q^(p - 1) and so the
    errors of each factor by the others. Wide steps that nobody needs would make M indefinite.

    Args:
        p: Exponent.
        steps: As `chain` gives them.
        nodes: (b, nodes), of m relative to its upper end, in [0, 1].
        weights: (b, nodes).
        roundoff: Unit roundoff of the iteration.
    """
    s = nodes[..., None] ** (1 / p)
    for coefficients in steps:
        m, (q, *rest) = s**p, coefficients.flip(-1).unbind(-1)
        for c in rest:
            q = q * m + c
        s = s * q
    loss = (weights[..., None] * (1 - s) ** 2).sum(1)
    if p > 2:
        first = [c[:, 0] for c in steps]  # ||q||
        of_q = [c.abs().sum(1) for c in steps]  # rounding of q itself
        wrong = sum(p * q ** (p - 1) + (p - 1) * r * q ** (p - 2) for q, r in zip(first, of_q, strict=True))
        loss = loss + (roundoff * wrong) ** 2
    return steps[0][loss.argmin(-1)]


def best_step(p: int, k: int, roundoff: float, ratio: Tensor) -> Tensor:
    """The row of the table for each ratio lower/upper, (b, k + 1), its image scaled to have its upper end at 1.

    Args:
        p: Exponent.
        k: Degree of q.
        roundoff: Unit roundoff of the iteration.
        ratio: (b,), above 0.
    """
    rows = _rows(p, k, roundoff, ratio.device)
    inside = ratio.clamp(max=1 - 1e-15)
    place = ((inside.log() - torch.log1p(-inside) - START) / SPACING + 1e-9).floor().long()
    return rows[place.clamp(0, len(rows) - 1)]


@constant
def _rows(p: int, k: int, roundoff: float, device: torch.device) -> Tensor:
    of = table(p, k)
    at = np.maximum(np.arange(len(of.ratios)), of.clear(roundoff))
    return torch.from_numpy(of.coefficients[at] / of.top(roundoff)[at, None]).to(device)
