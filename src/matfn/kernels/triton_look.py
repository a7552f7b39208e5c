"""Triton look: Lanczos steps, quadrature, rehearsal and the choice of the coefficients of one step, in few launches.

A look of plain torch is some hundreds of launches on vectors of a few numbers: 2.3 ms in a CUDA graph, 14 eager (H200,
2026-11-26, 12 x 768 x 3072, where five fixed steps take 1.3). Here it is one launch up to `ALONE` rows. Above, it is
one launch for each Lanczos step, and one more. Counted for matrices in half precision, 6 Lanczos steps on 2 vectors:

- One program a matrix reads M six times, at the bandwidth of one processor (about 100 GB/s from L2): 10 us at 256 rows,
  31 at 512, 70 at 768, 500 at 2048. So above `ALONE` rows the rows of M are shared among programs, and one launch does
  one Lanczos step. 12 x 768 rows are 14 MB, which take 4 us from L2. A launch inside a graph takes about 3 us, so a
  look takes 7 (4 + 3) = 49 us.
- Before its product a step orthogonalizes the image of the step before against all earlier vectors, twice. Every
  program repeats this work, because a launch of its own would cost more. It reads 56 n bytes of vectors in the mean of
  the steps, and 64 n (up to 1024 rows) or 128 n bytes of M.
- Quadrature: 26 eigenvalues of 7 x 7 matrices by Sturm counts, in 11 rounds of 32 points, which cut the interval into
  33^11 = 5e16 sections. Counts use the polynomial recurrence: three float64 operations a row, and no division.
  Rehearsal: 5 steps of about 70 candidates on 24 nodes, 40 000 float64 multiply-adds. Both take some microseconds of
  one program.

The tridiagonal matrix is in float64, because its last entry (Gauss-Radau) may be 1e7 times the others; the vectors are
float32. Not yet measured on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .triton_bound import bound_sums, power_of_2, tile, upper_end
from .triton_quadrature import rehearsed, root, sectioned, shares, tridiagonal

__all__ = ["ALONE", "DTYPES", "MOST_COLUMNS", "MOST_ROWS", "MOST_STEPS", "Look", "Rehearsal", "look"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ALONE = 512  # rows up to which one program looks at a whole matrix, in one launch
# Registers hold no more rows of M, columns of the sketch and Lanczos steps.
MOST_ROWS, MOST_COLUMNS, MOST_STEPS = 8192, 4, 15

_POINTS, _ROUNDS = 32, 11
_CHUNK = 32  # candidates rehearsed at a time


@triton.jit
def mixed(x: tl.tensor) -> tl.tensor:
    """Mix integers below 2^32; as `matfn.iteration.residual`."""
    x = x & 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


@triton.jit
def cosine(turns: tl.tensor) -> tl.tensor:
    """Return cos(2 pi turns) for turns in [0, 1], float64; the library's cosine calls a function, which spills.

    Taylor's series for at most an eighth of a turn; the first omitted terms are 2e-18 and 4e-18.
    """
    quarter = (4.0 * turns + 0.5).to(tl.int32)
    x = (4.0 * turns - quarter) * 1.5707963267948966
    z, even, odd = x * x, tl.full((), 1.0, tl.float64), tl.full((), 1.0, tl.float64)
    even, odd = even + 0.0 * z, odd + 0.0 * z
    for k in tl.static_range(8, 0, -1):  # pyright: ignore[reportGeneralTypeIssues]
        even = 1.0 - z / ((2 * k - 1) * (2 * k)) * even
        odd = 1.0 - z / ((2 * k) * (2 * k + 1)) * odd
    found = tl.where(quarter % 2 == 0, even, x * odd)
    return tl.where((quarter == 1) | (quarter == 2), -found, found)


@triton.jit
def sketched(
    key: tl.tensor, draw: tl.tensor, n: tl.tensor, KEYED: tl.constexpr, COLUMNS: tl.constexpr, COLS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the unit columns of the sketch of this key and draw, (COLS, BLOCK); as `Residual.sketch`."""
    column, row = tl.arange(0, COLS)[:, None].to(tl.int64), tl.arange(0, BLOCK)[None, :].to(tl.int64)
    place = row * COLUMNS + column
    seed = tl.load(key).to(tl.int64) if KEYED else tl.zeros((), tl.int64) + key
    seed = mixed(mixed(seed) ^ draw)
    first = (mixed(place ^ seed).to(tl.float64) + 0.5) * 2.3283064365386963e-10
    second = (mixed((place + n * COLUMNS) ^ seed).to(tl.float64) + 0.5) * 2.3283064365386963e-10
    normal = (tl.sqrt(-2.0 * tl.log(first)) * cosine(second)).to(tl.float32)
    normal = tl.where((row < n) & (column < COLUMNS), normal, 0.0)
    size = tl.sqrt(tl.sum(normal * normal, 1))
    return normal / tl.where(size > 0, size, 1.0)[:, None]


@triton.jit
def following(
    images: tl.tensor, basis: tl.tensor, alphas: tl.tensor, betas: tl.tensor, j: tl.tensor, n: tl.tensor,
    part: tl.tensor, STEPS: tl.constexpr, COLUMNS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Finish step j - 1 of each column: return Lanczos vector j, and store the two entries of the tridiagonal matrix.

    The pointers are those of one matrix. The vector loses its parts along all vectors before it, twice.
    """
    columns = tl.arange(0, COLS)
    inner = tl.arange(0, BLOCK)[None, :]
    real = (inner < n) & (columns[:, None] < COLUMNS)
    place = columns[:, None] * n + inner
    W = tl.load(images + place, mask=real, other=0.0)
    last = tl.load(basis + (j - 1) * COLUMNS * n + place, mask=real, other=0.0)
    alpha = tl.sum(W * last, 1)
    for _ in tl.static_range(2):  # pyright: ignore[reportGeneralTypeIssues]
        for i in range(j):  # pyright: ignore[reportArgumentType]
            V = tl.load(basis + i * COLUMNS * n + place, mask=real, other=0.0)
            W -= V * tl.sum(V * W, 1)[:, None]
    beta = tl.sqrt(tl.sum(W * W, 1))
    entry, mine = columns * STEPS, (columns < COLUMNS) & (part == 0)
    largest = tl.where(j == 1, alpha, tl.load(alphas + entry, mask=columns < COLUMNS, other=0.0))
    beta = tl.where(beta > 10 * 1.1920929e-07 * largest, beta, 0.0)  # an exhausted Krylov space goes on with zeros
    tl.store(alphas + entry + j - 1, alpha, mask=mine)
    tl.store(betas + entry + j - 1, beta, mask=mine)
    v = tl.where((beta > 0)[:, None], W / tl.where(beta > 0, beta, 1.0)[:, None], 0.0)
    tl.store(basis + j * COLUMNS * n + place, v, mask=real & (part == 0) & (j < STEPS))
    return v


@triton.jit
def times(
    M: tl.tensor, v: tl.tensor, images: tl.tensor, n: tl.tensor, start: tl.tensor, stop: tl.tensor,
    COLUMNS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    """Store the rows from `start` to `stop` of M v for each column, with sums in float32."""
    columns = tl.arange(0, COLS)[None, :]
    inner = tl.arange(0, BLOCK)[None, :]
    for first in range(start, stop, ROWS):  # pyright: ignore[reportArgumentType]
        row = (first + tl.arange(0, ROWS))[:, None]
        tile = tl.load(M + row.to(tl.int64) * n + inner, mask=(row < stop) & (inner < n), other=0.0).to(tl.float32)
        product = tl.sum(tile[:, None, :] * v[None, :, :], 2)
        tl.store(images + columns * n + row, product, mask=(row < stop) & (columns < COLUMNS))


@triton.jit
def choose(
    alphas: tl.tensor, betas: tl.tensor, held: tl.tensor, sums: tl.tensor, table: tl.tensor, out: tl.tensor,
    n: tl.tensor, parts: tl.tensor, candidates: tl.tensor, left: tl.tensor,
    ROUNDOFF: tl.constexpr, MEASURED: tl.constexpr, SQUARED: tl.constexpr, P: tl.constexpr, K: tl.constexpr,
    STEPS: tl.constexpr, COLUMNS: tl.constexpr, NODES: tl.constexpr, E: tl.constexpr, POINTS: tl.constexpr,
    ROUNDS: tl.constexpr, CHUNK: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Quadrature, upper end, rehearsal and choice for one matrix: store top, the row, and the row divided by top."""
    lane = tl.arange(0, E)
    column, order = lane // (2 * NODES), lane % NODES
    radau = (lane // NODES) % 2 == 1
    size = tridiagonal(alphas, betas, held, column, radau, STEPS, COLUMNS, E)
    tl.debug_barrier()
    x = sectioned(held, order, STEPS, E, POINTS, ROUNDS)
    share = shares(held, x, STEPS, E)
    inner = (column < COLUMNS) & (~radau) & (order < STEPS)
    # The least eigenvalue of the larger matrix is 0. It has no node: no step can lift an exact zero.
    outer = (column < COLUMNS) & radau & (order > 0) & (order <= STEPS)
    weight = tl.where(inner | outer, share, 0.0)
    total = tl.sum(weight, 0)
    weight = weight / tl.where(total > 0, total, 1.0)
    node = tl.maximum(x * size, 0.0)
    greatest = tl.max(tl.where(inner & (share > 1e-24), node, 0.0), 0)
    end = tl.full((), 1.0, tl.float64)
    if MEASURED:
        end = upper_end(sums, n, parts, ROUNDOFF, SQUARED, PARTS)
    top = tl.maximum(tl.where(end > 0, end, 1.0), greatest)
    s = root(tl.minimum(node / top, 1.0), P)
    chosen = rehearsed(table, s, weight, candidates, left, P, K, CHUNK)
    tl.store(out, top)
    scale = 1.0 / root(top, P)
    for i in tl.static_range(K + 1):  # pyright: ignore[reportGeneralTypeIssues]
        c = tl.load(table + i * candidates + chosen)
        tl.store(out + 1 + i, c)
        tl.store(out + 2 + K + i, c * scale)
        scale = scale / top


@triton.jit(do_not_specialize=["key", "draw", "first", "last", "left", "parts"])
def look_kernel(
    M: tl.tensor, images: tl.tensor, basis: tl.tensor, alphas: tl.tensor, betas: tl.tensor, held: tl.tensor,
    sums: tl.tensor, table: tl.tensor, out: tl.tensor, key: tl.tensor, draw: tl.tensor,
    first: tl.tensor, last: tl.tensor, b: tl.tensor, n: tl.tensor, rows: tl.tensor,
    parts: tl.tensor, candidates: tl.tensor, left: tl.tensor,
    START: tl.constexpr, CHOOSE: tl.constexpr, KEYED: tl.constexpr, ROUNDOFF: tl.constexpr, MEASURED: tl.constexpr,
    SQUARED: tl.constexpr, P: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, COLUMNS: tl.constexpr,
    COLS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, NODES: tl.constexpr, E: tl.constexpr,
    POINTS: tl.constexpr, ROUNDS: tl.constexpr, CHUNK: tl.constexpr, PARTS: tl.constexpr,
) -> None:  # fmt: skip
    """Take Lanczos step 0 if `START`, then the steps from `first` to `last`, on a part of the rows; choose if `CHOOSE`.

    Step j finishes step j - 1 and multiplies M by the new vector. The step number `STEPS` has no product. Images of two
    steps in turn lie in two places, because other programs may still read the images of the step before.
    """
    matrix, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    M += matrix * n * n
    basis += matrix * STEPS * COLUMNS * n
    alphas += matrix * COLUMNS * STEPS
    betas += matrix * COLUMNS * STEPS
    stop = tl.minimum(n, (part + 1) * rows)
    if START:
        v = sketched(key, draw, n, KEYED, COLUMNS, COLS, BLOCK)
        columns, inner = tl.arange(0, COLS)[:, None], tl.arange(0, BLOCK)[None, :]
        tl.store(basis + columns * n + inner, v, mask=(inner < n) & (columns < COLUMNS) & (part == 0))
        times(M, v, images + matrix * COLUMNS * n, n, part * rows, stop, COLUMNS, COLS, BLOCK, ROWS)
        tl.debug_barrier()  # the next step reads what all threads of this program have stored
    for j in range(first, last):  # pyright: ignore[reportArgumentType]
        old = images + ((j + 1) % 2 * b + matrix) * COLUMNS * n
        v = following(old, basis, alphas, betas, j, n, part, STEPS, COLUMNS, COLS, BLOCK)
        if j < STEPS:
            new = images + (j % 2 * b + matrix) * COLUMNS * n
            times(M, v, new, n, part * rows, stop, COLUMNS, COLS, BLOCK, ROWS)
        tl.debug_barrier()
    if CHOOSE:
        held += matrix * (5 * STEPS + 4) * E
        sums += matrix * parts * 4
        out += matrix * (2 * K + 3)
        choose(
            alphas, betas, held, sums, table, out, n, parts, candidates, left, ROUNDOFF, MEASURED, SQUARED,
            P, K, STEPS, COLUMNS, NODES, E, POINTS, ROUNDS, CHUNK, PARTS,
        )  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a look has found.

    Attributes:
        top: (b,), float32: the upper end of the spectrum of M.
        row: (b, k + 1), float32: the chosen row of the table, for the upper end 1.
        coefficients: (b, k + 1), float32: those of the step, for this upper end.
    """

    top: Tensor
    row: Tensor
    coefficients: Tensor


@dataclass(frozen=True)
class Rehearsal:
    """The candidates of a look.

    Attributes:
        table: (steps * (k + 1) + 1, candidates), float64: the coefficients of each step in ascending order, one row
            each, then a row that is added to the loss. The candidates are padded to a multiple of 32 by infinite loss.
        p: The exponent.
        k: The greatest degree of q. Steps of a smaller degree have zeros.
        steps: The number of steps that are left.
    """

    table: Tensor
    p: int
    k: int
    steps: int


def look(
    M: Tensor,
    power: Tensor | None,
    rehearsal: Rehearsal,
    *,
    zoom: float = 1.0,
    columns: int,
    depth: int,
    key: int | Tensor,
    draw: int,
    measured: bool,
    alone: int = ALONE,
) -> Look:
    """Choose a step for each M (b, n, n).

    Args:
        M: In one of `DTYPES`, at most `MOST_ROWS` rows.
        power: `zoom` M^2 in the dtype of M, for a closer upper end.
        rehearsal: The candidates.
        zoom: Factor of M^2 in `power`.
        columns: Number of random vectors, at most `MOST_COLUMNS`.
        depth: Number of Lanczos steps, at most `MOST_STEPS`.
        key: As in `Residual`.
        draw: Number of the sketch.
        measured: Whether the upper end comes from the norms of M; otherwise it is 1.
        alone: Rows up to which one program takes a whole matrix.
    """
    M = M.contiguous()
    (b, n), k = (M.shape[0], M.shape[-1]), rehearsal.k
    sums = bound_sums(M, None if power is None else power.contiguous(), zoom) if measured else None
    options = _constants(M, rehearsal, columns, depth)
    vectors = torch.empty(2 + depth, b, columns, n, dtype=torch.float32, device=M.device)
    entries = torch.empty(2, b, columns, depth, dtype=torch.float32, device=M.device)
    held = torch.empty(b, 5 * depth + 4, options["E"], dtype=torch.float64, device=M.device)
    out = torch.empty(b, 2 * k + 3, dtype=torch.float32, device=M.device)
    totals, parts = (out, 1) if sums is None else (sums.values, sums.parts)
    pointers = (M, vectors[:2], vectors[2:], *entries, held, totals, rehearsal.table, out)
    rows, keyed = tile(n)[0], isinstance(key, Tensor)
    number = key if isinstance(key, Tensor) else _signed(key)
    options |= {"KEYED": keyed, "MEASURED": measured, "SQUARED": sums is not None and sums.squared}
    options["PARTS"] = power_of_2(parts)
    # One launch of one program a matrix, or one launch of many programs for each step and one for the rest.
    launches = [(0, depth)] if n <= alone else [(j, j) for j in range(depth + 1)]
    with torch.cuda.device_of(M):  # no effect on a CPU
        for first, last in launches:
            whole = last == depth
            kernel: Any = look_kernel[(b, 1 if whole else triton.cdiv(n, rows))]
            kernel(
                *pointers, number, draw, max(first, 1), last + 1, b, n,
                n if whole else rows, parts, rehearsal.table.shape[1], rehearsal.steps,
                START=first == 0, CHOOSE=whole, **options,
            )  # fmt: skip
    return Look(out[:, 0], out[:, 1 : k + 2], out[:, k + 2 :])


def _signed(key: int) -> int:
    """Return the lowest 32 bits of a key as a signed number: triton compiles another program for a wider one."""
    return ((key + 2**31) & 0xFFFFFFFF) - 2**31


def _constants(M: Tensor, rehearsal: Rehearsal, columns: int, depth: int) -> dict[str, Any]:
    """Return what the kernel is compiled for."""
    _, block, deep, warps = tile(M.shape[-1])
    nodes, cols = power_of_2(depth + 1), power_of_2(columns)
    return dict(
        ROUNDOFF=torch.finfo(M.dtype).eps / 2, P=rehearsal.p, K=rehearsal.k, STEPS=depth, COLUMNS=columns, COLS=cols,
        BLOCK=block, ROWS=deep, NODES=nodes, E=2 * cols * nodes, POINTS=_POINTS, ROUNDS=_ROUNDS, CHUNK=_CHUNK,
        num_warps=warps,
    )  # fmt: skip
