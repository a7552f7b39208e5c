"""Fused: the look and the step of a budget on an NVIDIA GPU, by the kernels of `kernels.triton_look`.

The results are those of `density`, `best_first_step` and `Polynomial`, up to rounding.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...iteration.residual import Residual
from ...iteration.step import Magnified, Polynomial
from ...kernels import Products
from ...kernels.card import has_triton
from ...kernels.products import differentiated, shifted
from ...linalg.constant import constant
from .table import chain, rounding_loss

if TYPE_CHECKING:
    from ...kernels.triton_look import Rehearsal

__all__ = ["PerMatrix", "Power", "can_look", "fused_step", "kept_step", "power_of", "rehearsal"]


@dataclass(frozen=True)
class PerMatrix(Polynomial):
    """A polynomial with coefficients of each matrix, on a GPU, as I + (q - I).

    The vendor's library takes one weight for all matrices. c_0 X with another c_0 for each matrix would so take one
    more pass over X. The weight 1 takes none. Rounding (q - I) is no worse than rounding q - c_0 I: the step multiplies
    X by (I + E) with E about a unit roundoff, and near the limit q - I is small.

    Attributes:
        numbers: (b, k + 1), the coefficients in float32, with entries next to each other.
        zoom: The factor of M^2 in `powers`.
    """

    numbers: Tensor = field(kw_only=True, repr=False, compare=False)
    zoom: float = field(default=1.0, kw_only=True)

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """See `Step.split`: the pair (1, q(M) - I)."""
        if len(self.coefficients) == 3:
            from ...kernels.triton_bound import combined

            power = self.powers[0] if self.powers else products.sym_mm(M, M)
            return 1.0, combined(M.contiguous(), power.contiguous(), self.numbers, self.zoom)
        c0, B = super().split(M, products)
        return 1.0, shifted((c0 - 1.0).to(B.dtype) if isinstance(c0, Tensor) else c0 - 1.0, B)


@dataclass(frozen=True)
class Power:
    """M^2 before step 0, for the upper end and for the step.

    Attributes:
        values: `zoom` M^2, or None if M^2 is not computed.
        zoom: n for float16, where squares of small entries underflow, else 1. The mean eigenvalue of M, 1/n, and the
            greatest one, 1, both keep their size.
    """

    values: Tensor | None = None
    zoom: float = 1.0


def power_of(residual: Residual, degree: int) -> Power:
    """Return the M^2 that a step 0 with q of a degree needs in any case."""
    half = residual.M.dtype == torch.float16
    if degree < 2 or (half and degree > 2):
        return Power()
    zoom = float(residual.M.shape[-1]) if half else 1.0
    return Power(residual.zoomed_square(zoom) if half else residual.square, zoom)


def can_look(M: Tensor, columns: int, depth: int) -> bool:
    """Whether the kernels look at M (b, n, n): on an NVIDIA GPU, without derivatives, outside torch.compile."""
    if M.device.type != "cuda" or torch.compiler.is_compiling() or differentiated(M):
        return False
    if torch.version.hip is not None or not has_triton() or not M.numel():
        return False
    from ...kernels import triton_look as kernel  # late, because triton comes with torch for CUDA alone

    small = M.shape[-1] <= kernel.MOST_ROWS and columns <= kernel.MOST_COLUMNS and depth <= kernel.MOST_STEPS
    return small and M.dtype in kernel.DTYPES


def fused_step(
    residual: Residual, degrees: tuple[int, ...], columns: int, depth: int, draw: int
) -> tuple[Polynomial, Tensor]:
    """Look at the M of a residual, and return the step and what `Kept` needs of it, (b, k + 1).

    Args:
        residual: Has M, exponent and key.
        degrees: The degree of q of each step that is left.
        columns: Number of random vectors.
        depth: Number of Lanczos steps.
        draw: The number of the step. The upper end is measured before step 0.
    """
    from ...kernels.triton_look import look

    M, first = residual.M, draw == 0
    power = power_of(residual, degrees[0]) if first else Power()
    candidates = rehearsal(residual.p, degrees, residual.roundoff, M.device)
    found = look(
        M, power.values, candidates, zoom=power.zoom, columns=columns, depth=depth, key=residual.key, draw=draw,
        measured=first,
    )  # fmt: skip
    kept = (found.row if first else found.coefficients)[:, : degrees[0] + 1]
    return _step(M, found.coefficients[:, : degrees[0] + 1], found.top, power, first), kept


def kept_step(residual: Residual, rows: Tensor, columns: int, depth: int, draw: int) -> Polynomial | None:
    """Return the step with kept coefficients (b, k + 1) float32; None where the kernels do not run.

    Before step 0 they are divided by the upper end, which is measured from M and M^2.
    """
    M = residual.M
    if not can_look(M, columns, depth) or residual.p != 2:
        return None
    rows = rows.float()  # the state of float64 weights is float64
    if draw:
        return _step(M, rows, None, Power(), first=False)
    from ...kernels.triton_bound import bound_sums, upper_scaled

    power = power_of(residual, rows.shape[1] - 1)
    square = None if power.values is None else power.values.contiguous()
    found = upper_scaled(bound_sums(M.contiguous(), square, power.zoom), rows, M.shape[-1], residual.roundoff)
    return _step(M, found[:, 1:], found[:, 0], power, first=True)


def _step(M: Tensor, numbers: Tensor, top: Tensor | None, power: Power, first: bool) -> Polynomial:
    coefficients = tuple(numbers[:, i, None, None] for i in range(numbers.shape[1]))
    if first and power.values is None and M.dtype == torch.float16:
        assert top is not None
        return Magnified(coefficients, upper=top[:, None, None])
    powers = () if power.values is None else (power.values,)
    return PerMatrix(coefficients, powers, numbers=numbers, zoom=power.zoom)


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
