"""Kernels: the matrix products that the engines call, in several implementations."""

from .blocked import Blocked
from .choice import Choice, choice_for, products_for
from .eager import EAGER, Eager
from .onednn import ONEDNN, OneDNN
from .products import Products, Weight

__all__ = [
    "EAGER",
    "ONEDNN",
    "Blocked",
    "Choice",
    "Eager",
    "OneDNN",
    "Products",
    "Weight",
    "choice_for",
    "products_for",
]
