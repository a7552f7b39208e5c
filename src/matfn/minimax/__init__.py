"""Minimax: odd polynomials and rational functions, computed in extended precision, without torch.

The solvers (`remez`, `composition`, `zolotarev`) import mpmath, which is slow; rows from the cache need none of them.
"""

from .cache import cached_rows
from .request import GridRequest, Request, Row

__all__ = ["GridRequest", "Request", "Row", "cached_rows"]
