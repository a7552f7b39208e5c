"""Products: the interface between engines and kernels; engines work on large matrices through these five only."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = [
    "EAGER",
    "Eager",
    "Full",
    "Plain",
    "Products",
    "Weight",
    "differentiated",
    "multiplied",
    "numbers",
    "shifted",
    "without_autocast",
]

_LARGE = 256**2  # entries from which a product of one matrix is worth a call of its own

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


def differentiated(*given: Tensor | float | None) -> bool:
    """Tell whether autograd follows a product of these tensors."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in given)


def numbers(weight: Weight, count: int) -> list[float]:
    """Return one number for each of `count` matrices; reads the tensor, which is free on a CPU."""
    return weight.flatten().tolist() * (count // weight.numel()) if isinstance(weight, Tensor) else [weight] * count


@dataclass(frozen=True)
class Eager(Full):
    """Reference implementation of `Products`."""

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B."""
        if A.shape[0] == 1:
            # For one bfloat16 matrix on a CPU the batched product takes up to 1.4 times as long (768 x 3072).
            return (A[0] @ B[0]).unsqueeze(0)
        return A @ B

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C."""
        if isinstance(alpha, Tensor) or isinstance(beta, Tensor):
            if _better_one_by_one(C, A, B, alpha, beta):
                return _one_by_one(C, A, B, alpha, beta)
            return _combined(self.mm(A, B), C, alpha, beta)
        if C.dtype == torch.float16 and C.device.type == "cpu":
            # torch 2.13 has no fast float16 addmm on a CPU: 2.4 s instead of 0.06 s for 768 x 768 x 3072.
            return torch.add(beta * C, self.mm(A, B), alpha=alpha)
        return torch.baddbmm(C, A, B, beta=beta, alpha=alpha)

    def ready(self, x: Tensor) -> Tensor:
        """Return x: torch.mm is fast in any layout."""
        return x

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Write a b to the view `out`, for single matrices."""
        torch.mm(a, b, out=out)

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Write alpha a b + beta c to the view `out`, for single matrices."""
        torch.addmm(c, a, b, alpha=alpha, beta=beta, out=out)


def _combined(P: Tensor, C: Tensor, alpha: Weight, beta: Weight) -> Tensor:
    """Compute alpha P + beta C in the dtype of C; alpha and beta may have a finer dtype.

    For alpha = 1 one pass over memory is enough: addcmul rounds each sum as it writes it.
    """
    if not isinstance(alpha, Tensor) and alpha == 1.0 and isinstance(beta, Tensor):
        if differentiated(P, C, beta) or torch.compiler.is_compiling():
            return torch.addcmul(P, C, beta).to(C.dtype)
        return torch.addcmul(P, C, beta, out=torch.empty_like(C, memory_format=torch.contiguous_format))
    return (alpha * P + beta * C).to(C.dtype)


def _better_one_by_one(C: Tensor, A: Tensor, B: Tensor, alpha: Weight, beta: Weight) -> bool:
    """Decide whether to call addmm matrix by matrix, with the weights read as Python numbers.

    On a CPU reading is free, and addmm saves three passes over memory in float32, which take as long as the product for
    bfloat16 matrices of 768 rows. Not for derivatives (the weights would be constants), float16 (addmm is slow, see
    `addmm`) or small matrices (the batched product is faster).
    """
    return (
        C.device.type == "cpu"
        and C.dtype != torch.float16
        and C.shape[-2] * C.shape[-1] >= _LARGE
        and not torch.compiler.is_compiling()
        and not differentiated(C, A, B, alpha, beta)
    )


def _one_by_one(C: Tensor, A: Tensor, B: Tensor, alpha: Weight, beta: Weight) -> Tensor:
    weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
    out = torch.empty_like(C, memory_format=torch.contiguous_format)
    for c, a, b, (product_weight, weight), into in zip(C, A, B, weights, out, strict=True):
        EAGER.write_sum(c, a, b, product_weight, weight, into)
    return out


EAGER = Eager()


def shifted(c: float | Tensor, B: Tensor) -> Tensor:
    """Add c I to B in place; nobody else may hold B."""
    diagonal = B.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(c.squeeze(-1) if isinstance(c, Tensor) else c)
    return B


def multiplied(c: float | Tensor, B: Tensor, X: Tensor, products: Products) -> Tensor:
    """(c I + B) X or X (c I + B), on the shorter side of X, where the Gram matrix of X is formed too."""
    left, right = (B, X) if X.shape[-2] <= X.shape[-1] else (X, B)
    return products.addmm(X, left, right, alpha=1.0, beta=c)


def without_autocast(A: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products on the device of A keep the dtype of their factors.

    Autocast would compute the products of a float32 root in bfloat16 and lose its accuracy.
    """
    kind = A.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
