"""DB Newton: Newton's iteration with the inverse of M and a weight fitted to M at each step."""

from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from torch import Tensor

from ..iteration.residual import Residual
from ..iteration.step import Scalar, Step
from ..kernels import Products
from ..linalg.lu import inv_ex
from .checks import MOST_STEPS, check_count, check_sketch
from .prism.fit import least_of_any_size, moments, sketched

__all__ = ["DBNewton", "Inverting"]


@dataclass(frozen=True)
class Inverting(Step):
    """q(m) = (1 - a) + a / m, with a of shape (b, 1, 1); holds M^-1, (b, n, n), already computed for the fit."""

    a: Tensor
    inverse: Tensor

    def __call__(self, m: Scalar) -> Scalar:
        """Evaluate q at scalars."""
        return (1 - self.a) + self.a / m  # pyright: ignore[reportReturnType]

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Return at least float32: torch has no factorizations in half precision."""
        return torch.promote_types(dtype, torch.float32)

    def critical(self, p: int, low: float, high: float) -> np.ndarray:
        """Return the critical point of s q(s^p), if it lies in (low, high); see `Step.critical`."""
        m = float(self.a) * (p - 1) / max(1 - float(self.a), 1e-300)
        return np.array([m ** (1 / p)][: low**p < m < high**p])

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """Return 1 - a and a M^-1."""
        return 1 - self.a, (self.a * self.inverse).to(M.dtype)


@dataclass(frozen=True)
class DBNewton:
    """q(m) = (1 - a) + a / m; for p = 2 and a = 1/2 the product form of Denman and Beavers' iteration.

    Each step chooses the a in [0, 1] that minimises ||S h(R; a)||_F, with a sketch S and the next residual
    h = 1 - (1 - xi) q^p = xi - sum_j binom(p, j) a^j xi^j m^(1 - j).

    Use it for square roots of positive definite matrices of condition below 1/eps, in float32 or float64: it needs half
    the steps of a polynomial iteration, each with one inverse. For the polar factor it inverts a Gram matrix, which
    squares the condition number. Beyond the condition number 1/sqrt(eps) the result is orthogonal but not the polar
    factor, and `polar` warns. `QDWH` does not square the condition number.

    Attributes:
        steps: At least 1; 8 steps reach rounding for condition numbers up to 1e6.
        sketch: Columns of the sketch, at least 1, or "exact".

    References:
        Yang et al., "PRISM", arXiv 2601.22137, Table 1.
    """

    steps: int = 8
    sketch: int | str = 8

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1, MOST_STEPS)
        check_sketch(self.sketch)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Return at least float32: entries of the inverse overflow float16."""
        return torch.promote_types(dtype, torch.float32)

    def step(self, k: int, residual: Residual) -> Inverting:
        """Compute the inverse and fit a; in float64, so that M^(1 - p) does not overflow."""
        M = residual.M.to(torch.float64)
        # Add eps, no more than the rounding of M, so that a matrix with a zero row has an inverse.
        M = M + torch.finfo(residual.M.dtype).eps * torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        inverse, _ = inv_ex(M)
        W = sketched(residual, self.sketch, k)
        D = W.to(M.dtype) - M @ W.to(M.dtype)
        C = [D, -residual.p * D]
        for j in range(2, residual.p + 1):
            D = inverse @ (D - M @ D)
            C.append(-comb(residual.p, j) * D)
        a = least_of_any_size(moments(C))[:, None, None]  # about m^(1 - 1/p) for the least eigenvalue m
        return Inverting(a.to(residual.wide.dtype), inverse.to(residual.wide.dtype))
