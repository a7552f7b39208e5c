"""Triton products: compute the tiles of a symmetric result on and below the diagonal, and store each tile twice.

The only file that imports triton, which comes with torch for CUDA; import it where it is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.runtime.errors import OutOfResources  # pyright: ignore[reportMissingImports]

from .products import EAGER, Weight

__all__ = ["DTYPES", "TILES", "Tile", "TritonSymmetric"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile, its depth along the inner dimension (powers of 2 from 16), and launch options."""

    size: int
    depth: int
    warps: int
    stages: int


# Candidates: large tiles read less memory, small tiles keep more processors busy. All take at most 96 kB of shared
# memory and hardly spill registers on compute capability 8.0 and 9.0.
TILES = (Tile(128, 64, 8, 3), Tile(128, 32, 4, 4), Tile(64, 64, 4, 4), Tile(64, 32, 4, 4))
TILES_WIDE = (Tile(128, 32, 8, 3), Tile(64, 32, 4, 3), Tile(64, 16, 4, 4), Tile(32, 32, 4, 3))


@triton.jit
def place(t: tl.tensor, tiles: tl.tensor, GROUP: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return the row and column of tile number t of the lower triangle.

    The order is column by column within groups of `GROUP` rows, so that neighbouring tiles share cached data.
    """
    # The row of tile t in row order; the rounded root may be off by one.
    row = ((tl.sqrt(8.0 * t + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > t, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= t, row + 1, row)
    first = row // GROUP * GROUP  # first row of the group
    rest = t - first * (first + 1) // 2
    rows = tl.minimum(GROUP, tiles - first)
    # The group is a rectangle of `rows` by `first` tiles, then a triangle in row order.
    past = rest - rows * first
    down = ((tl.sqrt(8.0 * tl.maximum(past, 0) + 1.0) - 1.0) * 0.5 + 1e-4).to(tl.int32)
    i = tl.where(past < 0, first + rest % rows, first + down)
    j = tl.where(past < 0, rest // rows, first + past - down * (down + 1) // 2)
    return i, j


@triton.jit
def symmetric_product(
    A: tl.tensor, B: tl.tensor, C: tl.tensor, out: tl.tensor, alpha: tl.tensor, beta: tl.tensor,
    n: tl.tensor, k: tl.tensor, tiles: tl.tensor,
    a_batch: tl.tensor, a_row: tl.tensor, a_column: tl.tensor,
    b_batch: tl.tensor, b_row: tl.tensor, b_column: tl.tensor,
    c_batch: tl.tensor, c_row: tl.tensor, c_column: tl.tensor,
    alpha_batch: tl.tensor, beta_batch: tl.tensor,
    ADD: tl.constexpr, ALPHAS: tl.constexpr, BETAS: tl.constexpr, WIDEN: tl.constexpr,
    SIZE: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the lower triangle of alpha A B (+ beta C if `ADD`) and its mirror image; A (b, n, k), B (b, k, n).

    One program computes one tile, with sums in float32. `ALPHAS` and `BETAS` tell whether a weight is a pointer to one
    number per matrix. Offsets have 64 bits because a batch may have more than 2^31 entries. `WIDEN` casts to float32
    for triton's interpreter, which multiplies the bits of bfloat16 numbers instead of their values.
    """
    program = tl.program_id(0)
    count = tiles * (tiles + 1) // 2
    batch = (program // count).to(tl.int64)
    i, j = place(program % count, tiles, GROUP)  # pyright: ignore[reportGeneralTypeIssues]
    rows = (i * SIZE + tl.arange(0, SIZE)).to(tl.int64)
    columns = (j * SIZE + tl.arange(0, SIZE)).to(tl.int64)
    inner = tl.arange(0, DEPTH).to(tl.int64)
    a = A + batch * a_batch + rows[:, None] * a_row + inner[None, :] * a_column
    b = B + batch * b_batch + inner[:, None] * b_row + columns[None, :] * b_column
    total, depth = tl.full((SIZE, SIZE), 0.0, tl.float32), tl.full((), DEPTH, tl.int64)
    for start in range(0, k, DEPTH):
        left = tl.load(a, mask=(rows[:, None] < n) & (inner[None, :] < k - start), other=0.0)
        right = tl.load(b, mask=(inner[:, None] < k - start) & (columns[None, :] < n), other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")  # full float32, not TF32
        a += depth * a_column
        b += depth * b_row
    total *= tl.load(alpha + batch * alpha_batch).to(tl.float32) if ALPHAS else alpha
    # In diagonal tiles, too, the mirrored store writes the upper part: the result is symmetric to the last bit.
    lower = (rows[:, None] >= columns[None, :]) & (rows[:, None] < n)
    if ADD:
        c = tl.load(C + batch * c_batch + rows[:, None] * c_row + columns[None, :] * c_column, mask=lower, other=0.0)
        total += c.to(tl.float32) * (tl.load(beta + batch * beta_batch).to(tl.float32) if BETAS else beta)
    tile = total.to(out.dtype.element_ty)
    base = out + batch * n * n
    tl.store(base + rows[:, None] * n + columns[None, :], tile, mask=lower)
    upper = (columns[:, None] < rows[None, :]) & (rows[None, :] < n)
    tl.store(base + columns[:, None] * n + rows[None, :], tl.trans(tile), mask=upper)


@dataclass(frozen=True)
class TritonSymmetric:
    """`Products` that compute half of each symmetric result, on a GPU, in float16, bfloat16 and float32.

    Sums are in float32 for every dtype, and float32 products never use TF32, whatever torch's flag says. Results
    without symmetry go to torch. No derivatives. Not yet measured on a GPU.

    Attributes:
        tile: Tile of the kernel. None tries `TILES` on the first product of a kind (dtype, sizes up to a factor of 2)
            and keeps the fastest for the process. The trial waits for the device: seconds until triton has compiled
            the kernels to disk, a fraction of a second later. Name a tile to avoid the trial, or to make two processes
            agree to the last bit (the order of sums depends on the tile).
    """

    tile: Tile | None = None

    def syrk(self, X: Tensor) -> Tensor:
        """Compute X X^T."""
        return _product(self.tile, X, X.mT, None, 1.0, 0.0)

    def sym_mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B, symmetric."""
        return _product(self.tile, A, B, None, 1.0, 0.0)

    def sym_addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C, symmetric."""
        return _product(self.tile, A, B, C, alpha, beta)

    def mm(self, A: Tensor, B: Tensor) -> Tensor:
        """Compute A B without symmetry, by torch."""
        return EAGER.mm(A, B)

    def addmm(self, C: Tensor, A: Tensor, B: Tensor, *, alpha: Weight, beta: Weight) -> Tensor:
        """Compute alpha A B + beta C without symmetry, by torch."""
        return EAGER.addmm(C, A, B, alpha=alpha, beta=beta)


def _product(tile: Tile | None, A: Tensor, B: Tensor, C: Tensor | None, alpha: Weight, beta: Weight) -> Tensor:
    _check(A, B, C, alpha, beta)
    b, n, k = A.shape
    out = A.new_empty(b, n, n)
    if not out.numel():
        return out
    weights = [w.contiguous() if isinstance(w, Tensor) else w for w in (alpha, beta)]

    def launch(tile: Tile) -> None:
        tiles = triton.cdiv(n, tile.size)
        held = A if C is None else C  # the kernel needs a pointer, but does not read it
        with torch.cuda.device_of(A):  # no effect on a CPU
            kernel: Any = symmetric_product[(b * tiles * (tiles + 1) // 2,)]
            kernel(
                A, B, held, out, *weights, n, k, tiles, *A.stride(), *B.stride(), *held.stride(),
                *(int(isinstance(w, Tensor) and w.numel() > 1) for w in weights),
                ADD=C is not None, ALPHAS=isinstance(alpha, Tensor), BETAS=isinstance(beta, Tensor), WIDEN=A.is_cpu,
                SIZE=tile.size, DEPTH=tile.depth, GROUP=8, num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip

    launch(_quickest(A, B, launch) if tile is None else tile)
    return out


def _check(A: Tensor, *others: Tensor | float | None) -> None:
    if A.dtype not in DTYPES:
        raise TypeError(f"TritonSymmetric takes {', '.join(map(str, DTYPES))}, got {A.dtype}: take EAGER")
    if A.device.type == "cpu" and isinstance(symmetric_product, triton.JITFunction):
        raise RuntimeError("TritonSymmetric runs on a GPU, got a tensor on cpu: take Blocked()")
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (A, *others)):
        raise RuntimeError("TritonSymmetric has no derivative: take EAGER, or work under torch.no_grad()")


_CHOSEN: dict[tuple[object, ...], Tile] = {}


def _quickest(A: Tensor, B: Tensor, launch: Callable[[Tile], None]) -> Tile:
    """Return the tile that was fastest on the first product of this kind; run the trial if there is none yet."""
    tiles = TILES_WIDE if A.dtype == torch.float32 else TILES
    if A.device.type == "cpu":  # interpreted: timings mean nothing
        return tiles[-1]
    sizes = [x.bit_length() for x in A.shape]
    kind = (A.device, A.dtype, *sizes, A.stride(-1) == 1, B.stride(-1) == 1)
    if kind not in _CHOSEN:
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"TritonSymmetric has no tile yet for {tuple(A.shape)} {A.dtype} and cannot try any while a CUDA "
                f"graph is captured: run the step once before, or name a tile, as in TritonSymmetric({tiles[0]})"
            )
        _CHOSEN[kind] = min(tiles, key=lambda tile: _milliseconds(lambda: launch(tile)))
    return _CHOSEN[kind]


def _milliseconds(work: Callable[[], None]) -> float:
    """Time ten launches; infinite if the tile needs more shared memory than the device has."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    try:
        work()  # compile
    except OutOfResources:
        return float("inf")
    work()
    first.record()
    for _ in range(10):
        work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)
