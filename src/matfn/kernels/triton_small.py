"""Triton kernels for what is k x k in deflation: whitening, inverse root, and the product with a thin matrix.

Whitening and inverse root invert symmetric positive definite matrices of k <= 128 rows by block Gauss-Jordan
elimination. One program holds one matrix in registers, and eliminates 16 rows a step. There is no decomposition, no
host read and no atomic operation.

Launches of one deflation of a stack, whatever the number of matrices:

| part | before, by QR and eigh | here |
|---|--:|--:|
| peak, norm, division, cast, sketch T = S^T X (`triton_scale`) | 19 | 2 |
| products that read or write X: Z = X T^T, R = P^T X, X + left R | 3 | 3 |
| Gram matrices of the thin factors: T T^T, Y^T Y, R R^T | 1 | 3 |
| P: two times `whitening` and `thin_product` | QR, waits for the host | 4 |
| left: `root_terms` and `thin_product` | 28, and eigh, waits for the host | 2 |
| all | 51, QR, eigh | 14 |

Predicted on an H200 (4.8 TB/s; 1.5 us a launch in a graph; 180 instructions for a row of the elimination and 1400 for
16 rows, counted in the code for compute capability 9.0):

| stack, k | scaling | products with X | k x k | launches, small products | all |
|---|--:|--:|--:|--:|--:|
| 12 x 768 x 3072, 24 | 0.06 ms | 0.05 ms | 0.02 ms | 0.03 ms | 0.16 ms |
| 8 x 2048 x 8192, 64 | 0.28 ms | 0.22 ms | 0.06 ms | 0.03 ms | 0.59 ms |

Not yet measured on a GPU.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from .products import differentiated

__all__ = ["LEAST_PHI", "MOST_ROWS", "RIDGE", "root_terms", "thin_product", "whitening"]

RIDGE = 2.0**-19  # 16 float32 epsilons: the rounding errors of a Gram matrix relative to its trace stay below it
MOST_ROWS = 128  # 64 registers of each thread hold such a matrix; 256 rows would need all registers of a processor
LEAST_PHI = 2.0**-8  # the poles below serve condition numbers of B up to 1.05 (1 + 1 / phi^2)

# y^(-1/2) is about CONSTANT + sum_t W_t / (y + S_t) for 1 <= y <= 68813.85: Zolotarev's function with four poles, which
# lies between .9866 y^(-1/2) and y^(-1/2). Weights are positive. A test computes them again from minimax/zolotarev.py.
CONSTANT = tl.constexpr(0.00186306349)
S0, S1, S2, S3 = tl.constexpr(0.726168302), tl.constexpr(25.3221901), tl.constexpr(570.040405), tl.constexpr(13724.1104)
W0, W1, W2, W3 = tl.constexpr(1.28422003), tl.constexpr(5.01575693), tl.constexpr(23.4541876), tl.constexpr(125.412966)
TERMS = 4
WARPS = {16: 1, 32: 1, 64: 4, 128: 8}  # of a program, by padded rows: one warp needs no barrier


def whitening(G: Tensor) -> Tensor:
    """Return W (b, k, k), upper triangular, with W W^T = (G + r t I)^-1, where t = tr G (1 if it is 0), r = 2^-19.

    For G = Y^T Y the columns of P = Y W are nearly orthonormal, and P^T P <= I because of the ridge r. Columns of P in
    directions below the ridge are shorter, or zero if a pivot is below r / 4. W is L^-T for the Cholesky factor L.

    Args:
        G: (b, k, k) in float32, symmetric positive semidefinite up to rounding, k <= 128.
    """
    _check(G, "whitening")
    W = torch.empty_like(G, memory_format=torch.contiguous_format)
    _launch(G, W, 1.0, 0.0, terms=1)
    return W


def root_terms(K: Tensor, h: float, phi: float) -> Tensor:
    """Return four matrices for each K, (b, 4, k, k), with the sum F - I, where F is about (I + K / (h c^2))^(-1/2).

    K / h = P^T X X^T P for an X of Frobenius norm 1, and c^2 = max(rest / k, phi^2) with rest = max(1 - tr K / h, 0)
    is the mean square of the singular values outside of P, as if there were k of them. F is a positive rational
    function of K, .9866 to 1 times the inverse root: its eigenvalues lie in (0, 1], and I + P (F - I) P^T is positive
    definite. Another positive function instead of the inverse root would not change the polar factor.

    The terms are computed by programs of their own, at the same time; `thin_product` adds them up.

    Args:
        K: (b, k, k) in float32, symmetric positive semidefinite up to rounding, k <= 128.
        h: A power of four: X was multiplied by its root.
        phi: Least c, at least `LEAST_PHI`.
    """
    _check(K, "root_terms")
    if phi < LEAST_PHI:
        raise ValueError(f"root_terms has poles for phi >= {LEAST_PHI:g}, got {phi:g}")
    T = K.new_empty(K.shape[0], TERMS, *K.shape[1:])
    _launch(K, T, h, phi * phi, terms=TERMS)
    return T


def thin_product(Y: Tensor, A: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Y A in `dtype`, (b, n, k), with the sum of A_t in place of A (b, k, k) if A is (b, terms, k, k).

    Products are exact to about float32 (three TF32 products), sums are in float32; Y (b, n, k) is float32 or half
    precision, A float32 and contiguous.
    """
    _check(A.flatten(0, -3), "thin_product")
    b, n, k = Y.shape
    out = Y.new_empty(b, n, k, dtype=dtype)
    if not out.numel():
        return out
    K, blocks = _padded(k), (n + 63) // 64
    with torch.cuda.device_of(Y):  # no effect on a CPU
        kernel: Any = multiply[(b * blocks,)]
        kernel(Y, A, out, n, k, blocks, *Y.stride(), TERMS=A[0].numel() // (k * k), ROWS=64, K=K, num_warps=4)
    return out


@triton.jit
def small_factor(S: tl.tensor, count: tl.tensor, floor: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """Return E = L^-1 for the Cholesky factor L of S = L L^T (BLOCK x BLOCK), by Gauss's elimination in place.

    Rows and columns from `count` on are the identity's. Columns from p on hold what is left of S, columns before p the
    part of E that is known. Exact pivots are not below the least eigenvalue, so a pivot below `floor` comes from
    rounding, also a negative one. Its row and column are dropped, and E is zero there. So E is finite, whatever S is.
    """
    one = tl.arange(0, BLOCK)
    i, j = one[:, None], one[None, :]
    scale = tl.full((BLOCK,), 1.0, tl.float32)
    for p in range(count):  # pyright: ignore[reportArgumentType]
        row = tl.sum(tl.where(i == p, S, 0.0), 0)
        column = tl.sum(tl.where(j == p, S, 0.0), 1)
        pivot = tl.sum(tl.where(one == p, row, 0.0), 0)
        root = tl.where(pivot < floor, 0.0, tl.rsqrt(pivot))  # a NaN stays
        scale = tl.where(one == p, root, scale)
        below = tl.where(one > p, column * root * root, 0.0)
        row = tl.where(one == p, 1.0, row)
        S = tl.where(j == p, tl.where(i == p, 1.0, tl.where(i > p, 0.0, S)), S) - below[:, None] * row[None, :]
    return tl.where(j <= i, S * scale[:, None], 0.0)


@triton.jit
def pole(term: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return shift and weight of a term of F: B + shift = K / (h c^2) + 1 + S_t."""
    shift = tl.where(term < 2, tl.where(term == 0, S0, S1), tl.where(term == 2, S2, S3))
    weight = tl.where(term < 2, tl.where(term == 0, W0, W1), tl.where(term == 2, W2, W3))
    return shift + 1.0, weight


@triton.jit
def rows_from(M: tl.tensor, start: tl.tensor, K: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Return BLOCK rows of M (K, N), from row `start` on, without a detour over memory."""
    blocks: tl.constexpr = K // BLOCK
    chosen = tl.arange(0, blocks)[:, None, None] * BLOCK == start
    return tl.sum(tl.where(chosen, tl.reshape(M, (blocks, BLOCK, N)), 0.0), 0)


@triton.jit
def invert(
    G: tl.tensor, out: tl.tensor, h: tl.tensor, phi2: tl.tensor, k: tl.tensor, ridge: tl.tensor,
    TERMS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Write L^-T for L L^T = G + ridge tr(G) I if there is one term; else one term of F, with - I in the first.

    M holds, before the step for the rows J from `start` on: for rows before J the inverse of the leading block, for the
    other rows what is left of the matrix and, in columns before J, their part of L^-1. With E = L^-1 in the rows J, the
    step adds E^T E to the inverse and subtracts (L^T)^T E of the rows J from what is left: one product of rank BLOCK.
    """
    program = tl.program_id(0).to(tl.int64)
    batch, term = program // TERMS, (program % TERMS).to(tl.int32)
    i, j = tl.arange(0, K)[:, None], tl.arange(0, K)[None, :]
    M = tl.load(G + batch * k * k + i * k + j, mask=(i < k) & (j < k), other=0.0)
    trace = tl.sum(tl.sum(tl.where(i == j, M, 0.0), 1), 0)
    if TERMS == 1:
        shift = ridge
        size = tl.where(trace == 0, 1.0, trace)
        weight = tl.math.div_rn(1.0, tl.sqrt_rn(size))
    else:
        shift, weight = pole(term)
        rest = (1.0 - trace / h) / k
        size = h * tl.where(rest < phi2, phi2, rest)
    M = tl.math.div_rn(M, size) + tl.where(i == j, tl.where(i < k, shift, 1.0), 0.0)  # the identity beyond k
    rows = tl.arange(0, BLOCK)[:, None]
    for start in range(0, k, BLOCK):  # pyright: ignore[reportArgumentType]
        panel = rows_from(M, start, K, K, BLOCK)
        block = tl.trans(rows_from(tl.trans(panel), start, K, BLOCK, BLOCK))
        inside = (j >= start) & (j < start + BLOCK)
        panel = tl.where(inside, tl.where(j == start + rows, 1.0, 0.0), panel)
        done = tl.dot(
            small_factor(block, tl.minimum(k - start, BLOCK), shift / 4, BLOCK), panel, input_precision="ieee"
        )
        if TERMS == 1:
            E = tl.where(j < start + BLOCK, done * weight, 0.0)
            tl.store(out + batch * k * k + j * k + start + rows, E, mask=(j < k) & (start + rows < k))
        left = tl.trans(tl.where(j < start + BLOCK, done, -done))
        M = tl.where(inside | ((i >= start) & (i < start + BLOCK)), 0.0, M)
        M = tl.dot(left, done, M, input_precision="ieee")
    if TERMS > 1:
        M = M * weight + tl.where((i == j) & (term == 0), CONSTANT - 1.0, 0.0)
        tl.store(out + program * k * k + i * k + j, M, mask=(i < k) & (j < k))


@triton.jit(do_not_specialize=["blocks"])
def multiply(
    Y: tl.tensor, A: tl.tensor, out: tl.tensor, n: tl.tensor, k: tl.tensor, blocks: tl.tensor,
    y_batch: tl.tensor, y_row: tl.tensor, y_column: tl.tensor,
    TERMS: tl.constexpr, ROWS: tl.constexpr, K: tl.constexpr,
) -> None:  # fmt: skip
    """Write ROWS rows of Y times the sum of TERMS matrices A."""
    program = tl.program_id(0)
    batch = (program // blocks).to(tl.int64)
    i = ((program % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    j = tl.arange(0, K)[None, :]
    total = tl.full((ROWS, K), 0.0, tl.float32)
    for start in range(0, k, 16):  # pyright: ignore[reportArgumentType]
        inner = start + tl.arange(0, 16)
        mask = (i < n) & (inner[None, :] < k)
        y = tl.load(Y + batch * y_batch + i * y_row + inner[None, :] * y_column, mask=mask, other=0.0)
        a = tl.full((16, K), 0.0, tl.float32)
        for term in range(TERMS):
            place = A + ((batch * TERMS + term) * k + inner[:, None]) * k + j
            a += tl.load(place, mask=(inner[:, None] < k) & (j < k), other=0.0)
        total = tl.dot(y.to(tl.float32), a, total, input_precision="tf32x3")
    kind = out.dtype.element_ty  # pyright: ignore[reportAttributeAccessIssue]
    tl.store(out + (batch * n + i) * k + j, total.to(kind), mask=(i < n) & (j < k))


def _launch(G: Tensor, out: Tensor, h: float, phi2: float, *, terms: int) -> None:
    if not out.numel():
        return
    b, k, _ = G.shape
    K = _padded(k)
    with torch.cuda.device_of(G):  # no effect on a CPU
        kernel: Any = invert[(b * terms,)]
        kernel(G.contiguous(), out, float(h), phi2, k, RIDGE, TERMS=terms, K=K, BLOCK=16, num_warps=WARPS[K])


def _padded(k: int) -> int:
    """Return the least power of two that is k or more, at least 16."""
    return max(16, 1 << (k - 1).bit_length())


def _check(G: Tensor, name: str) -> None:
    if G.dtype != torch.float32 or G.ndim != 3 or G.shape[-1] != G.shape[-2]:
        raise TypeError(f"{name} takes (b, k, k) in float32, got {tuple(G.shape)} in {G.dtype}")
    if G.shape[-1] > MOST_ROWS:
        raise ValueError(f"{name} takes at most {MOST_ROWS} rows, got {G.shape[-1]}: take torch's decompositions")
    if G.device.type == "cpu" and isinstance(invert, triton.JITFunction):
        raise RuntimeError(f"{name} runs on a GPU, got a tensor on cpu: take torch's decompositions")
    if differentiated(G):
        raise RuntimeError(f"{name} has no derivative: work under torch.no_grad()")
