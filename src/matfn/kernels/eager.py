"""Eager products: torch's own batched matmul, on every device and dtype; full products, also of symmetric results."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Full, Weight, numbers

__all__ = ["EAGER", "Eager"]

_LARGE = 256**2


@dataclass(frozen=True)
class Eager(Full):
    """The reference implementation of `Products`."""

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        if A.shape[0] == 1:
            # A batched product of one bfloat16 matrix costs up to 1.4 times the plain one on a CPU (768 x 3072).
            return (A[0] @ B[0]).unsqueeze(0)
        return A @ B

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        if isinstance(alpha, Tensor) or isinstance(beta, Tensor):
            if _better_one_by_one(C, A, B, alpha, beta):
                return _one_by_one(C, A, B, alpha, beta)
            return _combined(self.mm(A, B), C, alpha, beta)
        if C.dtype == torch.float16 and C.device.type == "cpu":
            # torch 2.13's CPU addmm in float16 has no fast path: 2.4 s instead of 0.06 s for 768 x 768 x 3072.
            return torch.add(beta * C, self.mm(A, B), alpha=alpha)
        return torch.baddbmm(C, A, B, beta=beta, alpha=alpha)

    def ready(self, x: Tensor) -> Tensor:
        """X: any rows and columns will do."""
        return x

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Out <- a b, of single matrices, into a view."""
        torch.mm(a, b, out=out)

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Out <- alpha a b + beta c, of single matrices, into a view."""
        torch.addmm(c, a, b, alpha=alpha, beta=beta, out=out)


def _combined(P: Tensor, C: Tensor, alpha: Weight, beta: Weight) -> Tensor:
    """Alpha P + beta C in the dtype of C; the numbers may be finer than the matrices.

    The sum is rounded as it is written, without a pass over it in the finer dtype, nor one that multiplies P by 1.
    """
    if not isinstance(alpha, Tensor) and alpha == 1.0 and isinstance(beta, Tensor):
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (P, C, beta))
        if differentiated or torch.compiler.is_compiling():
            return torch.addcmul(P, C, beta).to(C.dtype)
        return torch.addcmul(P, C, beta, out=torch.empty_like(C, memory_format=torch.contiguous_format))
    return (alpha * P + beta * C).to(C.dtype)


def _better_one_by_one(C: Tensor, A: Tensor, B: Tensor, alpha: Weight, beta: Weight) -> bool:
    """On a CPU a number is read at no cost, and addmm then saves three passes over memory in float32.

    For bfloat16 matrices of 768 rows those passes take as long as the product. Not for derivatives (the numbers would
    be constants), float16 (see below) and small matrices, of which a batched product does many at once.
    """
    tensors = [x for x in (C, A, B, alpha, beta) if isinstance(x, Tensor)]
    return (
        C.device.type == "cpu"
        and C.dtype != torch.float16
        and C.shape[-2] * C.shape[-1] >= _LARGE
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in tensors))
    )


def _one_by_one(C: Tensor, A: Tensor, B: Tensor, alpha: Weight, beta: Weight) -> Tensor:
    weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
    out = torch.empty_like(C, memory_format=torch.contiguous_format)
    for c, a, b, (product_weight, weight), into in zip(C, A, B, weights, out, strict=True):
        EAGER.write_sum(c, a, b, product_weight, weight, into)
    return out


EAGER = Eager()
