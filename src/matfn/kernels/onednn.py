"""OneDNN products: float32 products by oneDNN, for CPUs on which torch's default, MKL, is slower."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Full, Weight, numbers

__all__ = ["ONEDNN", "OneDNN", "onednn_runs"]


def onednn_runs() -> bool:
    """Tell whether torch has oneDNN, oneDNN is enabled, and its linear layer can be called."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and _linear() is not None


@dataclass(frozen=True)
class OneDNN(Full):
    """`Products` of float32 matrices on a CPU, matrix by matrix; symmetric results in full, no derivatives.

    On AMD processors MKL takes its AVX2 path: 215 GF/s on two cores of an EPYC, oneDNN 450 GF/s (from 192 rows on).
    torch multiplies float32 matrices by MKL alone. Its linear layer X W^T, also used by `torch.compile`, is oneDNN's.
    """

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B."""
        return _stacked([_product(a, b) for a, b in zip(A, B, strict=True)])

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C."""
        weights = zip(numbers(alpha, len(C)), numbers(beta, len(C)), strict=True)
        return _stacked([_sum(c, a, b, *w) for c, a, b, w in zip(C, A, B, weights, strict=True)])

    def ready(self, x: Tensor) -> Tensor:
        """Return x with contiguous rows; otherwise each product would copy its block rows."""
        return x.contiguous()

    def write(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """Write a b to the view `out`, for single matrices."""
        out.copy_(_product(a, b))

    def write_sum(self, c: Tensor, a: Tensor, b: Tensor, alpha: float, beta: float, out: Tensor) -> None:
        """Write alpha a b + beta c to the view `out`, for single matrices."""
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
    """Copy x if neither its rows nor its columns are contiguous: oneDNN is slow for such a matrix."""
    return x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous()


def _stacked(matrices: list[Tensor]) -> Tensor:
    return matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
