"""Kernels: the few matrix products that every engine is written in."""

from .blocked import Blocked
from .choice import Choice, choice_for, products_for
from .eager import EAGER, Eager
from .products import Products, Weight

__all__ = ["EAGER", "Blocked", "Choice", "Eager", "Products", "Weight", "choice_for", "products_for"]
