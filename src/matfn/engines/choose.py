"""Choose: which engine computes a target when the caller names none, by counted products and foretold rounding."""

import torch

from ..iteration.protocols import Iteration
from ..iteration.schedule import Schedule
from ..iteration.step import Polynomial
from ..iteration.target import POLAR, Target
from ..linalg.constant import constant
from .cost import products_of
from .coupled import Coupled
from .direct import Direct
from .engine import Engine
from .gram import Gram
from .restarts import amplification, fewest_restarts

__all__ = ["choose"]

# A symmetric product, as a part of a full one: what block rows and half of the tiles cost, measured on matrices of 768.
_SYMMETRIC = 0.75

# Rounding may take this much, even where a schedule of few steps leaves more: that of bfloat16 never stays below.
_TOLERATED = 0.01


def choose(
    target: Target,
    method: Iteration | None = None,
    shape: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Engine:
    """The engine for `target`.

    Direct where it applies, because it alone is stable in every dtype for every method. For the polar factor by a
    schedule of polynomials it is `Gram`, with restarts computed for the dtype, where that needs fewer products and
    where its rounding errors, by the model of `amplification`, stay below the error that the schedule itself leaves,
    and below 1 %: so it is for rectangular matrices in float32, by schedules that are no more accurate than that. In
    bfloat16 nothing passes; who iterates in float64 wants the digits; torch.compile cannot follow the model.

    Args:
        target: What is computed.
        method: The iteration; without it, or without `shape` and `dtype`, only the target counts.
        shape: (rows, columns) of each matrix.
        dtype: Of the iteration.
    """
    if target.name not in Direct().targets:
        return Coupled()
    if not isinstance(method, Schedule) or shape is None or dtype is None or torch.compiler.is_compiling():
        return Direct()
    return _for_polar(method, shape, dtype) if target == POLAR and dtype != torch.float64 else Direct()


@constant
def _for_polar(schedule: Schedule, shape: tuple[int, int], dtype: torch.dtype) -> Engine:
    if min(shape) == max(shape) or not all(isinstance(row, Polynomial) for row in schedule.rows):
        return Direct()
    roundoff, tolerated = torch.finfo(dtype).eps / 2, min(schedule.error(), _TOLERATED)
    gram = Gram(fewest_restarts(schedule, roundoff, tolerated))
    if not amplification(schedule, gram.restarts or (), roundoff) * roundoff <= tolerated:
        return Direct()
    return min(Direct(), gram, key=lambda engine: _cost(schedule, engine, shape))


def _cost(schedule: Schedule, engine: Direct | Gram, shape: tuple[int, int]) -> float:
    products = products_of(schedule, engine, shape)
    return sum(p.multiply_adds * (_SYMMETRIC if p.symmetric else 1.0) for p in products)
