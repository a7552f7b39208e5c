"""Products: the seam between algorithm and kernel. An engine calls these five and nothing else on large matrices."""

from typing import Protocol

from torch import Tensor

__all__ = ["Full", "Plain", "Products", "Weight", "numbers"]

Weight = float | Tensor  # a number, or one per matrix of the batch, shaped (b, 1, 1), perhaps of a finer dtype


class Products(Protocol):
    """Batched matrix products; every argument is (b, rows, columns), nothing is written in place.

    The three symmetric ones promise a symmetric result, of which a kernel may compute one half.
    """

    def syrk(self, X: Tensor) -> Tensor:
        """X X^T, (b, n, m) -> (b, n, n)."""
        ...

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B for commuting symmetric A, B, so that the product is symmetric."""
        ...

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C for symmetric C and commuting symmetric A, B."""
        ...

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B, any matrices."""
        ...

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C, any matrices."""
        ...


class Full(Products, Protocol):
    """Products that compute all of a symmetric result, as they do of any other."""

    def syrk(self, X: Tensor) -> Tensor:
        """X X^T."""
        return self.mm(X, X.mT)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        return self.mm(A, B)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        return self.addmm(C, A, B, alpha=alpha, beta=beta)


class Plain(Products, Protocol):
    """Products that can also write the product of two single matrices into a view."""

    def ready(self, x: Tensor) -> Tensor:
        """X, in a layout of which it multiplies block rows quickly."""
        ...

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Out <- a b."""
        ...

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Out <- alpha a b + beta c."""
        ...


def numbers(weight: Weight, count: int) -> list[float]:
    """One number for each of `count` matrices; on a CPU they are read at no cost."""
    return weight.flatten().tolist() * (count // weight.numel()) if isinstance(weight, Tensor) else [weight] * count
