"""Triton products: compute the tiles of a symmetric result on and below the diagonal, and store each tile twice.

Import this file where it is used: triton comes with torch for CUDA, and is not needed otherwise.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

try:
    import triton  # pyright: ignore[reportMissingImports]
except ImportError as missing:
    raise ImportError(
        "matfn.kernels.triton_symm needs the package triton, which comes with torch for CUDA: pip install triton, or "
        "take matfn.kernels.EAGER"
    ) from missing

from .products import EAGER, Weight, differentiated
from .triton_symm_descriptor import DescriptorTile, by_descriptors, describable, processors
from .triton_symm_pointer import PointerTile, by_pointers, symmetric_product

__all__ = ["DTYPES", "DescriptorTile", "PointerTile", "TritonSymmetric", "candidates"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

Float32 = Literal["ieee", "tf32x3"]
Tile = PointerTile | DescriptorTile
Capability = tuple[int, int]

# Best guess first. tests/kernels/test_triton_tiles.py compiles each for the cards it serves: no spilled registers, at
# most 96 kB of shared memory with pointers and 227 kB with descriptors.
POINTER_HALF = (PointerTile(128, 64, 8, 3), PointerTile(64, 64, 4, 4))
POINTER_IEEE = (PointerTile(64, 16, 4, 4), PointerTile(32, 32, 4, 3))
POINTER_TF32X3 = (PointerTile(64, 32, 4, 3), PointerTile(32, 32, 4, 3))
HOPPER_HALF = (
    DescriptorTile(128, 256, 64, 8, 3),
    DescriptorTile(128, 128, 64, 8, 4),
    DescriptorTile(128, 128, 32, 4, 4, programs=2),
    DescriptorTile(64, 128, 64, 4, 3, programs=2),
)
# Blackwell: for 128 x 256 the compiler spills some hundred bytes a thread, specialized or not.
BLACKWELL_HALF = (DescriptorTile(128, 128, 64, 8, 4), DescriptorTile(64, 64, 64, 4, 4))
BLACKWELL_SPECIALIZED = (DescriptorTile(128, 128, 64, 8, 3, specialized=True),)
DESCRIPTOR_TF32X3 = (DescriptorTile(128, 128, 32, 8, 3), DescriptorTile(64, 64, 32, 4, 3, programs=2))


@dataclass(frozen=True)
class TritonSymmetric:
    """`Products` that compute half of each symmetric result, on a GPU, in float16, bfloat16 and float32.

    Sums are in float32 for every dtype, and float32 numbers are never rounded to TF32, whatever torch's flag says.
    Results without symmetry go to torch. No derivatives. Not yet measured on a GPU with tensor descriptors.

    Attributes:
        tile: Tile of the kernel; `candidates` lists those worth a trial. None: the tile that by counting keeps the card
            busiest. The order of sums depends on the tile. A `DescriptorTile` serves Hopper and Blackwell; other cards,
            and operands whose memory is not a multiple of 16 bytes apart, take a `PointerTile` in its place.
        float32: Products of float32 numbers. "ieee" multiplies float32 numbers without tensor cores. "tf32x3" writes
            each number as a sum of two TF32 numbers and multiplies those on tensor cores, without the product of the
            two lesser parts: products are right to 3 * 2^-22 of their size, where float32 rounds by 2^-24.
    """

    tile: Tile | None = None
    float32: Float32 = "ieee"

    def __post_init__(self) -> None:
        if not (self.tile is None or isinstance(self.tile, PointerTile | DescriptorTile)):
            raise TypeError(f"TritonSymmetric: tile is a PointerTile, a DescriptorTile or None, got {self.tile!r}")
        if self.float32 not in ("ieee", "tf32x3"):
            raise ValueError(f'TritonSymmetric: float32 is "ieee" or "tf32x3", got {self.float32!r}')

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        return self._product(X, X.mT, None, 1.0, 0.0)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B, symmetric."""
        return self._product(A, B, None, 1.0, 0.0)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C, symmetric."""
        return self._product(A, B, C, alpha, beta)

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B without symmetry, by torch."""
        return EAGER.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C without symmetry, by torch."""
        return EAGER.addmm(C, A, B, alpha=alpha, beta=beta)

    def _product(self, A: Tensor, B: Tensor, C: Tensor | None, alpha: Weight, beta: Weight) -> Tensor:
        _check(A, B, C, alpha, beta)
        b, n, _ = A.shape
        out = A.new_empty(b, n, n)
        if not out.numel():
            return out
        capability = _capability(A.device)
        described = capability[0] in _DESCRIBING and describable(A, B, out, *(() if C is None else (C,)))
        tile = self.tile
        if tile is None or (isinstance(tile, DescriptorTile) and not described):
            tile = _busiest(capability, processors(A.device), A.dtype, self.float32, b, n, described)
        if isinstance(tile, DescriptorTile):
            by_descriptors(tile, A, B, C, out, alpha, beta, self.float32)
        else:
            by_pointers(tile, A, B, C, out, alpha, beta, self.float32)
        return out


_DESCRIBING = (9, 10)  # compute capabilities, without the minor number, with the memory that the tiles need


def _check(A: Tensor, *others: Tensor | float | None) -> None:
    if A.dtype not in DTYPES:
        raise TypeError(f"TritonSymmetric takes {', '.join(map(str, DTYPES))}, got {A.dtype}: take EAGER")
    if A.device.type == "cpu" and isinstance(symmetric_product, triton.JITFunction):
        raise RuntimeError("TritonSymmetric runs on a GPU, got a tensor on cpu: take Blocked()")
    if differentiated(A, *others):
        raise RuntimeError("TritonSymmetric has no derivative: take EAGER, or work under torch.no_grad()")


@cache
def _capability(device: torch.device) -> Capability:
    """Return the compute capability of a card; triton's interpreter does what Hopper does."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def candidates(
    capability: Capability, dtype: torch.dtype, n: int, *, float32: Float32 = "ieee"
) -> tuple[TritonSymmetric, ...]:
    """Return the products worth a trial for matrices of n rows on a card, the best guess for large stacks first.

    Args:
        capability: Compute capability of the card, as of `torch.cuda.get_device_capability`.
        dtype: float16, bfloat16 or float32.
        n: Rows of the symmetric result. Tiles more than twice as wide are left out.
        float32: How float32 numbers are multiplied; `TritonSymmetric` explains it.
    """
    tiles = [*_by_descriptors(capability, dtype, float32), *_by_pointers(dtype, float32)]
    # A pointer tile serves every layout.
    kept = [t for t in tiles if _sides(t)[1] < 2 * n] or [min(_by_pointers(dtype, float32), key=_sides)]
    return tuple(TritonSymmetric(tile, float32) for tile in kept)


def _by_pointers(dtype: torch.dtype, float32: Float32) -> tuple[PointerTile, ...]:
    if dtype != torch.float32:
        return POINTER_HALF
    return POINTER_TF32X3 if float32 == "tf32x3" else POINTER_IEEE


def _by_descriptors(capability: Capability, dtype: torch.dtype, float32: Float32) -> tuple[DescriptorTile, ...]:
    # Products of float32 numbers in full run outside the tensor cores, on numbers in registers: with descriptors the
    # compiler spills some hundred bytes a thread for every tile that was tried.
    if capability[0] not in _DESCRIBING or (dtype == torch.float32 and float32 == "ieee"):
        return ()
    if dtype == torch.float32:
        return DESCRIPTOR_TF32X3
    return HOPPER_HALF if capability[0] == 9 else _blackwell_half()


def _blackwell_half() -> tuple[DescriptorTile, ...]:
    """Leave out what triton 3.6 does not compile."""
    major, minor = (int(x) for x in triton.__version__.split(".")[:2])
    return (*BLACKWELL_SPECIALIZED, *BLACKWELL_HALF) if (major, minor) >= (3, 7) else BLACKWELL_HALF


def _sides(tile: Tile) -> tuple[int, int]:
    return (tile.size, tile.size) if isinstance(tile, PointerTile) else (tile.rows, tile.columns)


@cache
def _busiest(
    capability: Capability, processors: int, dtype: torch.dtype, float32: Float32, b: int, n: int, described: bool
) -> Tile:
    """Return the tile that takes the least time by counting.

    Tiles run in waves, one or two tiles on each processor. A tile takes as long as its products, and its loads: a
    processor loads a number in the time of 64 products (2048 products and 64 bytes of half precision a clock).
    """

    def time(tile: Tile) -> int:
        rows, columns = _sides(tile)
        if isinstance(tile, DescriptorTile):
            tiles, programs = tile.tiles(n), tile.programs
        else:
            tiles, programs = (blocks := -(-n // rows)) * (blocks + 1) // 2, 1
        waves = -(-b * tiles // (processors * programs))
        return waves * programs * (rows * columns + 64 * (rows + columns))

    tiles = [c.tile for c in candidates(capability, dtype, n, float32=float32)]
    return min((t for t in tiles if t is not None and (described or isinstance(t, PointerTile))), key=time)
