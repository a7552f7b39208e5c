"""OneDNN products: float32 matrices multiplied by oneDNN on a CPU where torch's own choice, MKL, is slower."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Full, Weight, numbers

__all__ = ["ONEDNN", "OneDNN", "onednn_runs"]


def onednn_runs() -> bool:
    """Whether this build of torch has oneDNN, it is switched on, and its linear layer can be called by itself."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and _linear() is not None


@dataclass(frozen=True)
class OneDNN(Full):
    """`Products` of float32 matrices on a CPU, one after the other; full products, no derivatives.

    MKL takes its AVX2 path on AMD processors, and runs at half of their rate: 215 GF/s on two cores of an EPYC where
    oneDNN runs at 450, from 192 rows on. torch multiplies float32 matrices by MKL alone, but its linear layer X W^T,
    which `torch.compile` uses too, is oneDNN's.
    """

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """A B."""
        return _stacked([_product(a, b) for a, b in zip(A, B, strict=True)])

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Alpha A B + beta C."""
        weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
        return _stacked([_sum(c, a, b, *w) for c, a, b, w in zip(C, A, B, weights, strict=True)])

    def ready(self, x: Tensor) -> Tensor:
        """X, row by row: slices of columns would have to be copied each."""
        return x.contiguous()

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Out <- a b, of single matrices, into a view."""
        out.copy_(_product(a, b))

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Out <- alpha a b + beta c, of single matrices, into a view."""
        out.copy_(_sum(c, a, b, alpha, beta))


ONEDNN = OneDNN()


def _linear() -> object:
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _product(a: Tensor, b: Tensor) -> Tensor:
    linear = torch.ops.mkldnn._linear_pointwise
    return linear(_dense(a), _dense(b).mT, None, "none", [], "")


def _sum(c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float) -> Tensor:
    product = _product(a, b)
    return (product if alpha == 1.0 else product.mul_(alpha)).add_(c, alpha=beta)


def _dense(x: Tensor) -> Tensor:
    """X, copied if its rows and columns both skip memory: for such a matrix oneDNN has no fast path at all."""
    return x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous()


def _stacked(matrices: list[Tensor]) -> Tensor:
    return matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
