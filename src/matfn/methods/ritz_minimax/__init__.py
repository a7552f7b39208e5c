"""RitzMinimax: the method, the measured density, the table of polynomials, and the choice among them."""

from .ritz_minimax import RitzMinimax

__all__ = ["RitzMinimax"]
