"""Symmetric products by pointers, for every card: one program computes one tile and stores it twice."""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .products import Weight
from .triton_capture import check_compiled

__all__ = ["PointerTile", "by_pointers", "place", "symmetric_product"]


@dataclass(frozen=True)
class PointerTile:
    """Rows and columns of a tile, its depth along the inner dimension (powers of 2 from 16), and launch options."""

    size: int
    depth: int
    warps: int
    stages: int


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
    PRECISION: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the lower triangle of alpha A B (+ beta C if `ADD`) and its mirror image; A (b, n, k), B (b, k, n).

    One program computes one tile, with sums in float32. `ALPHAS` and `BETAS` tell whether a weight is a pointer to one
    number per matrix. Offsets have 64 bits because a batch may have more than 2^31 entries. `WIDEN` casts to float32
    for triton's interpreter, which multiplies the bits of bfloat16 numbers instead of their values. `PRECISION` is
    triton's word for products of float32 numbers: "ieee" or "tf32x3".
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
        total = tl.dot(left, right, total, input_precision=PRECISION)
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


def by_pointers(
    tile: PointerTile, A: Tensor, B: Tensor, C: Tensor | None, out: Tensor, alpha: Weight, beta: Weight, precision: str
) -> None:
    """Write alpha A B (+ beta C) to `out`, contiguous and not empty; `precision` as in `symmetric_product`."""
    b, n, k = A.shape
    tiles = triton.cdiv(n, tile.size)
    held = A if C is None else C  # the kernel needs a pointer, but does not read it
    weights = [w.contiguous() if isinstance(w, Tensor) else float(w) for w in (alpha, beta)]
    given = [
        A, B, held, out, *weights, n, k, tiles, *A.stride(), *B.stride(), *held.stride(),
        *(int(isinstance(w, Tensor) and w.numel() > 1) for w in weights),
    ]  # fmt: skip
    options: dict[str, Any] = {
        "ADD": C is not None, "ALPHAS": isinstance(alpha, Tensor), "BETAS": isinstance(beta, Tensor), "WIDEN": A.is_cpu,
        "PRECISION": precision, "SIZE": tile.size, "DEPTH": tile.depth, "GROUP": 8,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    kernel: Any = symmetric_product
    with torch.cuda.device_of(A), check_compiled(kernel, A.device, given, options):  # no effect on a CPU
        kernel[(b * tiles * (tiles + 1) // 2,)](*given, **options)
