"""Choice: which products an engine gets, by device, dtype and size, from measurements, and why."""

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from .blocked import Blocked
from .eager import EAGER
from .products import Products

__all__ = ["Choice", "choice_for", "products_for"]

# The height of a block row at which blocked products are quickest on a CPU (AMD EPYC with AVX512-BF16, one thread): 1.5
# times as fast as full ones in float32 at 512 rows and more, 1.3 to 1.5 in bfloat16 at 768. Two such rows must fit.
_ROWS = {torch.float64: 64, torch.float32: 96, torch.bfloat16: 192}

# From here on Triton's products of half the tiles are taken on a GPU: 10 tiles of 128 in place of 16. Not yet measured
# on a GPU. Not in float32 either, where torch's products without TF32 may well be quicker than half of Triton's.
_TRITON_ROWS = 512
_TRITON_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Choice:
    """Products, and the reason for them.

    Attributes:
        products: For the engine.
        reason: One clause, for people.
    """

    products: Products
    reason: str


def products_for(X: Tensor, mirrored: bool) -> Products:
    """The products that `choice_for` chooses."""
    return choice_for(X, mirrored).products


def choice_for(X: Tensor, mirrored: bool) -> Choice:
    """The products for iterates (b, m, n): those that mirror half of a symmetric result where they pay.

    Args:
        X: The first iterate, in the dtype of the iteration.
        mirrored: Whether the iteration bears that symmetric products are mirrored. That of the polar factor does. The
            coupled one for roots does not: from condition 1e4 on it diverges, since the error that makes Z Y
            nonsymmetric is the one by which Z and Y correct each other.
    """
    if not mirrored:
        return Choice(EAGER, "this iteration does not bear mirrored products")
    if torch.compiler.is_compiling():
        return Choice(EAGER, "torch.compile follows plain products alone")
    if torch.is_grad_enabled() and X.requires_grad:
        return Choice(EAGER, "only plain products have derivatives")
    by_device = {"cpu": _on_cpu, "cuda": _on_cuda}.get(X.device.type)
    return Choice(EAGER, f"nothing else runs on {X.device.type}") if by_device is None else by_device(X)


def _on_cpu(X: Tensor) -> Choice:
    rows, short = _ROWS.get(X.dtype), min(X.shape[-2:])
    if rows is None:
        return Choice(EAGER, f"blocked products do not pay in {X.dtype}")
    if short < 2 * rows:
        return Choice(EAGER, f"two block rows of {rows} do not fit into {short}")
    return Choice(Blocked(rows), f"the short side of {short} has room for block rows of {rows} in {X.dtype}")


def _on_cuda(X: Tensor) -> Choice:
    short = min(X.shape[-2:])
    if X.dtype not in _TRITON_DTYPES:
        return Choice(EAGER, f"Triton products are not thought to pay in {X.dtype} (not yet measured on a GPU)")
    if short < _TRITON_ROWS:
        return Choice(
            EAGER, f"{short} rows are below the {_TRITON_ROWS} of Triton products (not yet measured on a GPU)"
        )
    if find_spec("triton") is None:
        return Choice(
            EAGER, "triton is not installed (pip install triton), so all of each symmetric result is computed"
        )
    from .triton_symm import TritonSymmetric  # takes a second to import, and is not everywhere

    return Choice(TritonSymmetric(), f"{short} rows are {_TRITON_ROWS} or more (not yet measured on a GPU)")
