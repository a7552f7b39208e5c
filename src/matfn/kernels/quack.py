"""Quack products: symmetric products by the package quack-kernels, for NVIDIA GPUs of sm_90 and newer.

The only file that imports quack, which is an optional extra: pip install "matfn[hopper]".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .products import EAGER, Products, Weight, differentiated

__all__ = ["QUACK_DTYPES", "QuackSymmetric"]

QUACK_DTYPES = (torch.float16, torch.bfloat16)
_WHOLE = 8  # entries of half precision in 16 bytes. quack reads and writes memory in pieces of 16 bytes


@dataclass(frozen=True)
class QuackSymmetric:
    """`Products` that compute half of each symmetric result by quack, in float16 and bfloat16; no derivatives.

    Sums are in float32. quack compiles a kernel at the first product of each kind, for some seconds. On an H200
    (2026-11-26, quack-kernels 0.5.0) X X^T of 2048 x 8192 took .441 ms, cuBLAS's full product .707; at 768 rows both
    took about as long. `Quickest` decides by time.

    Attributes:
        others: Products for what quack does not compute: sizes that are no multiples of 8, weights that are tensors,
            and all results without symmetry.
    """

    others: Products = EAGER

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        _check(X)
        if not _takes(*X.shape[-2:]):
            return self.others.syrk(X)
        X = _readable(X)
        return _product(X, X.mT)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B, symmetric."""
        _check(A, B)
        if not _takes(*A.shape[-2:]):
            return self.others.sym_mm(A, B)
        return _product(_readable(A), _readable(B))

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C, symmetric."""
        _check(A, B, C, alpha, beta)
        # quack reads a tensor as one float32 number for the whole stack, which is not what a `Weight` is.
        if isinstance(alpha, Tensor) or isinstance(beta, Tensor) or not _takes(*A.shape[-2:]):
            return self.others.sym_addmm(C, A, B, alpha=alpha, beta=beta)
        # quack takes any number that is no float for a tensor.
        return _product(_readable(A), _readable(B), C=_readable(C), alpha=float(alpha), beta=float(beta))

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B without symmetry."""
        return self.others.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C without symmetry."""
        return self.others.addmm(C, A, B, alpha=alpha, beta=beta)


def _takes(n: int, k: int) -> bool:
    """Tell whether quack computes a symmetric n x n result with inner dimension k."""
    return n > 0 and n % _WHOLE == 0 and k % _WHOLE == 0


def _product(A: Tensor, B: Tensor, **sum_with: Tensor | float) -> Tensor:
    with torch.cuda.device_of(A):  # no effect on a CPU
        return _imported()(A, B, **sum_with)


@lru_cache(maxsize=1)
def _imported() -> Callable[..., Tensor]:
    try:
        from quack.gemm_interface import gemm_symmetric  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            f"QuackSymmetric needs the package quack-kernels, and importing it failed ({error}): "
            'pip install "matfn[hopper]", or take EAGER'
        ) from error
    return gemm_symmetric


def _check(A: Tensor, *others: Tensor | float) -> None:
    if A.dtype not in QUACK_DTYPES:
        raise TypeError(f"QuackSymmetric takes {', '.join(map(str, QUACK_DTYPES))}, got {A.dtype}: take EAGER")
    if error := _unfit(A.device):
        raise RuntimeError(f"QuackSymmetric runs on an NVIDIA GPU of sm_90 or newer, got {error}: take EAGER")
    if differentiated(A, *others):
        raise RuntimeError("QuackSymmetric has no derivative: take EAGER, or work under torch.no_grad()")


@lru_cache(maxsize=64)
def _unfit(device: torch.device) -> str | None:
    if device.type != "cuda" or torch.version.hip is not None:
        return f"a tensor on {device}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 9 else f"a GPU of sm_{major}{minor}"


def _readable(x: Tensor) -> Tensor:
    """Return x (b, rows, columns) if its rows or columns lie together and all start at 16 bytes, else a copy."""
    batch, rows, columns = x.stride()
    whole = rows == 1 or columns == 1
    for stride in (batch, columns if rows == 1 else rows):
        whole = whole and stride > 0 and stride % _WHOLE == 0
    return x if whole and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)
