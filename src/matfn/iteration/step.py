"""Step: the protocol of one scalar map q(m) that multiplies the iterate."""

from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..kernels import Products
from .residual import Residual

__all__ = ["Scalar", "Step"]

Scalar = TypeVar("Scalar", float, np.ndarray, Tensor)


class Step(Protocol):
    """A scalar map q that multiplies the iterate: M <- M q(M)^p.

    A step knows how to evaluate itself, so that no engine has to ask which kind it is.
    """

    def __call__(self, m: Scalar) -> Scalar:
        """Evaluate q at scalars, elementwise."""
        ...

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """q(M) = c I + B as the pair (c, B): the engine adds c I where that costs nothing.

        Args:
            M: Symmetric (or a product of commuting matrices), (b, n, n).
            products: The matrix products to use.

        Returns:
            c, a float or a tensor that broadcasts against (b, n, n), and B of shape (b, n, n).
        """
        ...

    def apply(self, X: Tensor, residual: Residual, products: Products) -> Tensor:
        """q(M) X for an X with no more rows than columns, X q(M) for a tall one; M need not be formed for it.

        Args:
            X: The iterate, (b, m, n).
            residual: Of X: has M, which commutes with a square X, and says what it is made of.
            products: The matrix products to use.
        """
        ...

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype to iterate in for an argument of `dtype`, if the caller names none."""
        ...

    def critical(self, p: int, low: float, high: float) -> np.ndarray:
        """Where in (low, high) the map s -> s q(s^p) of a step with float coefficients turns round."""
        ...
