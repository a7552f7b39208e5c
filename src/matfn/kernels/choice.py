"""Choice: which products an engine gets, by device, dtype and size, from measurements, and why."""

import platform
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from .blocked import Blocked
from .eager import EAGER
from .onednn import ONEDNN, onednn_runs
from .products import Plain, Products

__all__ = ["Choice", "choice_for", "products_for"]

# The height of a block row at which blocked products are quickest on a CPU (AMD EPYC with AVX512-BF16, one thread and
# two): 1.5 times as fast as full ones in float32 at 512 rows and more; in bfloat16 1.2 at 768, 1.3 at 1024 and 1.4 for
# 768 x 3072. Two such rows must fit.
_ROWS = {torch.float64: 64, torch.float32: 96, torch.bfloat16: 256}

# oneDNN's float32 products on an AMD processor with AVX512 (EPYC 9005, one thread and two): twice as fast as MKL's at
# 192 rows, 2.2 times at 768, no faster at 128. In block rows of 192 they are 1.1 times as fast as full ones at 384 rows
# and 1.4 times at 768.
_ONEDNN_ROWS, _ONEDNN_BLOCK = 192, 192

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
    if torch.compiler.is_compiling():
        return Choice(EAGER, "torch.compile follows plain products alone")
    if torch.is_grad_enabled() and X.requires_grad:
        return Choice(EAGER, "only plain products have derivatives")
    by_device = {"cpu": _on_cpu, "cuda": _on_cuda}.get(X.device.type)
    return Choice(EAGER, f"nothing else runs on {X.device.type}") if by_device is None else by_device(X, mirrored)


def _on_cpu(X: Tensor, mirrored: bool) -> Choice:
    short = min(X.shape[-2:])
    plain = _plain(X.dtype, short)
    if not mirrored:
        return Choice(plain.products, f"{plain.reason}; this iteration does not bear mirrored ones")
    rows = _ONEDNN_BLOCK if plain.products is ONEDNN else _ROWS.get(X.dtype)
    if rows is None:
        return Choice(EAGER, f"blocked products do not pay in {X.dtype}")
    if short < 2 * rows:
        return Choice(plain.products, f"{plain.reason}; two block rows of {rows} do not fit into {short}")
    reason = f"the short side of {short} has room for block rows of {rows}; {plain.reason}"
    return Choice(Blocked(rows, plain.products), reason)


@dataclass(frozen=True)
class _Plain:
    products: Plain
    reason: str


def _plain(dtype: torch.dtype, short: int) -> _Plain:
    """The full products of a CPU."""
    if dtype != torch.float32:
        return _Plain(EAGER, f"torch has its quickest products in {dtype}")
    if not _amd_with_avx512():
        return _Plain(EAGER, "oneDNN's float32 products are for AMD processors with AVX512, where MKL does without it")
    if not onednn_runs():
        return _Plain(EAGER, "this torch has no oneDNN, or has it switched off (torch.backends.mkldnn)")
    if short < _ONEDNN_ROWS:
        return _Plain(EAGER, f"{short} rows are below the {_ONEDNN_ROWS} from which oneDNN pays in float32")
    return _Plain(ONEDNN, "oneDNN has twice MKL's rate in float32 on this processor")


@lru_cache(maxsize=1)
def _amd_with_avx512() -> bool:
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    listed = Path("/proc/cpuinfo")
    text = listed.read_text(errors="replace") if listed.exists() else platform.processor()
    return "AuthenticAMD" in text


def _on_cuda(X: Tensor, mirrored: bool) -> Choice:
    short = min(X.shape[-2:])
    if not mirrored:
        return Choice(EAGER, "this iteration does not bear mirrored products")
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
