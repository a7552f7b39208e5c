"""Residual: products, sketches and norms of R = I - M for the methods, without waiting for the device."""

from collections.abc import Callable
from enum import Enum
from math import pi

import torch
from torch import Tensor

from ..kernels import EAGER, Eager, Products

__all__ = ["Form", "Key", "Residual", "finished"]

Key = int | Tensor  # selects sketches: an integer, or a 0-d integer tensor, which stays on the device


class Form(Enum):
    """How M is formed from the iterate X; a step may then act on X without forming M."""

    GRAM = "X X^T or X^T X, whichever is smaller"
    SQUARE = "X X"
    PRODUCT = "a product in which X is one factor of two, or no factor"

    def matrix(self, X: Tensor, beside: Tensor | None, products: Products) -> Tensor:
        """Form M from the iterate X (b, m, n) and the fixed matrix `beside` of a product (None for the other forms)."""
        if self is Form.GRAM:  # on the shorter side; no copy turns a tall X into a wide one
            return products.syrk(X if X.shape[-2] <= X.shape[-1] else X.mT)
        return products.mm(X, X if beside is None else beside)


class Residual:
    """R = I - M by products, sketches and norms; M is formed on first use, R never.

    Args:
        M: (b, n, n), the matrix driven to the identity, or a function that computes it.
        p: The exponent of the target.
        key: Selects the sketches.
        form: How M is formed from the iterate.
        products: The matrix products to use; None is plain ones.
    """

    def __init__(
        self,
        M: Tensor | Callable[[], Tensor],
        p: int,
        key: Key = 0,
        form: Form = Form.PRODUCT,
        products: Products | None = None,
    ) -> None:
        self._M, self._wide, self._square, self.p, self.form, self.key = M, None, None, p, form, key
        self._products = EAGER if products is None else products  # torch 2.11 compiles no object that is a default

    @property
    def M(self) -> Tensor:
        """M, (b, n, n), in the dtype of the iteration."""
        if not isinstance(self._M, Tensor):
            self._M = self._M()
        return self._M

    @property
    def roundoff(self) -> float:
        """The unit roundoff of the dtype of the iteration."""
        return torch.finfo(self.M.dtype).eps / 2

    @property
    def wide(self) -> Tensor:
        """M in at least float32, so that a fit to M adds no half-precision rounding."""
        if self._wide is None:
            self._wide = self.M.to(torch.promote_types(self.M.dtype, torch.float32))
        return self._wide

    @property
    def square(self) -> Tensor:
        """M^2, (b, n, n), in the dtype of the iteration; computed once for the method and its step."""
        if self._square is None:
            self._square = self._products.sym_mm(self.M, self.M)
        return self._square

    def zoomed_square(self, zoom: float) -> Tensor:
        """Return `zoom` M^2, which keeps its entries above the least numbers of float16, in one product."""
        return self._products.sym_addmm(self.M, self.M, self.M, alpha=zoom, beta=0.0)

    def product(self, W: Tensor) -> Tensor:
        """Return M W for W (b, n, k) or (n, k), in at least float32; precise if M is small."""
        # As W^T M^T: a product with a few columns on the right takes eight times as long on a CPU.
        rows = W.to(self.wide.dtype).mT.contiguous()
        if type(self._products) is Eager:  # one form for any batch, so that a matrix has the same steps alone
            return (rows @ self.wide.mT).mT
        return self._products.mm(rows.expand(len(self.wide), -1, -1), self.wide.mT).mT

    def times(self, W: Tensor) -> Tensor:
        """Return R W = W - M W for W (b, n, k) or (n, k), in at least float32; precise if M is not small."""
        return W - self.product(W)

    def identity(self) -> Tensor:
        """Return I, (n, n), in at least float32: in place of a sketch it makes a fit exact, by full products."""
        return torch.eye(self.M.shape[-1], dtype=self.wide.dtype, device=self.M.device)

    def sketch(self, columns: int, draw: int) -> Tensor:
        """Return S^T with independent normal entries of variance 1/columns, (n, columns), in at least float32.

        All matrices of the batch share S, so the result of a matrix does not depend on the others. The entries are a
        hash of (key, draw, place), not a random stream: S is the same on every device and rank, in any order of calls,
        and under `torch.compile`. Different numbers `draw` give independent sketches.
        """
        n, device = self.M.shape[-1], self.M.device
        place = torch.arange(2 * n * columns, device=device).reshape(2, n, columns)
        key = torch.zeros((), dtype=place.dtype, device=device) ^ self.key
        bits = _hash(place ^ _hash(_hash(key) ^ draw))
        # Box-Muller in float64: after rounding to float32, small differences between the logarithms of devices vanish.
        uniform = (bits.to(torch.float64) + 0.5) * 2.0**-32
        normal = (-2 * uniform[0].log()).sqrt() * (2 * pi * uniform[1]).cos()
        return (normal * columns**-0.5).to(self.wide.dtype)

    def norm(self) -> Tensor:
        """Return ||R||_F of each matrix, (b,), in at least float32."""
        return torch.linalg.matrix_norm(self.identity() - self.wide)


def finished(method: object, k: int, residual: Residual) -> bool:
    """Tell whether the method has a function `done` that needs no step k."""
    done = getattr(method, "done", None)
    return done is not None and done(k, residual)


def _hash(x: Tensor) -> Tensor:
    """Mix the integers below 2^32 by a bijection; intermediate values stay below 2^63.

    References:
        C. Wellons, "Prospecting for hash functions" (2018): two rounds of multiplication and shift, of bias 0.11.
    """
    x = x & 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)
