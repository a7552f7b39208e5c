"""Minimax: odd polynomials and rational functions, computed in extended precision, without torch.

mpmath is slow to import, so the solvers load on first use; a composition found in the cache needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cache import cached_rows
from .request import GridRequest, Request, Row

if TYPE_CHECKING:
    from .composition import compose, cushion
    from .remez import Minimax, best_odd, taylor

__all__ = ["GridRequest", "Minimax", "Request", "Row", "best_odd", "cached_rows", "compose", "cushion", "taylor"]

_SOLVER = {
    "compose": "composition",
    "cushion": "composition",
    "Minimax": "remez",
    "best_odd": "remez",
    "taylor": "remez",
}


def __getattr__(name: str) -> Any:
    if name not in _SOLVER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SOLVER[name]}", __name__), name)
