"""Triton passes over a stack of matrices: peak and norm in one read; division, cast and sketch in a second read.

Bytes for each float32 entry, and launches, with the sketch, if X is written in half precision:

| | passes | bytes | launches |
|---|---|--:|--:|
| torch | two extrema, divide, norm, divide, cast, sketch | 4 + 4 + 8 + 4 + 8 + 6 + 4 | 19 |
| here | peak and norm; divide, cast and sketch | 4 + 6 | 2 |

Predicted on an H200 (4.8 TB/s; 1.5 us a launch in a graph): 0.06 ms against 0.25 for 12 x 768 x 3072, 0.28 ms against
1.1 for 8 x 2048 x 8192. Not yet measured on a GPU.
"""

from typing import Any, NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .products import differentiated

__all__ = ["DTYPES", "Scaled", "scaled"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ENTRIES = 4096  # of a tile that is written. A tile that is only read has twice as many
MOST_PARTS = 512  # partial results of a matrix, each of one tile or more
PROGRAMS = 4096  # about as many in the second pass, if the stack has as many tiles. Each combines partial results


class Scaled(NamedTuple):
    """The result of `scaled`.

    Attributes:
        X: c A / ||A||_F, (b, m, n).
        sketch: S^T X, (b, k, max(m, n)); k = 0 if no sketch was wanted.
        peak: Largest |entry| of each matrix, (b, 1, 1) in float32; 1 for a zero matrix.
        norm: Frobenius norm after division by the peak, (b, 1, 1) in float32; 1 for a zero matrix.
        size: peak * norm, the Frobenius norm itself, infinite if float32 cannot hold it.
    """

    X: Tensor
    sketch: Tensor
    peak: Tensor
    norm: Tensor
    size: Tensor


def scaled(A: Tensor, precision: torch.dtype, *, factor: float = 1.0, sketch: int = 0) -> Scaled:
    """Return X = factor A / ||A||_F in `precision`, the norm, and a sketch of X, in two launches whatever b is.

    The semantics are those of `linalg.norms.prescale`: squares neither overflow nor underflow; a zero matrix stays
    zero; a NaN or an infinity makes its matrix NaN and no other. If A is multiplied by a power of two and its peak
    stays a normal float32 number, X is the same bit for bit. The bits differ from the bits of `prescale`, which divides
    twice; here a power of two and then factor / norm are multiplied. There are no atomic operations: the result is
    deterministic, and does not depend on the other matrices of the stack.

    Args:
        A: (b, m, n), float32, bfloat16 or float16; fast if the last or the second-last axis is contiguous.
        precision: Dtype of X and of the sketch, one of the same three.
        factor: A power of two that keeps the entries of X out of the subnormal numbers of half precision.
        sketch: Columns k of S. With H = X if m <= n, else X^T, row i of the sketch is the sum over j = 1..l of
            cos(j^2) times row i l + j - 1 of H, where l = min(m, n) // k. It is formed before X is rounded.

    Raises:
        TypeError: If a dtype is not one of the three.
        ValueError: If there are more columns in the sketch than rows in H.
        RuntimeError: If A is on a CPU and triton does not interpret, or needs a gradient.
    """
    _check(A, precision, sketch)
    X = torch.empty_like(A, dtype=precision)
    S = A.new_empty(A.shape[0], sketch, max(A.shape[-2:]), dtype=precision)
    sizes = [A.new_empty(A.shape[0], 1, 1, dtype=torch.float32) for _ in range(3)]  # peak, norm and their product
    if not A.numel():
        return Scaled(X, S, *(size.fill_(1.0) for size in sizes))
    quick, into = (A.mT, X.mT) if A.stride(-2) < A.stride(-1) else (A, X)  # the quick axis of A is the last
    flat = _is_flat(quick) and _is_flat(into)
    with torch.cuda.device_of(A):  # no effect on a CPU
        partial = _reduced(_flattened(quick) if flat else quick)
        if sketch:
            quick, into = (A.mT, X.mT) if A.shape[-2] > A.shape[-1] else (A, X)
        elif flat:
            quick, into = _flattened(quick), _flattened(into)
        _written(quick, into, S, partial, sizes, factor)
    return Scaled(X, S, *sizes)


@triton.jit
def power_of_two(peak: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return the largest power of two up to `peak`, kept from 2^-126 to 2^126, and its inverse; both are exact."""
    bits = peak.to(tl.int32, bitcast=True) & 0x7F800000
    bits = tl.minimum(tl.maximum(bits, 0x00800000), 0x7E800000)
    inverse = 0x7F000000 - bits
    return bits.to(tl.float32, bitcast=True), inverse.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["parts"])
def reduce_parts(
    A: tl.tensor, partial: tl.tensor, rows: tl.tensor, columns: tl.tensor, parts: tl.tensor,
    a_batch: tl.tensor, a_row: tl.tensor, a_column: tl.tensor, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Write the peak of part of a matrix and the sum of squares relative to the peak's power of two.

    A maximum ignores NaN, but the sum becomes NaN. An infinity is its own peak, and makes the sum infinite.
    """
    program = tl.program_id(0)
    batch, part = (program // parts).to(tl.int64), program % parts
    across = tl.cdiv(columns, COLUMNS)
    peak, total = tl.full((), 0.0, tl.float32), tl.full((), 0.0, tl.float32)
    for tile in range(part, tl.cdiv(rows, ROWS) * across, parts):
        i = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        j = (tile % across).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
        mask = (i[:, None] < rows) & (j[None, :] < columns)
        a = tl.load(A + batch * a_batch + i[:, None] * a_row + j[None, :] * a_column, mask=mask, other=0.0)
        a = tl.abs(a.to(tl.float32))
        old, _ = power_of_two(peak)
        peak = tl.maximum(peak, tl.max(tl.max(a, 1), 0))
        _, inverse = power_of_two(peak)
        a *= inverse
        total = total * (old * inverse) * (old * inverse) + tl.sum(tl.sum(a * a, 1), 0)
    tl.store(partial + 2 * program.to(tl.int64), peak)
    tl.store(partial + 2 * program.to(tl.int64) + 1, total)


@triton.jit
def combined(partial: tl.tensor, parts: tl.tensor, PARTS: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return peak, inverse power of two and the norm after multiplication by it, of one matrix from its parts."""
    part = tl.arange(0, PARTS)
    peaks = tl.load(partial + 2 * part, mask=part < parts, other=0.0)
    sums = tl.load(partial + 2 * part + 1, mask=part < parts, other=0.0)
    peak = tl.max(peaks, 0)
    old, _ = power_of_two(peaks)
    _, inverse = power_of_two(peak)
    total = tl.sum(sums * (old * inverse) * (old * inverse), 0)
    norm = tl.where(total < float("inf"), tl.sqrt_rn(total), float("nan"))
    return tl.where(total == total, peak, total), inverse, tl.where(norm == 0, 1.0, norm)


@triton.jit
def cosine_of_square(r: tl.tensor) -> tl.tensor:
    """Return cos(r^2) for integers r, to 6e-7 up to r = 1000, to 2e-6 up to 2000.

    CUDA's cosine keeps memory for large arguments. Here 2 pi is subtracted in three parts, of which the first two have
    five digits each, so that their multiples are exact; then cos(2 y) = 1 - 2 sin(y)^2 with the Taylor polynomial of
    degree 13 for |y| <= pi / 2.
    """
    x = (r * r).to(tl.float32)
    turns = tl.floor(x * 0.15915494309189535 + 0.5)
    x = ((x - turns * 6.25) - turns * 0.033203125) + turns * 1.7817820413768004e-05
    y = 0.5 * x
    s = y * y
    t = 1.6059043836821613e-10 * s - 2.505210838544172e-08
    t = ((t * s + 2.7557319223985893e-06) * s - 0.0001984126984126984) * s + 0.008333333333333333
    sine = y * ((t * s - 0.16666666666666666) * s + 1.0)
    return 1.0 - 2.0 * sine * sine


@triton.jit(do_not_specialize=["sketched", "parts", "spread"])
def write_scaled(
    A: tl.tensor, X: tl.tensor, S: tl.tensor, partial: tl.tensor, peak_to: tl.tensor, norm_to: tl.tensor,
    size_to: tl.tensor, factor: tl.tensor, rows: tl.tensor, columns: tl.tensor, length: tl.tensor,
    sketched: tl.tensor, parts: tl.tensor, spread: tl.tensor, a_batch: tl.tensor, a_row: tl.tensor, a_column: tl.tensor,
    x_batch: tl.tensor, x_row: tl.tensor, x_column: tl.tensor,
    SKETCH: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Write `length` neighbouring rows of X = factor A / norm, for some columns, and their weighted sum."""
    program = tl.program_id(0)
    groups = tl.cdiv(rows, length)
    batch, rest = (program // (spread * groups)).to(tl.int64), program % (spread * groups)
    group = rest // spread
    peak, inverse, norm = combined(partial + 2 * batch * parts, parts, PARTS)
    ratio = tl.math.div_rn(factor, norm)
    for column in range(rest % spread, tl.cdiv(columns, COLUMNS), spread):
        j = (column * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
        total = tl.full((COLUMNS,), 0.0, tl.float32)
        for start in range(0, length, ROWS):  # pyright: ignore[reportArgumentType]
            r = start + tl.arange(0, ROWS)
            i = (group * length + r).to(tl.int64)
            mask = ((r < length) & (i < rows))[:, None] & (j[None, :] < columns)
            a = tl.load(A + batch * a_batch + i[:, None] * a_row + j[None, :] * a_column, mask=mask, other=0.0)
            x = a.to(tl.float32) * inverse * ratio
            place = X + batch * x_batch + i[:, None] * x_row + j[None, :] * x_column
            tl.store(place, x.to(X.dtype.element_ty), mask=mask)
            if SKETCH:
                total += tl.sum(x * tl.where(r < length, cosine_of_square(r + 1), 0.0)[:, None], 0)
        if SKETCH:
            place = S + (batch * sketched + group) * columns + j
            tl.store(place, total.to(S.dtype.element_ty), mask=(j < columns) & (group < sketched))
    if rest == 0:
        whole, _ = power_of_two(peak)
        divisor = tl.where(peak == 0, 1.0, peak)
        tl.store(peak_to + batch, divisor)
        tl.store(norm_to + batch, tl.where(peak == 0, 1.0, norm * tl.math.div_rn(whole, divisor)))
        tl.store(size_to + batch, tl.where(peak == 0, 1.0, norm * whole))


def _check(A: Tensor, precision: torch.dtype, sketch: int) -> None:
    if A.dtype not in DTYPES or precision not in DTYPES:
        kinds = ", ".join(map(str, DTYPES))
        raise TypeError(f"scaled takes and gives {kinds}, got {A.dtype} and precision {precision}: take prescale")
    if sketch > min(A.shape[-2:]):
        raise ValueError(f"scaled can make at most {min(A.shape[-2:])} sums of rows of {tuple(A.shape)}, got {sketch}")
    if A.device.type == "cpu" and isinstance(write_scaled, triton.JITFunction):
        raise RuntimeError("scaled runs on a GPU, got a tensor on cpu: take prescale")
    if differentiated(A):
        raise RuntimeError("scaled has no derivative: take prescale, or work under torch.no_grad()")


def _is_flat(A: Tensor) -> bool:
    """Whether each matrix of A (b, m, n) lies in memory row by row without gaps."""
    return A.stride(-1) == 1 and A.stride(-2) == A.shape[-1] and A.shape[-2] * A.shape[-1] < 2**31 - 2 * ENTRIES


def _flattened(A: Tensor) -> Tensor:
    """A (b, m, n) as (b, 1, m n)."""
    entries = A.shape[-2] * A.shape[-1]
    return A.as_strided((A.shape[0], 1, entries), (A.stride(0), entries, 1))


def _reduced(A: Tensor) -> Tensor:
    """The partial results (b, parts, 2) of A (b, rows, columns). Their number depends on the shape of a matrix only."""
    b, rows, columns = A.shape
    across, down = _tile(rows, columns, 2 * ENTRIES)
    parts = min(MOST_PARTS, _ceiling(rows, down) * _ceiling(columns, across))
    partial = A.new_empty(b, parts, 2, dtype=torch.float32)
    kernel: Any = reduce_parts[(b * parts,)]
    kernel(
        A, partial, rows, columns, parts, *A.stride(), ROWS=down, COLUMNS=across, num_warps=_warps(down * across)
    )  # fmt: skip
    return partial


def _written(A: Tensor, X: Tensor, S: Tensor, partial: Tensor, sizes: list[Tensor], factor: float) -> None:
    b, rows, columns = A.shape
    k, parts = S.shape[-2], partial.shape[1]
    if k:
        length = rows // k
        down = min(32, _power(length))
        across = min(ENTRIES // down, _power(columns))
    else:
        across, down = _tile(rows, columns, ENTRIES)
        length = down
    groups = _ceiling(rows, length)
    spread = min(_ceiling(columns, across), _ceiling(PROGRAMS, b * groups))
    kernel: Any = write_scaled[(b * groups * spread,)]
    kernel(
        A, X, S, partial, *sizes, float(factor), rows, columns, length, k, parts, spread, *A.stride(), *X.stride(),
        SKETCH=k > 0, PARTS=_power(parts), ROWS=down, COLUMNS=across, num_warps=_warps(down * across),
    )  # fmt: skip


def _tile(rows: int, columns: int, entries: int) -> tuple[int, int]:
    """Columns and rows of a tile of at most `entries`, powers of two; a flat matrix has no limit of 512 columns."""
    across = min(entries if rows == 1 else 512, _power(columns))
    return across, min(entries // across, _power(rows))


def _warps(entries: int) -> int:
    return max(1, min(8, entries // 512))


def _ceiling(a: int, b: int) -> int:
    return -(-a // b)


def _power(n: int) -> int:
    """Return the least power of two that is n or more."""
    return 1 << (n - 1).bit_length()
