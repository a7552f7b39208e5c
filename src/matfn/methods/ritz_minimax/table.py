"""Table: minimax steps for all ratios lower/upper, and the choice among them for a measured spectrum."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...linalg.constant import constant
from ...minimax import GridRequest, cached_rows

__all__ = [
    "SPACING",
    "START",
    "Table",
    "best_first_step",
    "best_step",
    "chain",
    "composition",
    "floor",
    "lower_ends",
    "reached",
    "rounding_loss",
    "table",
]

# Points in log(ratio / (1 - ratio)). A polynomial for a ratio 1.13 times too small loses 1/20 of a step or, in the last
# step, 0.16 digits. The 400 quintics take 1 s to compute, once.
START, SPACING = -37.0, 0.125
_NOISE = 1.16  # about 2 / sqrt(3), see Table.top
_EVERY = 4  # `chain` tries every fourth row; all rows would lower the error by 1 %


@dataclass(frozen=True, eq=False)
class Table:
    """Minimax steps on [ratio, 1] for rising ratios; the last step is Taylor's.

    Attributes:
        p: Exponent.
        ratios: (g,).
        coefficients: (g, k + 1), of q in ascending powers of m.
        errors: (g,), the largest |1 - s q(s^p)| on [ratio, 1].
        lows: (g,), the lower end of the image, 1 - errors without the cancellation.
        sensitivity: (g,), change of the image of the upper end by rounding errors of M, its powers, q(M) and the
            iterate, relative to the norm of each; 0 if the step damps values above this end.
        noise: (g,), largest change of the image anywhere by these errors.
    """

    p: int
    ratios: np.ndarray
    coefficients: np.ndarray
    errors: np.ndarray
    lows: np.ndarray
    sensitivity: np.ndarray
    noise: np.ndarray

    def index(self, ratios: np.ndarray, roundoff: float = 0.0) -> np.ndarray:
        """Return the last row at or below each ratio, whose interval contains the ratio, but no row below `clear`."""
        inside = np.clip(ratios, 1e-300, 1 - 1e-15)
        place = np.floor((np.log(inside) - np.log1p(-inside) - START) / SPACING + 1e-9)
        return np.clip(place, self.clear(roundoff), len(self.ratios) - 1).astype(int)

    def clear(self, roundoff: float) -> int:
        """Return the first row whose image rounding cannot make negative; it lifts small values as well as rows before.

        A negative image flips the sign of a singular vector; for odd p an eigenvalue of M then runs to minus infinity.
        """
        return int(np.argmax(self.lows > _NOISE * roundoff * self.noise))

    def top(self, roundoff: float) -> np.ndarray:
        """Return the upper end of the image of each row, (g,), for the unit roundoff u.

        Independent rounding errors give each entry a relative variance of at most u^2/3; the norm of such a matrix is
        about 2 u / sqrt(3) times the largest norm of a row. Errors of different matrices add up in squares. Errors of
        one number add up linearly, with p times the error of the step before; float32 takes a margin of 16 for them.
        """
        return 1 + self.errors + _NOISE * roundoff * (16 if roundoff < 1e-6 else 1) * self.sensitivity

    def lifted(self, lower: np.ndarray, roundoff: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the row for each lower end, and the lower end of its image, scaled to have the upper end 1."""
        at = self.index(lower, roundoff)
        q = (self.coefficients[at] * lower[:, None] ** (self.p * np.arange(self.coefficients.shape[1]))).sum(1)
        return at, np.minimum(lower * q, self.lows[at]) / self.top(roundoff)[at]


@lru_cache(maxsize=64)
def table(p: int, k: int) -> Table:
    """Build the table with q of degree k for exponent p."""
    rows = cached_rows(GridRequest(p, k, START, SPACING))
    ratios, coefficients = (np.array(x) for x in zip(*((r.interval[0], r.coefficients) for r in rows), strict=True))
    powers = np.arange(k + 1)
    ends, images = coefficients.sum(1), ratios * (ratios[:, None] ** (p * powers) * coefficients).sum(1)
    errors = np.maximum(abs(1 - ends), abs(1 - images))
    inside = np.linspace(0, 1, 513)[:, None] ** powers
    slopes = inside[:, :-1] @ (coefficients * powers)[:, 1:].T  # q', up to the upper end
    grown = abs(inside @ coefficients.T - coefficients[:, 0]).max(0)  # ||q(M) - c_0 I||, the rounded part
    written = (coefficients[:, 2:] ** 2).sum(1) + grown**2 + 1
    sensitivity = np.where(abs(ends + p * slopes[-1]) > 0.5, np.sqrt(slopes[-1] ** 2 + written), 0.0)
    return Table(p, ratios, coefficients, errors, images, sensitivity, np.sqrt((slopes**2).max(0) + written))


@constant
def lower_ends(p: int, degrees: tuple[int, ...], lower: float, roundoff: float = 0.0) -> tuple[float, ...]:
    """Return the ratio lower/upper before each step of the composition for [lower, 1], until the ratio is 1.

    `degrees` has k of each step; the last one is repeated.
    """
    ends = [lower]
    while ends[-1] < 1 - 1e-15 and len(ends) < 1000:
        of = table(p, degrees[min(len(ends), len(degrees)) - 1])
        ends.append(float(of.lifted(np.array(ends[-1:]), roundoff)[1][0]))
    return tuple(ends)


@constant
def chain(p: int, degrees: tuple[int, ...], roundoff: float, device: torch.device) -> tuple[Tensor, ...]:
    """Compute compositions of the remaining steps, with k in `degrees`, one for each candidate of the first ratio.

    The image of every step but the last is scaled to the upper end 1, for which the next step is made. The image of the
    last step is symmetric about 1. The result has the coefficients of each step, (candidates, k + 1), for the unit
    roundoff of the iteration.
    """
    # A step lifts small s by less than exp(3) = 20 (a wide quintic by 8.5): all lower candidates would be equal.
    low = max(0, int((-3.0 * (len(degrees) + 1) - START) / SPACING)) // _EVERY * _EVERY
    return _composed(p, degrees, roundoff, table(p, degrees[0]).ratios[low::_EVERY], device)


@constant
def composition(p: int, degrees: tuple[int, ...], roundoff: float, lower: float, device: torch.device) -> Tensor:
    """Compute the composition for s in [lower, 1] as `chain` does, (steps, k + 1), with zeros for smaller degrees."""
    rows = torch.zeros(len(degrees), max(degrees) + 1, dtype=torch.float64)
    for t, c in enumerate(_composed(p, degrees, roundoff, np.array([lower]), torch.device("cpu"))):
        rows[t, : c.shape[1]] = c[0]
    return rows.to(device)


def _composed(
    p: int, degrees: tuple[int, ...], roundoff: float, ratios: np.ndarray, device: torch.device
) -> tuple[Tensor, ...]:
    steps = []
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
    factor grows by the other factors, and an unnecessarily wide step can make M indefinite. `steps` comes from `chain`;
    `nodes`, (b, nodes), are values of m relative to its upper end, in [0, 1]; `weights` has the same shape.
    """
    s = nodes[..., None] ** (1 / p)
    for coefficients in steps:
        m, (q, *rest) = s**p, coefficients.flip(-1).unbind(-1)
        for c in rest:
            q = q * m + c
        s = s * q
    loss = (weights[..., None] * (1 - s) ** 2).sum(1)
    if p > 2:
        loss = loss + rounding_loss(p, steps, roundoff)
    return steps[0][loss.argmin(-1)]


def rounding_loss(p: int, steps: tuple[Tensor, ...], roundoff: float) -> Tensor:
    """Return the squared rounding error of each composition in the coupled engine, (candidates,)."""
    first = [c[:, 0] for c in steps]  # ||q||
    of_q = [c.abs().sum(1) for c in steps]  # rounding of q itself
    wrong = sum(p * q ** (p - 1) + (p - 1) * r * q ** (p - 2) for q, r in zip(first, of_q, strict=True))
    return (roundoff * torch.as_tensor(wrong)) ** 2


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

    `degrees` has the degree of q for each step, the last one repeated.
    """
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
