"""Resolvents: inverse roots as short sums of shifted inverses."""

from .resolvents import Resolvents, resolvents

__all__ = ["Resolvents", "resolvents"]
