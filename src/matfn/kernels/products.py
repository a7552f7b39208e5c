"""Products: the interface between engines and kernels; engines work on large matrices through these five only."""

from typing import Protocol

from torch import Tensor

__all__ = ["Full", "Plain", "Products", "Weight", "numbers"]

Weight = float | Tensor  # one number, or one per matrix, (b, 1, 1); the dtype may be finer than the matrices'


class Products(Protocol):
    """Batched matrix products of tensors (b, rows, columns); no argument is overwritten.

    `syrk`, `sym_mm` and `sym_addmm` have a symmetric result, so a kernel may compute one half and mirror it.
    """

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T, (b, n, m) -> (b, n, n)."""
        ...

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B for symmetric A, B that commute; the product is then symmetric."""
        ...

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C for symmetric A, B, C; A and B commute."""
        ...

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B for any A, B."""
        ...

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C for any A, B, C."""
        ...


class Full(Products, Protocol):
    """Products that compute a symmetric result in full, like any other."""

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        return self.mm(X, X.mT)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B."""
        return self.mm(A, B)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C."""
        return self.addmm(C, A, B, alpha=alpha, beta=beta)


class Plain(Products, Protocol):
    """Products that can also write a product of single matrices into a view, for use by `Blocked`."""

    def ready(self, x: Tensor) -> Tensor:
        """Return x in a layout for fast products of its block rows."""
        ...

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Write a b to `out`."""
        ...

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Write alpha a b + beta c to `out`."""
        ...


def numbers(weight: Weight, count: int) -> list[float]:
    """Return one number for each of `count` matrices; reads the tensor, which is free on a CPU."""
    return weight.flatten().tolist() * (count // weight.numel()) if isinstance(weight, Tensor) else [weight] * count
