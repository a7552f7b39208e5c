"""Choice: the minimax step for a measured spectrum, to a budget or to a tolerance, and the test for the end."""

import numpy as np
import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...linalg.constant import constant
from .table import SPACING, START, lower_ends, table

__all__ = ["best_first_step", "best_step", "chain", "floor", "reached"]

_EVERY = 4  # try every fourth row of the table; all rows would lower the error by 1 %


@constant
def chain(p: int, degrees: tuple[int, ...], roundoff: float, device: torch.device) -> tuple[Tensor, ...]:
    """Compute compositions of the remaining steps, one for each candidate of the first ratio.

    The image of every step but the last is scaled to the upper end 1, for which the next step is made. The image of the
    last step is symmetric about 1.

    Args:
        p: Exponent.
        degrees: k of each remaining step.
        roundoff: Unit roundoff of the iteration.
        device: Device of the result.

    Returns:
        The coefficients of each remaining step, (candidates, k + 1).
    """
    # A step lifts small s by less than exp(3) = 20 (a wide quintic by 8.5): all lower candidates would be equal.
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
    """Return the first step of the composition with the least final sum of weights (1 - s)^2, (b, k + 1).

    For p > 2 the sum includes rounding errors: the coupled engine multiplies Y by q^(p - 1), so the error of each
    factor grows by the other factors, and an unnecessarily wide step can make M indefinite.

    Args:
        p: Exponent.
        steps: Coefficients from `chain`.
        nodes: (b, nodes), values of m relative to its upper end, in [0, 1].
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
    """Return the row of the table for each ratio lower/upper > 0, (b, k + 1), scaled to the upper end 1."""
    rows = _rows(p, k, roundoff, ratio.device)
    inside = ratio.clamp(max=1 - 1e-15)
    place = ((inside.log() - torch.log1p(-inside) - START) / SPACING + 1e-9).floor().long()
    return rows[place.clamp(0, len(rows) - 1)]


@constant
def _rows(p: int, k: int, roundoff: float, device: torch.device) -> Tensor:
    of = table(p, k)
    at = np.maximum(np.arange(len(of.ratios)), of.clear(roundoff))
    return torch.from_numpy(of.coefficients[at] / of.top(roundoff)[at, None]).to(device)


def reached(tol: float, k: int, residual: Residual, degrees: tuple[int, ...]) -> bool:
    """Tell whether ||I - M||_F <= tol sqrt(n) for each matrix, or all values that do not count as zero have converged.

    `degrees` has the degree of q for each step, the last one repeated. A `tol` below the unit roundoff is refused.
    """
    if tol <= residual.roundoff:
        raise ValueError(
            f"tol={tol:g} is out of reach in {residual.M.dtype}, whose unit roundoff is {residual.roundoff:.2g}: "
            "iterate in a wider dtype (precision=...), or give steps=... instead of tol"
        )
    short = residual.norm() > tol * residual.M.shape[-1] ** 0.5  # False for NaN: no step removes it
    return k >= len(_floors(residual, degrees)) or not bool(short.any())


def floor(k: int, residual: Residual, degrees: tuple[int, ...]) -> float:
    """Return the s = m^(1/p) up to which a value counts as zero before step k: the image of twice the unit roundoff.

    Smaller singular values are rounding noise and deserve no steps.
    """
    floors = _floors(residual, degrees)
    return floors[min(k, len(floors) - 1)]


def _floors(residual: Residual, degrees: tuple[int, ...]) -> tuple[float, ...]:
    return lower_ends(residual.p, degrees, 2 * residual.roundoff, residual.roundoff)
