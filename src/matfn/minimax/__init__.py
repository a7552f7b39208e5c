"""Minimax odd polynomials, computed offline in extended precision; no torch here, and only `methods` imports it."""

from .cache import cached_rows
from .compose import Request, Row, compose, cushion
from .remez import Minimax, best_odd, taylor

__all__ = ["Minimax", "Request", "Row", "best_odd", "cached_rows", "compose", "cushion", "taylor"]
