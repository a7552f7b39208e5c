"""Step: the protocol of one scalar map q(m) that multiplies the iterate."""

from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..kernels import Products
from ..kernels.products import multiplied
from .residual import Residual

__all__ = ["Scalar", "Step"]

Scalar = TypeVar("Scalar", float, np.ndarray, Tensor)


class Step(Protocol):
    """A scalar map q that multiplies the iterate: M <- M q(M)^p.

    A step evaluates itself, so no engine asks for its kind. A subclass inherits `apply` and `precision`.
    """

    def __call__(self, m: Scalar) -> Scalar:
        """Evaluate q at scalars, elementwise."""
        ...

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """Return q(M) = c I + B as the pair (c, B); the engine adds c I where this costs nothing.

        M (b, n, n) is symmetric, or a product of commuting matrices. c is a float or (b, 1, 1), B is (b, n, n).
        """
        ...

    def apply(self, X: Tensor, residual: Residual, products: Products) -> Tensor:
        """Return q(M) X if X (b, m, n) has no more rows than columns, else X q(M); a step may do so without M.

        The residual of X has M, which commutes with a square X, and the form of M.
        """
        return multiplied(*self.split(residual.M, products), X, products)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Return the default dtype of the iteration for an argument of `dtype`: any for products alone."""
        return dtype

    def critical(self, p: int, low: float, high: float) -> np.ndarray:
        """Return the points in (low, high) where s -> s q(s^p) has a zero derivative; q has float coefficients."""
        ...
