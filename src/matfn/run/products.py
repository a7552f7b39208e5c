"""Products: which matrix products a plan takes, by device, dtype and size, and the reason.

On NVIDIA GPUs the environment variable MATFN_PRODUCTS chooses: "measured" is the default, by time (`Quickest`);
"eager", "triton" and "quack" take one kernel for every symmetric product, whatever its time, so that the order of all
sums is the same in every run.
"""

import os

import torch

from ..kernels import EAGER, ONEDNN, Blocked, Products
from ..kernels.card import installed
from ..kernels.quack import QUACK_DTYPES, QuackSymmetric
from ..kernels.quickest import Quickest
from .machine import Machine, short
from .trials import TRIALS

__all__ = ["MEASURED", "products_for"]

MEASURED = Quickest(TRIALS)
_NAMES = ("measured", "eager", "triton", "quack")


def products_for(
    profile: Machine, device: str, rows: int, dtype: torch.dtype, *, mirrored: bool
) -> tuple[Products, str]:
    """Return the products for matrices with a short side of `rows`, and the reason.

    Args:
        profile: Of the machine.
        device: Type of the device.
        rows: The short side.
        dtype: Of the products.
        mirrored: Whether the iteration is stable if half of each symmetric result is mirrored.

    Raises:
        ValueError: If MATFN_PRODUCTS is another word.
        ImportError: If the package that MATFN_PRODUCTS asks for is missing.
    """
    named = os.environ.get("MATFN_PRODUCTS", "") or "measured"
    if named not in _NAMES:
        raise ValueError(f"MATFN_PRODUCTS must be one of {', '.join(_NAMES)}, got {named!r}")
    if device == "cpu":
        return _on_cpu(profile, rows, dtype, mirrored)
    if device != "cuda":
        return EAGER, "full products by the vendor's library"
    if not mirrored:
        return EAGER, "full products, because this iteration is not stable with mirrored ones"
    return _by_time(profile, dtype) if named == "measured" else _named(named, dtype)


def _on_cpu(profile: Machine, rows: int, dtype: torch.dtype, mirrored: bool) -> tuple[Products, str]:
    onednn = profile.onednn_rows
    quick = dtype == torch.float32 and onednn.value is not None and rows >= onednn.value
    plain, why = (ONEDNN, onednn.where) if quick else (EAGER, "torch's own products")
    if not mirrored:
        return plain, f"{why}; full ones, because this iteration is not stable with mirrored ones"
    height = profile.onednn_block.value if quick else dict(profile.block_rows).get(dtype)
    if height is None:
        return plain, f"{why}; block rows do not pay in {dtype}"
    if rows < 2 * height:
        return plain, f"{why}; two block rows of {height} do not fit into {rows}"
    return Blocked(height, plain), f"symmetric ones in block rows of {height}: {profile.block_where}"


def _by_time(profile: Machine, dtype: torch.dtype) -> tuple[Products, str]:
    if not profile.quickest.value:
        return EAGER, f"full products by the vendor's library: {profile.quickest.where}"
    if dtype == torch.float64:
        return EAGER, "full products by the vendor's library: no other kernel takes float64"
    if not (installed("triton") or installed("quack-kernels")):
        return EAGER, "full products by the vendor's library: neither triton nor quack-kernels is installed"
    return MEASURED, f"the quickest kernel for each size, timed on this card; {profile.quickest.where}"


def _named(named: str, dtype: torch.dtype) -> tuple[Products, str]:
    why = f"MATFN_PRODUCTS={named}"
    if named == "eager":
        return EAGER, why
    package, extra = {
        "triton": ("triton", "comes with torch for CUDA"),
        "quack": ("quack-kernels", 'is in "matfn[hopper]"'),
    }[named]
    if not installed(package):
        raise ImportError(f"{why} needs the package {package}, which {extra}: install it, or set another name")
    if named == "quack":
        return (
            (QuackSymmetric(), why) if dtype in QUACK_DTYPES else (EAGER, f"{why}, which does not take {short(dtype)}")
        )
    from ..kernels.triton_symm import DTYPES, TritonSymmetric  # late, because it imports triton

    return (TritonSymmetric(), why) if dtype in DTYPES else (EAGER, f"{why}, which does not take {short(dtype)}")
