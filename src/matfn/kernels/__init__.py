"""Kernels: the matrix products that the engines call, in several implementations."""

from .blocked import Blocked
from .onednn import ONEDNN, OneDNN, onednn_runs
from .products import EAGER, Eager, Products, Weight

__all__ = ["EAGER", "ONEDNN", "Blocked", "Eager", "OneDNN", "Products", "Weight", "onednn_runs"]
