"""Residual: what a method may ask of R = I - M, without a host synchronisation."""

from collections.abc import Callable
from enum import Enum
from math import pi

import torch
from torch import Tensor

from ..kernels import EAGER, Products

__all__ = ["Form", "Residual"]


class Form(Enum):
    """What M is made of; a step that can act on the iterate X without forming M asks for it."""

    GRAM = "X X^T or X^T X, whichever is smaller"
    SQUARE = "X X"
    PRODUCT = "a product in which X is one factor of two, or no factor"


class Residual:
    """R = I - M, seen through products, sketches and norms; R itself is never formed, and M only if it is asked for.

    Attributes:
        p: The exponent of the target.
        form: What M is made of.
    """

    def __init__(
        self,
        M: Tensor | Callable[[], Tensor],
        p: int,
        key: int | Tensor = 0,
        form: Form = Form.PRODUCT,
        products: Products = EAGER,
    ) -> None:
        """Of the matrix driven to the identity.

        Args:
            M: (b, n, n), or how to compute it.
            p: The exponent of the target.
            key: Chooses the sketches: an integer, or a 0-d integer tensor, which is not read.
            form: What M is made of.
            products: The matrix products to use.
        """
        self._M, self._wide, self._square, self.p, self.form, self._key = M, None, None, p, form, key
        self._products = products

    @property
    def M(self) -> Tensor:
        """The matrix driven to the identity, (b, n, n), in the dtype of the iteration."""
        if not isinstance(self._M, Tensor):
            self._M = self._M()
        return self._M

    @property
    def roundoff(self) -> float:
        """The unit roundoff of the dtype of the iteration."""
        return torch.finfo(self.M.dtype).eps / 2

    @property
    def wide(self) -> Tensor:
        """M in float32 at least, so that what is fitted to it is not rounded to half precision again."""
        if self._wide is None:
            self._wide = self.M.to(torch.promote_types(self.M.dtype, torch.float32))
        return self._wide

    @property
    def square(self) -> Tensor:
        """M^2, (b, n, n), in the dtype of the iteration; a step that needs it too takes it from here."""
        if self._square is None:
            self._square = self._products.sym_mm(self.M, self.M)
        return self._square

    def product(self, W: Tensor) -> Tensor:
        """M W for W of shape (b, n, k) or (n, k), in float32 at least; precise where M is small."""
        # As rows times M^T: with a few columns on the right the same product takes eight times as long on a CPU.
        rows = W.to(self.wide.dtype).mT.contiguous()
        return (rows @ self.wide.mT).mT

    def times(self, W: Tensor) -> Tensor:
        """R W = W - M W for W of shape (b, n, k) or (n, k), in float32 at least; precise where M is not small."""
        return W - self.product(W)

    def identity(self) -> Tensor:
        """I, (n, n), in float32 at least: in place of a sketch it makes a fit exact, at the price of full products."""
        return torch.eye(self.M.shape[-1], dtype=self.wide.dtype, device=self.M.device)

    def sketch(self, columns: int, draw: int) -> Tensor:
        """S^T with independent normal entries of variance 1/columns, (n, columns), in float32 at least.

        Every matrix of the batch sees the same S, so that its result does not depend on its companions. Entries are a
        hash of (key, draw, place) and not the next numbers of a stream: the same on every device and every rank, in
        any order of calls, and under `torch.compile`.

        Args:
            columns: How many, at least 1.
            draw: Which S; different numbers give independent ones.
        """
        n, device = self.M.shape[-1], self.M.device
        place = torch.arange(2 * n * columns, device=device).reshape(2, n, columns)
        key = torch.zeros((), dtype=place.dtype, device=device) ^ self._key
        bits = _hash(place ^ _hash(_hash(key) ^ draw))
        # Box and Muller, in float64: rounded to float32 it is the same whatever logarithm a device has.
        uniform = (bits.to(torch.float64) + 0.5) * 2.0**-32
        normal = (-2 * uniform[0].log()).sqrt() * (2 * pi * uniform[1]).cos()
        return (normal * columns**-0.5).to(self.wide.dtype)

    def norm(self) -> Tensor:
        """||R||_F of each matrix, (b,), in float32 at least."""
        return torch.linalg.matrix_norm(self.identity() - self.wide)


def _hash(x: Tensor) -> Tensor:
    """A bijection of the integers below 2^32 that leaves no pattern; it stays below 2^63 on the way.

    References:
        C. Wellons, "Prospecting for hash functions" (2018): two rounds of multiplication and shift, of bias 0.11.
    """
    x = x & 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)
