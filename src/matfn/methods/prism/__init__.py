"""PRISM: the method, its family of polynomials, and the fit of the free coefficient."""

from .prism import Prism

__all__ = ["Prism"]
