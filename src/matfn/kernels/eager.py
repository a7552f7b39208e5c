"""Eager products: torch's batched matmul, for every device and dtype; symmetric results are computed in full."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Full, Weight, numbers

__all__ = ["EAGER", "Eager"]

_LARGE = 256**2


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
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (P, C, beta))
        if differentiated or torch.compiler.is_compiling():
            return torch.addcmul(P, C, beta).to(C.dtype)
        return torch.addcmul(P, C, beta, out=torch.empty_like(C, memory_format=torch.contiguous_format))
    return (alpha * P + beta * C).to(C.dtype)


def _better_one_by_one(C: Tensor, A: Tensor, B: Tensor, alpha: Weight, beta: Weight) -> bool:
    """Decide whether to call addmm matrix by matrix, with the weights read as Python numbers.

    On a CPU reading is free, and addmm saves three passes over memory in float32, which take as long as the product for
    bfloat16 matrices of 768 rows. Not for derivatives (the weights would be constants), float16 (addmm is slow, see
    `addmm`) or small matrices (the batched product is faster).
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
