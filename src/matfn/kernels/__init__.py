"""Kernels: the few matrix products that every engine is written in."""

from .eager import EAGER, Eager
from .products import Products, Weight

__all__ = ["EAGER", "Eager", "Products", "Weight"]
