"""Tolerance: when an iteration without bounds has done what it can, and what counts as zero until then."""

from ...iteration.residual import Residual
from .table import lower_ends

__all__ = ["floor", "reached"]


def reached(tol: float, k: int, residual: Residual, degrees: tuple[int, ...]) -> bool:
    """Whether ||I - M||_F <= tol sqrt(n) for each matrix, or a step k could only lift what counts as zero.

    Args:
        tol: Above the unit roundoff of the iteration.
        k: Steps taken.
        residual: After them.
        degrees: k of each step; the last one is repeated.

    Raises:
        ValueError: If the dtype of the iteration is too coarse for `tol`.
    """
    if tol <= residual.roundoff:
        raise ValueError(
            f"tol={tol:g} is out of reach in {residual.M.dtype}, whose unit roundoff is {residual.roundoff:.2g}: "
            "iterate in a wider dtype (precision=...), or to a budget (steps=...)"
        )
    short = residual.norm() > tol * residual.M.shape[-1] ** 0.5  # False for NaN, which no step removes
    return k >= len(_floors(residual, degrees)) or not bool(short.any())


def floor(k: int, residual: Residual, degrees: tuple[int, ...]) -> float:
    """Before step k, up to which s = m^(1/p) a value counts as zero: the image of twice the unit roundoff.

    A matrix has no smaller singular values, but for rounding; and one that is still smaller after k steps is not worth
    more of them.
    """
    floors = _floors(residual, degrees)
    return floors[min(k, len(floors) - 1)]


def _floors(residual: Residual, degrees: tuple[int, ...]) -> tuple[float, ...]:
    return lower_ends(residual.p, degrees, 2 * residual.roundoff, residual.roundoff)
