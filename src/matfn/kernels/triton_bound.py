"""Triton bound: the upper end of the spectrum of M from M and M^2, and a polynomial of M with numbers of each matrix.

`linalg.bounds.greatest_eigenvalue` in torch takes 25 launches and writes M and M^2 in float32. Here it is two launches,
which read M twice and M^2 once and write four numbers a program. The second launch waits for the trace, because the
squares of M^2 - 2 mu M + mu^2 I cannot be added up from separate sums without cancellation.

A step with numbers of each matrix on the device cannot pass them to the vendor's library, which takes one number for
all. In torch operations the polynomial makes four passes over float32 matrices. `combined` makes one, in the
dtype of M. Not yet measured on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

__all__ = ["Sums", "bound_sums", "combined", "power_of_2", "tile", "upper_end", "upper_scaled"]


@triton.jit(do_not_specialize=["parts"])
def first_sums(
    M: tl.tensor, sums: tl.tensor, n: tl.tensor, rows: tl.tensor, parts: tl.tensor, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Store the sum of the diagonal and the sum of squares of a part of the rows of each M, (b, parts, 4)."""
    matrix, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    inner = tl.arange(0, BLOCK)[None, :]
    stop = tl.minimum(n, (part + 1) * rows)
    trace, square = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(part * rows, stop, ROWS):  # pyright: ignore[reportArgumentType]
        row = (start + tl.arange(0, ROWS))[:, None]
        place = matrix * n * n + row.to(tl.int64) * n + inner
        m = tl.load(M + place, mask=(row < stop) & (inner < n), other=0.0).to(tl.float32)
        trace += tl.sum(tl.where(row == inner, m, 0.0), 1)
        square += tl.sum(m * m, 1)
    here = sums + (matrix * parts + part) * 4
    tl.store(here, tl.sum(trace, 0))
    tl.store(here + 1, tl.sum(square, 0))


@triton.jit(do_not_specialize=["parts", "zoom"])
def second_sums(
    M: tl.tensor, power: tl.tensor, sums: tl.tensor, n: tl.tensor, rows: tl.tensor, parts: tl.tensor, zoom: tl.tensor,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Store the sums of squares of M^2 - 2 mu M + mu^2 I and of M^2 over a part of the rows; `power` is `zoom` M^2.

    mu is the mean eigenvalue.
    """
    matrix, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tl.arange(0, PARTS)
    traces = tl.load(sums + (matrix * parts + place) * 4, mask=place < parts, other=0.0)
    mean = tl.sum(traces, 0) / n
    inner = tl.arange(0, BLOCK)[None, :]
    stop = tl.minimum(n, (part + 1) * rows)
    central, square = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(part * rows, stop, ROWS):  # pyright: ignore[reportArgumentType]
        row = (start + tl.arange(0, ROWS))[:, None]
        real = (row < stop) & (inner < n)
        where = matrix * n * n + row.to(tl.int64) * n + inner
        m = tl.load(M + where, mask=real, other=0.0).to(tl.float32)
        p = tl.load(power + where, mask=real, other=0.0).to(tl.float32) / zoom
        c = p - 2 * mean * m + tl.where((row == inner) & real, mean * mean, 0.0)
        central += tl.sum(c * c, 1)
        square += tl.sum(p * p, 1)
    here = sums + (matrix * parts + part) * 4
    tl.store(here + 2, tl.sum(central, 0))
    tl.store(here + 3, tl.sum(square, 0))


@triton.jit
def upper_end(
    sums: tl.tensor, n: tl.tensor, parts: tl.tensor, ROUNDOFF: tl.constexpr, SQUARED: tl.constexpr, PARTS: tl.constexpr
) -> tl.tensor:
    """Return the upper bound of the eigenvalues of one matrix from its sums (parts, 4); see `greatest_eigenvalue`."""
    place = tl.arange(0, PARTS)
    real = place < parts
    size = tl.zeros((), tl.float64) + n
    trace = tl.sum(tl.load(sums + place * 4, mask=real, other=0.0).to(tl.float64), 0)
    square = tl.sum(tl.load(sums + place * 4 + 1, mask=real, other=0.0).to(tl.float64), 0)
    mean, norm, rounded = trace / size, tl.sqrt(square), tl.sqrt(size) * 1.1920929e-07
    spread = tl.maximum(square - trace * mean + 8 * 1.1920929e-07 * square, 0.0)
    bound = mean + tl.sqrt(spread * (size - 1) / size)
    if SQUARED:
        central = tl.sum(tl.load(sums + place * 4 + 2, mask=real, other=0.0).to(tl.float64), 0)
        power = tl.sum(tl.load(sums + place * 4 + 3, mask=real, other=0.0).to(tl.float64), 0)
        bound = tl.minimum(bound, mean + tl.sqrt(tl.sqrt(central) + ROUNDOFF * tl.sqrt(power) + rounded * square))
    return bound + ROUNDOFF * norm + rounded * trace


@triton.jit(do_not_specialize=["parts"])
def scale_kernel(
    sums: tl.tensor, rows: tl.tensor, out: tl.tensor, n: tl.tensor, parts: tl.tensor, stride: tl.tensor,
    ROUNDOFF: tl.constexpr, SQUARED: tl.constexpr, K: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Store top, then c_j / top^(j + 1/2) for the coefficients c_0 .. c_K of one matrix."""
    matrix = tl.program_id(0).to(tl.int64)
    end = upper_end(sums + matrix * parts * 4, n, parts, ROUNDOFF, SQUARED, PARTS)
    top = tl.where(end > 0, end, 1.0)  # 1 for a zero matrix and for NaN
    scale = 1.0 / tl.sqrt(top)
    tl.store(out + matrix * (K + 2), top)
    for i in tl.static_range(K + 1):  # pyright: ignore[reportGeneralTypeIssues]
        c = tl.load(rows + matrix * stride + i).to(tl.float64)
        tl.store(out + matrix * (K + 2) + 1 + i, c * scale)
        scale = scale / top


@triton.jit(do_not_specialize=["zoom"])
def combine_kernel(
    M: tl.tensor, power: tl.tensor, numbers: tl.tensor, out: tl.tensor, n: tl.tensor, stride: tl.tensor,
    zoom: tl.tensor, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Store rows of (c_0 - 1) I + c_1 M + c_2 M^2 of one matrix, summed in float32; `power` is `zoom` M^2."""
    matrix = tl.program_id(0).to(tl.int64)
    row, column = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None], tl.arange(0, BLOCK)[None, :]
    real, c = (row < n) & (column < n), numbers + matrix * stride
    place = matrix * n * n + row.to(tl.int64) * n + column
    m = tl.load(M + place, mask=real, other=0.0).to(tl.float32)
    p = tl.load(power + place, mask=real, other=0.0).to(tl.float32)
    total = tl.load(c + 1) * m + tl.load(c + 2) / zoom * p + tl.where(row == column, tl.load(c) - 1.0, 0.0)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=real)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Sums:
    """Sums over parts of the rows of matrices, (b, parts, 4), and whether those of the square are among them."""

    values: Tensor
    squared: bool

    @property
    def parts(self) -> int:
        """The number of parts."""
        return self.values.shape[1]


def power_of_2(x: int) -> int:
    """Return the least power of 2 that is not below x."""
    return 1 << (x - 1).bit_length()


def tile(n: int) -> tuple[int, int, int, int]:
    """Return (rows of a part, columns of a tile, rows of a tile, warps) for n x n matrices.

    A part of 32 rows gives 288 programs for 12 x 768 rows. From 1024 rows on 64 rows are enough, and the work that
    every program of a look repeats is halved.
    """
    block = max(16, power_of_2(n))
    warps = 8 if block <= 2048 else 16
    return (32 if n <= 1024 else 64), block, max(1, min(16, warps * 1024 // block)), warps


def bound_sums(M: Tensor, power: Tensor | None, zoom: float = 1.0) -> Sums:
    """Sum up what `upper_end` needs of M (b, n, n), and of M^2 if `power` = `zoom` M^2 is given: one launch for each.

    Both are contiguous.
    """
    b, n = M.shape[0], M.shape[-1]
    rows, block, deep, warps = tile(n)
    parts = -(-n // rows)
    sums = torch.empty(b, parts, 4, dtype=torch.float32, device=M.device)
    options: dict[str, Any] = {"BLOCK": block, "ROWS": deep, "num_warps": warps}
    with torch.cuda.device_of(M):  # no effect on a CPU
        first: Any = first_sums[(b, parts)]
        first(M, sums, n, rows, parts, **options)
        if power is not None:
            second: Any = second_sums[(b, parts)]
            second(M, power, sums, n, rows, parts, zoom, PARTS=power_of_2(parts), **options)
    return Sums(sums, power is not None)


def upper_scaled(sums: Sums, rows: Tensor, n: int, roundoff: float) -> Tensor:
    """Return top and the coefficients c_j / top^(j + 1/2), (b, k + 2) float32, for rows c_0 .. c_k, (b, k + 1).

    The matrices are n x n, with the unit roundoff of their dtype.
    """
    b, k = rows.shape[0], rows.shape[1] - 1
    out = torch.empty(b, k + 2, dtype=torch.float32, device=rows.device)
    with torch.cuda.device_of(rows):
        kernel: Any = scale_kernel[(b,)]
        kernel(
            sums.values, rows, out, n, sums.parts, rows.stride(0), ROUNDOFF=roundoff, SQUARED=sums.squared, K=k,
            PARTS=power_of_2(sums.parts), num_warps=1,
        )  # fmt: skip
    return out


def combined(M: Tensor, power: Tensor, numbers: Tensor, zoom: float = 1.0) -> Tensor:
    """Return (c_0 - 1) I + c_1 M + c_2 M^2 in the dtype of M, from M and `power` = `zoom` M^2 (b, n, n), contiguous.

    `numbers` (b, 3) are c_0, c_1, c_2 of each matrix, with entries next to each other. One launch.
    """
    b, n = M.shape[0], M.shape[-1]
    out = torch.empty_like(M)
    _, block, deep, warps = tile(n)
    with torch.cuda.device_of(M):
        kernel: Any = combine_kernel[(b, -(-n // deep))]
        kernel(M, power, numbers, out, n, numbers.stride(0), zoom, BLOCK=block, ROWS=deep, num_warps=warps)
    return out
