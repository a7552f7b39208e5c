"""Kernels: the matrix products that the engines call, in several implementations."""

from .blocked import Blocked
from .onednn import ONEDNN, OneDNN, onednn_runs
from .products import EAGER, Eager, Products, Weight
from .quack import QuackSymmetric
from .quickest import Quickest

__all__ = [
    "EAGER",
    "ONEDNN",
    "Blocked",
    "Eager",
    "OneDNN",
    "Products",
    "QuackSymmetric",
    "Quickest",
    "Weight",
    "onednn_runs",
]
