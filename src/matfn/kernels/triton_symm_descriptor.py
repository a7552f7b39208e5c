"""Symmetric products by tensor descriptors, for Hopper and Blackwell; each program computes many tiles.

The card's copy engine (TMA) loads and stores whole blocks, without addresses in registers. Descriptors are made on the
host, because those made on the device need an allocator that is global to the process.

By counting, not yet measured on a GPU: a processor multiplies 2048 pairs of half precision a clock, and loads at most
64 bytes a clock from the second cache. A step of depth 64 multiplies for 512 clocks and loads for 512 with a tile of
128 x 128, and multiplies for 1024 and loads for 768 with 128 x 256. So wide tiles come first where they fill the card.
Tiles across the diagonal and the last, incomplete wave leave this share of the matmul rate on 132 processors:

| stack | 128 x 256 | 128 x 128 | 128 x 128, two programs a processor |
|---|--:|--:|--:|
| 12 x 768 | 0.41 | 0.82 | 0.82 |
| 24 x 1024 | 0.73 | 0.83 | 0.73 |
| 8 x 2048 | 0.78 | 0.86 | 0.78 |
| 2 x 4096 | 0.78 | 0.97 | 0.97 |
| 8 x 4096 | 0.91 | 0.97 | 0.97 |
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # pyright: ignore[reportMissingImports]

from .products import Weight
from .triton_capture import address, check_compiled
from .triton_symm_pointer import place

__all__ = ["DescriptorTile", "by_descriptors", "describable", "processors", "symmetric_product_by_descriptors"]


@dataclass(frozen=True)
class DescriptorTile:
    """A tile and how to launch its kernel.

    Attributes:
        rows: Rows of a tile, a power of 2 from 16.
        columns: Columns of a tile: as many as rows, or twice as many.
        depth: Depth along the inner dimension, a power of 2 from 16.
        warps: Warps of a program.
        stages: Blocks of the inner dimension in flight.
        programs: Programs a processor. One program loads its next tile while it stores the last one; of two, one
            multiplies while the other stores.
        specialized: Whether warps of their own load and store. Triton can do that on Blackwell from 3.7 on; its passes
            for Hopper fail on this kernel in 3.6 and 3.7.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    programs: int = 1
    specialized: bool = False

    def __post_init__(self) -> None:
        if self.columns not in (self.rows, 2 * self.rows):
            raise ValueError(
                f"DescriptorTile takes as many columns as rows, or twice as many, got {self.rows} x {self.columns}"
            )

    def tiles(self, n: int) -> int:
        """Return how many tiles cover the lower triangle of an n x n matrix."""
        blocks = -(-n // self.columns)
        return blocks * (blocks + 1) // 2 * (self.columns // self.rows)


@triton.jit
def load_block(
    X: tl.tensor_descriptor, batch: tl.tensor, row: tl.tensor, start: tl.tensor,
    ROWS: tl.constexpr, DEPTH: tl.constexpr, TURNED: tl.constexpr, WIDEN: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Load rows of an operand, (ROWS, DEPTH); `TURNED` says that the descriptor has the inner dimension first."""
    if TURNED:
        block = tl.trans(tl.reshape(X.load([batch, start, row]), (DEPTH, ROWS)))
    else:
        block = tl.reshape(X.load([batch, row, start]), (ROWS, DEPTH))
    return block.to(tl.float32) if WIDEN else block


@triton.jit
def finish_square(
    total: tl.tensor, C: tl.tensor_descriptor, out: tl.tensor_descriptor, beta: tl.tensor, batch: tl.tensor,
    row: tl.tensor, column: tl.tensor, n: tl.tensor, ADD: tl.constexpr, SIZE: tl.constexpr, BRANCH: tl.constexpr,
) -> None:  # fmt: skip
    """Add beta C to a square of the result, and store the square and its mirror image.

    A square on the diagonal gets the mirror image of its lower half first, so that the result is symmetric to the last
    bit. A square above the diagonal belongs to another program: it is stored at column n, where the copy engine writes
    nothing. `BRANCH` mirrors squares on the diagonal only; without it all pass through shared memory once more, which
    takes fewer registers.
    """
    if ADD:
        total += beta * tl.reshape(C.load([batch, row, column]), (SIZE, SIZE)).to(tl.float32)
    tile = total.to(out.dtype)
    side = tl.arange(0, SIZE)
    lower = side[:, None] >= side[None, :]
    if BRANCH:
        if row == column:
            tile = tl.where(lower, tile, tl.trans(tile))
    else:
        tile = tl.where(lower | (row != column), tile, tl.trans(tile))
    column = tl.where(row < column, n, column)
    out.store([batch, row, column], tl.reshape(tile, (1, SIZE, SIZE)))
    out.store([batch, column, row], tl.reshape(tl.trans(tile), (1, SIZE, SIZE)))


@triton.jit(do_not_specialize=["n", "k", "blocks", "tiles", "alpha_batch", "beta_batch"])
def symmetric_product_by_descriptors(
    A: tl.tensor_descriptor, B: tl.tensor_descriptor, C: tl.tensor_descriptor, out: tl.tensor_descriptor,
    alpha: tl.tensor, beta: tl.tensor, n: tl.tensor, k: tl.tensor, blocks: tl.tensor, tiles: tl.tensor,
    alpha_batch: tl.tensor, beta_batch: tl.tensor,
    A_TURNED: tl.constexpr, B_TURNED: tl.constexpr, ADD: tl.constexpr, ALPHAS: tl.constexpr, BETAS: tl.constexpr,
    WIDEN: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, FLATTEN: tl.constexpr, SPECIALIZED: tl.constexpr, BRANCH: tl.constexpr,
) -> None:  # fmt: skip
    """Compute the lower triangle of alpha A B (+ beta C if `ADD`) and its mirror image; A (b, n, k), B as (b, n, k).

    Program p of P computes tiles p, p + P, p + 2 P, ... of all `tiles`. Sums are in float32. Entries beyond an edge
    are read as zeros and not written. `symmetric_product` explains `ALPHAS`, `BETAS`, `WIDEN` and `PRECISION`.
    """
    SPLIT: tl.constexpr = COLUMNS // ROWS  # 1 or 2
    count = blocks * (blocks + 1) // 2 * SPLIT
    for t in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=FLATTEN, warp_specialize=SPECIALIZED):  # pyright: ignore
        batch = t // count
        i, j = place(t % count // SPLIT, blocks, GROUP)  # pyright: ignore[reportGeneralTypeIssues]
        row = (i * SPLIT + t % count % SPLIT) * ROWS
        column = j * COLUMNS
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(tl.cdiv(k, DEPTH)):
            left = load_block(A, batch, row, step * DEPTH, ROWS, DEPTH, A_TURNED, WIDEN)
            right = load_block(B, batch, column, step * DEPTH, COLUMNS, DEPTH, B_TURNED, WIDEN)
            total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
        total *= tl.load(alpha + batch * alpha_batch).to(tl.float32) if ALPHAS else alpha
        weight = tl.load(beta + batch * beta_batch).to(tl.float32) if BETAS else beta
        if SPLIT == 1:
            finish_square(total, C, out, weight, batch, row, column, n, ADD, ROWS, BRANCH)
        else:
            one, two = tl.split(tl.permute(tl.reshape(total, (ROWS, 2, ROWS)), (0, 2, 1)))
            finish_square(one, C, out, weight, batch, row, column, n, ADD, ROWS, BRANCH)
            finish_square(two, C, out, weight, batch, row, column + ROWS, n, ADD, ROWS, BRANCH)


def describable(*matrices: Tensor) -> bool:
    """Tell whether the copy engine can read every stack (b, rows, columns), as it lies or transposed.

    Memory and strides are multiples of 16 bytes, one dimension is contiguous, and no two matrices share memory.
    """
    return all(_layout(X) is not None for X in matrices)


def _layout(X: Tensor) -> tuple[bool, tuple[int, int, int], tuple[int, int, int]] | None:
    """Return whether the last dimension comes second, the shape, and the strides for a descriptor, or None."""
    turned = X.stride(-1) != 1
    Y = X.mT if turned else X
    b, rows, columns = Y.shape
    row = Y.stride(-2) if rows > 1 else -(-columns * X.itemsize // 16) * 16 // X.itemsize
    batch = Y.stride(0) if b > 1 else rows * row
    aligned = all(x * X.itemsize % 16 == 0 for x in (row, batch)) and address(X) % 16 == 0
    if not X.numel() or Y.stride(-1) != 1 or row < columns or batch < 1 or not aligned:
        return None
    return turned, (b, rows, columns), (batch, row, 1)


def _described(X: Tensor, rows: int, columns: int) -> tuple[Any, bool]:
    """Return a descriptor with blocks of `rows` by `columns` of X, and whether its dimensions are exchanged."""
    layout = _layout(X)
    if layout is None:
        raise ValueError(f"no tensor descriptor for shape {tuple(X.shape)} and strides {X.stride()}")
    turned, shape, strides = layout
    block = [1, columns, rows] if turned else [1, rows, columns]
    return TensorDescriptor(X, list(shape), list(strides), block), turned


@cache
def processors(device: torch.device) -> int:
    """Return the number of processors of a card; 3 in triton's interpreter, so that programs take several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def by_descriptors(
    tile: DescriptorTile,
    A: Tensor,
    B: Tensor,
    C: Tensor | None,
    out: Tensor,
    alpha: Weight,
    beta: Weight,
    precision: str,
) -> None:
    """Write alpha A B (+ beta C) to `out`, contiguous; all are `describable`, `precision` as in `symmetric_product`."""
    b, n, k = A.shape
    left, a_turned = _described(A, tile.rows, tile.depth)
    right, b_turned = _described(B.mT, tile.columns, tile.depth)
    into, _ = _described(out, tile.rows, tile.rows)
    # The kernel does not read C without `ADD`. C is symmetric, so its transpose serves as well.
    added = into if C is None else _described(C, tile.rows, tile.rows)[0]
    weights = [w.contiguous() if isinstance(w, Tensor) else float(w) for w in (alpha, beta)]
    tiles = b * tile.tiles(n)
    compiled_for = [left, right, added, into, *weights]  # the kernel is the same for all sizes
    sizes = n, k, -(-n // tile.columns), tiles, *(int(isinstance(w, Tensor) and w.numel() > 1) for w in weights)
    options: dict[str, Any] = {
        "A_TURNED": a_turned, "B_TURNED": b_turned, "ADD": C is not None,
        "ALPHAS": isinstance(alpha, Tensor), "BETAS": isinstance(beta, Tensor), "WIDEN": A.is_cpu,
        "PRECISION": precision, **constants(tile), "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    kernel: Any = symmetric_product_by_descriptors
    with torch.cuda.device_of(A), check_compiled(kernel, A.device, compiled_for, options):  # no effect on a CPU
        kernel[(min(tiles, tile.programs * processors(A.device)),)](*compiled_for, *sizes, **options)


def constants(tile: DescriptorTile) -> dict[str, Any]:
    """Return the kernel's constants that follow from the tile."""
    return {
        "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "GROUP": 8,
        "FLATTEN": tile.programs == 1 and not tile.specialized, "SPECIALIZED": tile.specialized,
        "BRANCH": not tile.specialized,
    }  # fmt: skip
