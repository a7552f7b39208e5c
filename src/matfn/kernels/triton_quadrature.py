"""Triton quadrature: eigenvalues and weights of small tridiagonal matrices, and the rehearsal of steps on them.

Other kernels call these functions. They work in float64, in one program with a lane for each eigenvalue of each rule of
each column. `linalg.tridiagonal` is the reference. Counted for 6 Lanczos steps on 2 vectors, on a card with 64 float64
operations a cycle and processor: 11 rounds x 32 lanes x 32 points x 7 rows x 3 operations take 4 000 cycles, or 2 us. A
recurrence of pivots has divisions and would take four times as long. 256 points and 6 rounds, as in torch, would take
four times as long again.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

__all__ = ["rehearsed", "root", "sectioned", "shares", "tridiagonal"]


@triton.jit
def tridiagonal(
    alphas: tl.tensor, betas: tl.tensor, held: tl.tensor, column: tl.tensor, radau: tl.tensor,
    STEPS: tl.constexpr, COLUMNS: tl.constexpr, E: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Store diagonal and squared off-diagonal of the matrix of each lane, divided by its largest entry. Return it.

    A lane is one eigenvalue of one rule of one column. Blocks that are decoupled from the first one move to 4. A matrix
    with NaN or infinity becomes zero.
    """
    lane, real = tl.arange(0, E), column < COLUMNS
    entry = column * STEPS
    first = tl.load(alphas + entry, mask=real, other=0.0)
    pivot = tl.maximum(first, tl.maximum(1.1920929e-07 * first, 1.1754944e-38))
    size, finite = tl.abs(first), first * 0.0
    for i in tl.static_range(1, STEPS):  # pyright: ignore[reportGeneralTypeIssues]
        a = tl.load(alphas + entry + i, mask=real, other=0.0)
        b = tl.load(betas + entry + i - 1, mask=real, other=0.0)
        pivot = tl.maximum(a - b * b / pivot, tl.maximum(1.1920929e-07 * first, 1.1754944e-38))
        size, finite = tl.maximum(size, tl.maximum(tl.abs(a), b)), finite + a * 0.0 + b * 0.0
    b = tl.load(betas + entry + STEPS - 1, mask=real, other=0.0)
    corner = b * b / pivot  # makes 0 an eigenvalue
    sound = (finite + b * 0.0 + corner * 0.0) == 0.0
    size = tl.where(radau, tl.maximum(size, tl.maximum(b, corner)), size)
    size = tl.where(sound, size, 0.0).to(tl.float64)
    unit = tl.where(size > 0, size, 1.0)
    coupled = sound & real
    tl.store(held + lane, tl.where(coupled, first.to(tl.float64) / unit, 0.0))
    for i in tl.static_range(1, STEPS + 1):  # pyright: ignore[reportGeneralTypeIssues]
        b = tl.load(betas + entry + i - 1, mask=real, other=0.0)
        a = corner if i == STEPS else tl.load(alphas + entry + i, mask=real, other=0.0)
        coupled = coupled & (b > 0) & (radau if i == STEPS else real)
        off = tl.where(coupled, b.to(tl.float64) / unit, 0.0)
        tl.store(held + i * E + lane, tl.where(coupled, a.to(tl.float64) / unit, 4.0))
        tl.store(held + (STEPS + i) * E + lane, off * off)
    return size


@triton.jit
def sectioned(
    held: tl.tensor, order: tl.tensor, STEPS: tl.constexpr, E: tl.constexpr, POINTS: tl.constexpr, ROUNDS: tl.constexpr
) -> tl.tensor:
    """Find the eigenvalue number `order` of each lane, in [-3, 5], by Sturm counts of the polynomial recurrence.

    Entries are at most 1, and 4 for decoupled blocks. An M with rounding errors has negative eigenvalues, too.
    """
    lane = tl.arange(0, E)
    step = (tl.arange(0, POINTS) + 1).to(tl.float64)[None, :] / (POINTS + 1)
    low, width = tl.full((E,), -3.0, tl.float64), tl.full((E,), 8.0, tl.float64)
    for _ in range(ROUNDS):  # pyright: ignore[reportArgumentType]
        x = low[:, None] + width[:, None] * step
        before = tl.full((E, POINTS), 1.0, tl.float64)
        p = tl.load(held + lane)[:, None] - x
        p = tl.where(p == 0, -1e-30, p)  # a pivot of zero counts as negative
        count = (p < 0).to(tl.int32)
        for i in tl.static_range(1, STEPS + 1):  # pyright: ignore[reportGeneralTypeIssues]
            off = tl.load(held + (STEPS + i) * E + lane)[:, None]
            after = (tl.load(held + i * E + lane)[:, None] - x) * p - off * before
            after = tl.where(after == 0, -1e-30 * p, after)
            count += ((after < 0) != (p < 0)).to(tl.int32)
            before, p = p, after
        place = tl.sum((count <= order[:, None]).to(tl.int32), 1).to(tl.float64)
        width = width / (POINTS + 1)
        low += width * place
    return low + width / 2


@triton.jit
def shares(held: tl.tensor, x: tl.tensor, STEPS: tl.constexpr, E: tl.constexpr) -> tl.tensor:
    """Return the squared first component of the unit eigenvector of each lane; as `linalg.tridiagonal`.

    Down to row i, `lead` is the square of the first component relative to component i, and `total` the sum of squares
    of the components up to i; upwards, `rest` is the sum of squares of the components after i.
    """
    lane = tl.arange(0, E)
    kept = held + (2 * STEPS + 1) * E
    pivot = tl.load(held + lane) - x
    pivot = tl.where(tl.abs(pivot) < 1e-60, -1e-60, pivot)
    lead, total = tl.full((E,), 1.0, tl.float64), tl.full((E,), 1.0, tl.float64)
    for i in tl.static_range(0, STEPS + 1):  # pyright: ignore[reportGeneralTypeIssues]
        if i > 0:
            off = tl.load(held + (STEPS + i) * E + lane)
            ratio = off / (pivot * pivot)
            lead, total = lead * ratio, total * ratio + 1.0
            pivot = tl.load(held + i * E + lane) - x - off / pivot
            pivot = tl.where(tl.abs(pivot) < 1e-60, -1e-60, pivot)
        tl.store(kept + 3 * i * E + lane, pivot)
        tl.store(kept + (3 * i + 1) * E + lane, lead)
        tl.store(kept + (3 * i + 2) * E + lane, total)
    tl.debug_barrier()
    up = tl.load(held + STEPS * E + lane) - x
    up = tl.where(tl.abs(up) < 1e-60, -1e-60, up)
    least, rest = tl.abs(pivot), tl.zeros((E,), tl.float64)
    share = lead / total
    for k in tl.static_range(1, STEPS + 1):  # pyright: ignore[reportGeneralTypeIssues]
        off = tl.load(held + (2 * STEPS + 1 - k) * E + lane)
        rest = off / (up * up) * (1.0 + rest)
        shifted = tl.load(held + (STEPS - k) * E + lane) - x
        up = shifted - off / up
        up = tl.where(tl.abs(up) < 1e-60, -1e-60, up)
        found = kept + 3 * (STEPS - k) * E + lane
        twist = tl.abs(tl.load(found) + up - shifted)
        here = tl.load(found + E) / (tl.load(found + 2 * E) + rest)
        share = tl.where(twist <= least, here, share)
        least = tl.minimum(twist, least)
    return tl.where(share == share, share, 0.0)


@triton.jit
def rehearsed(
    table: tl.tensor, s: tl.tensor, weight: tl.tensor, candidates: tl.tensor, left: tl.tensor,
    P: tl.constexpr, K: tl.constexpr, CHUNK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the index of the candidate with the least sum of weights (1 - s)^2 after the `left` steps."""
    best, chosen = tl.full((), float("inf"), tl.float64), tl.zeros((), tl.int32)
    for start in range(0, candidates, CHUNK):  # pyright: ignore[reportArgumentType]
        candidate = start + tl.arange(0, CHUNK)
        x = tl.zeros((CHUNK, 1), tl.float64) + s[None, :]
        for t in range(left):  # pyright: ignore[reportArgumentType]
            m = x
            for _ in tl.static_range(P - 1):  # pyright: ignore[reportGeneralTypeIssues]
                m = m * x
            row = table + t * (K + 1) * candidates + candidate
            q = tl.load(row + K * candidates)[:, None] + tl.zeros_like(m)
            for i in tl.static_range(1, K + 1):  # pyright: ignore[reportGeneralTypeIssues]
                q = q * m + tl.load(row + (K - i) * candidates)[:, None]
            x = x * q
        more = tl.load(table + left * (K + 1) * candidates + candidate)
        loss = tl.sum(weight[None, :] * (1.0 - x) * (1.0 - x), 1) + more
        loss = tl.where(loss == loss, loss, float("inf"))
        least = tl.min(loss, 0)
        chosen = tl.where(least < best, start + tl.argmin(loss, 0), chosen)
        best = tl.minimum(best, least)
    return chosen


@triton.jit
def root(x: tl.tensor, P: tl.constexpr) -> tl.tensor:
    """Return x^(1/P) for x >= 0 in float64."""
    if P == 1:
        found = x
    elif P == 2:
        found = tl.sqrt(x)
    else:
        found = tl.where(x > 0, tl.exp(tl.log(tl.where(x > 0, x, 1.0)) / P), 0.0)
    return found
