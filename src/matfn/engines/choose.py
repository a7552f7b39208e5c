"""Choose: which engine computes a target when the caller names none."""

from ..target import Target
from .coupled import Coupled
from .direct import Direct
from .engine import Engine

__all__ = ["choose"]


def choose(target: Target) -> Engine:
    """The engine for `target`.

    Direct wherever it applies, because it alone is stable in every dtype for every method; the Gram engine, which needs
    fewer products for rectangular matrices, is taken on request.
    """
    return Direct() if target.name in Direct().targets else Coupled()
