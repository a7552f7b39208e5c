"""RitzMinimax: the method, the density it measures, its table of polynomials, and how it chooses among them."""

from .ritz_minimax import RitzMinimax

__all__ = ["RitzMinimax"]
