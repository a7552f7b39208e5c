"""Step: the protocol of a scalar map q(m) that multiplies the iterate, and polynomials, evaluated with few products."""

from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..kernels import Products
from ..kernels.products import multiplied
from .residual import Residual

__all__ = ["Magnified", "Polynomial", "Scalar", "Step", "paterson_stockmeyer"]

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


@lru_cache(maxsize=64)
def paterson_stockmeyer(k: int) -> tuple[int, int]:
    """Count the products for q(M) of degree k: first the powers M^2, M^3, ..., then Horner's rule over blocks.

    The block length is one more than the first count. It is the length with the fewest products; among equals the
    shortest, which keeps the fewest matrices alive.
    """
    stride = min(range(1, k + 1), key=lambda s: ((s - 1) + (ceil(k / s) - 1), s))
    return stride - 1, ceil(k / stride) - 1


@dataclass(frozen=True)
class Polynomial(Step):
    """q(m) = c_0 + c_1 m + ... + c_k m^k; for p = 2 the odd polynomial x q(x^2) of degree 2k + 1.

    Attributes:
        coefficients: c_0 .. c_k, floats, or tensors (b, 1, 1) with one number per matrix, in float32 at least.
        powers: M^2, M^3, ... of the matrix to which this step applies, as far as they are known; not a part of q.
    """

    coefficients: tuple[float | Tensor, ...]
    powers: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.coefficients) < 2:
            raise ValueError(f"q needs at least the coefficients c_0 and c_1, got {self.coefficients}")

    def __call__(self, m: Scalar) -> Scalar:
        """Evaluate q at scalars, by Horner's rule."""
        value = 0.0 * m + self.coefficients[-1]
        for c in reversed(self.coefficients[:-1]):
            value = value * m + c
        return value  # pyright: ignore[reportReturnType] -- the type of m, since it starts from m

    @property
    def products(self) -> int:
        """Number of symmetric products in `split`: 0, 1, 2, 2, 3, 3, 4 for k = 1 .. 7 (degree 3, 5, ..., 15)."""
        return sum(paterson_stockmeyer(len(self.coefficients) - 1))

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """Return c_0 and q(M) - c_0 I by the Paterson-Stockmeyer scheme: powers of M, then Horner's rule over blocks.

        Degree 9 costs two products (M^2, then M^2 times a quadratic), as degree 7 does.
        """
        c0, *rest = self.coefficients
        k = len(rest)
        if k == 1:
            return c0, (rest[0] * M).to(M.dtype)
        if k == 2 and self.powers:
            return c0, _combination(rest, [M, self.powers[0]])
        if k == 2:
            return c0, products.sym_addmm(M, M, M, alpha=rest[1], beta=rest[0])
        stride = paterson_stockmeyer(k)[0] + 1
        powers = [M, *self.powers[: stride - 1]]
        while len(powers) < stride:
            powers.append(products.sym_mm(powers[-1], M))
        blocks = [rest[i : i + stride] for i in range(0, k, stride)]
        alpha, B = _scaled(blocks[-1], powers)
        for block in reversed(blocks[:-1]):
            beta, C = _scaled(block, powers)
            B, alpha = products.sym_addmm(C, powers[-1], B, alpha=alpha, beta=beta), 1.0
        return c0, B

    def critical(self, p: int, low: float, high: float) -> np.ndarray:
        """See `Step.critical`: the derivative, sum_j (1 + jp) c_j m^j, is a polynomial in m = s^p."""
        derivative = [(1 + j * p) * float(c) for j, c in enumerate(self.coefficients)]
        roots = np.roots(derivative[::-1])
        m = roots[np.abs(roots.imag) <= 1e-7 * np.abs(roots)].real
        return m[(m > low**p) & (m < high**p)] ** (1 / p)


@dataclass(frozen=True)
class Magnified(Polynomial):
    """A polynomial that multiplies M by a power of two first, so that M is near I.

    float16 needs it for an M far below I, where powers of M underflow and their coefficients overflow: a flat spectrum
    puts the first M at I/n, and the coefficient of M^2 is then about n^(5/2).

    Attributes:
        upper: (b, 1, 1), about the greatest eigenvalue of M.
    """

    upper: Tensor = field(kw_only=True)

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """See `Step.split`: q(M) = c_0 r(zoom M), c_0 not zero; a power of two as zoom adds no rounding."""
        zoom = torch.exp2(-self.upper.log2().round()).to(torch.promote_types(M.dtype, torch.float32))
        c0 = self.coefficients[0]
        r = Polynomial(tuple(c / c0 / zoom**j for j, c in enumerate(self.coefficients)))
        _, B = r.split((M * zoom).to(M.dtype), products)
        return c0, (c0 * B).to(M.dtype)


def _scaled(coefficients: list[float | Tensor], powers: list[Tensor]) -> tuple[float, Tensor]:
    """Write a weighted sum of powers as a number times a matrix; a product takes the number for free."""
    first, *others = coefficients
    if not isinstance(first, float) or first == 0 or not all(isinstance(c, float) for c in others):
        return 1.0, _combination(coefficients, powers)
    return first, _combination([1.0, *(c / first for c in others)], powers)


def _combination(coefficients: list[float | Tensor], powers: list[Tensor]) -> Tensor:
    one = isinstance(coefficients[0], float) and coefficients[0] == 1.0
    total = powers[0] if one else coefficients[0] * powers[0]
    for c, P in zip(coefficients[1:], powers[1:], strict=False):
        total = torch.add(total, P, alpha=c) if isinstance(c, float) else total + c * P
    return total.to(powers[0].dtype)  # coefficients of a half-precision iteration may be float32
