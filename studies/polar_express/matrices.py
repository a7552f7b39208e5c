"""C14-C17 and pitfall 8: what the steps do to dense matrices in each precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from matfn import Direct, Gram, NewtonSchulz, PolarExpress, orthogonalize
from matfn.iteration.protocols import Engine, Method
from matfn.iteration.target import POLAR
from matfn.kernels import EAGER
from studies.page import number
from studies.polar_express.maps import spectral, told
from studies.verdict import Verdict, judged

__all__ = ["DTYPES", "Half", "Size", "half_precision", "verdicts", "with_values"]

DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
HALVES = {name: DTYPES[name] for name in ("bfloat16", "float16")}


@dataclass(frozen=True)
class Size:
    """Sizes of this part.

    Attributes:
        rows: Short side of C15, C17 and of the ill-conditioned matrix; the paper's specification has 256.
        steps: Numbers of steps of C15.
    """

    rows: int
    steps: tuple[int, ...]


def drawn(m: int, n: int, seed: int = 16) -> Tensor:
    """A Gaussian matrix in float64."""
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_values(values: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """A matrix with these singular values and n columns, and its polar factor; random singular vectors, float64."""
    m = len(values)
    left, right = torch.linalg.qr(drawn(m, m)).Q, torch.linalg.qr(drawn(n, m, 17)).Q
    return left * values @ right.mT, left @ right.mT


def cosine(U: Tensor, exact: Tensor) -> float:
    """<U, V> / (||U||_F ||V||_F)."""
    return float((U.double() * exact).sum() / (U.double().norm() * exact.norm()))


def off_identity(U: Tensor) -> float:
    """||U U^T - I||_F for a wide U."""
    U = U.double()
    return float(torch.linalg.matrix_norm(U @ U.mT - torch.eye(len(U), dtype=U.dtype)))


def factor(A: Tensor, method: Method, dtype: torch.dtype, engine: Engine | None = None) -> Tensor:
    """The result of the steps in a precision, as float64."""
    X = A.float() if dtype.itemsize < 8 else A
    return orthogonalize(X, method=method, engine=engine or Direct(), precision=dtype).double()


@dataclass(frozen=True)
class Half:
    """An ill-conditioned matrix in each precision, step by step.

    Attributes:
        values: Singular values of the matrix, log-spaced.
        cosines: To the true polar factor, by precision and number of steps.
        lows: The least singular value of the result.
        tops: The greatest one.
    """

    values: tuple[float, float]
    steps: tuple[int, ...]
    cosines: dict[str, list[float]]
    lows: dict[str, list[float]]
    tops: dict[str, list[float]]


def half_precision(rows: int, steps: Sequence[int]) -> Half:
    """Run the published steps on a matrix of condition 1e6 in each precision."""
    values = torch.logspace(0, -6, rows, dtype=torch.float64)
    A, exact = with_values(values, 2 * rows)
    made = Half((1.0, 1e-6), tuple(steps), {}, {}, {})
    for name, dtype in DTYPES.items():
        for collected in (made.cosines, made.lows, made.tops):
            collected[name] = []
        for t in steps:
            U = factor(A, PolarExpress(steps=t), dtype)
            sigma = torch.linalg.svdvals(U)
            made.cosines[name].append(cosine(U, exact))
            made.lows[name].append(float(sigma[-1]))
            made.tops[name].append(float(sigma[0]))
    return made


def verdicts(size: Size, half: Half) -> Iterator[Verdict]:
    """All claims about dense matrices."""
    yield _dense()
    yield _single()
    for name in HALVES:
        yield _stable(name, size)
    yield from _pitfall(half)
    yield _engines()
    yield from _restarts(size.rows)


def _dense() -> Verdict:
    values = torch.logspace(0, -6, 96, dtype=torch.float64)
    A, exact = with_values(values, 96)
    schedule = told(1e-6, steps=12).schedule()
    # The engine itself: `orthogonalize` would divide by the norm, and Figure 3 has sigma_1 = 1.
    U = Direct().run(POLAR, A[None], schedule, EAGER)[0]
    dense, scalar = float(torch.linalg.matrix_norm(U - exact, ord=2)), spectral(schedule, values.numpy())[-1]
    return judged(
        "C8",
        "the same on a dense matrix, random singular vectors, float64",
        "spectral error <= 1e-9 after 12 steps (unit roundoff x 1e6 = 1e-10)",
        f"{dense:.1e} (scalar map {scalar:.0e})",
        dense <= 1e-9,
    )


def _single() -> Verdict:
    U = factor(drawn(512, 256), PolarExpress(steps=16), torch.float32)
    worst = float((U.mT @ U - torch.eye(256, dtype=U.dtype)).abs().max())
    return judged(
        "C14",
        "float32 converges: Gaussian 512 x 256, 16 steps",
        "every entry of U^T U - I <= 1e-5",
        number(worst),
        worst <= 1e-5,
    )


def _stable(name: str, size: Size) -> Verdict:
    orthogonal, near = {"bfloat16": (0.015, 0.999), "float16": (0.003, 0.9999)}[name]
    n, dtype = size.rows, HALVES[name]
    A = drawn(n, 2 * n).to(dtype).double()
    left, _, right = torch.linalg.svd(A, full_matrices=False)
    low, high, off, least = 1.0, 1.0, 0.0, 1.0
    for t in size.steps:
        U = factor(A, PolarExpress(steps=t), dtype)
        sigma = torch.linalg.svdvals(U)
        low, high = min(low, float(sigma[-1])), max(high, float(sigma[0]))
        off, least = max(off, off_identity(U) / n**0.5), min(least, cosine(U, left @ right))
    return judged(
        "C15",
        f"{name} is stable: Gaussian {n} x {2 * n}, {', '.join(map(str, size.steps))} steps",
        f"sigma in [.985, 1.015], norm of U U^T - I over sqrt(n) <= {orthogonal}, cosine >= {near}",
        f"[{low:.4f}, {high:.4f}], {off:.4f}, {least:.6f}",
        low >= 0.985 and high <= 1.015 and off <= orthogonal and least >= near,
    )


def _pitfall(half: Half) -> Iterator[Verdict]:
    last, five = half.steps.index(max(half.steps)), half.steps.index(5)
    low, high = half.lows["bfloat16"][last], half.tops["bfloat16"][last]
    far, exact = half.cosines["bfloat16"][last], half.cosines["float64"][last]
    yield judged(
        "pitfall 8",
        f"orthogonal is not accurate: condition 1e6, {max(half.steps)} steps of bfloat16",
        "sigma in [.98, 1.02], yet cosine to the polar factor < .8; float64 > .95",
        f"[{low:.3f}, {high:.3f}], {far:.3f}; float64 {exact:.3f}",
        low >= 0.98 and high <= 1.02 and far < 0.8 and exact > 0.95,
    )
    yield judged(
        "pitfall 8",
        "in bfloat16 more steps make it worse",
        f"cosine after 5 steps above that after {max(half.steps)}",
        f"{half.cosines['bfloat16'][five]:.3f}, {far:.3f}; "
        f"float16 {half.cosines['float16'][five]:.3f}, {half.cosines['float16'][last]:.3f}",
        half.cosines["bfloat16"][five] > far,
    )


def _engines() -> Verdict:
    worst = 0.0
    for exponent in (2, 4, 6):
        A, _ = with_values(torch.logspace(0, -exponent, 96, dtype=torch.float64), 384)
        direct = orthogonalize(A, engine=Direct())
        worst = max(worst, *(float((direct - orthogonalize(A, engine=Gram(r))).abs().max()) for r in ((), (2,), (3,))))
    return judged(
        "C16",
        "the Gram form (Algorithm 3) equals the direct form in float64",
        "condition 1e2 to 1e6, 5 steps, restarts none, 2, 3: <= 1e-11",
        f"{worst:.1e}",
        worst <= 1e-11,
    )


def _restarts(rows: int) -> Iterator[Verdict]:
    A, _ = with_values(torch.logspace(-0.01, -6, rows, dtype=torch.float64), 4 * rows)
    five, ten = PolarExpress(), NewtonSchulz(steps=10)
    lost = [float(torch.linalg.matrix_norm(factor(A, m, torch.bfloat16, Gram(())), ord=2)) for m in (five, ten)]
    yield judged(
        "C17",
        f"the Gram form needs a restart: {rows} x {4 * rows}, log-spaced to 1e-6, bfloat16",
        "sigma_1 > 100 without a restart (PE 5 steps, NS 10 steps)",
        ", ".join(map(number, lost)),
        min(lost) > 100,
    )
    gram = factor(A, five, torch.float16, Gram((2,)))
    top = float(torch.linalg.matrix_norm(gram, ord=2))
    ratio = off_identity(gram) / off_identity(factor(A, five, torch.float16))
    yield judged(
        "C17",
        "float16 with a restart after step 2 cures it",
        "sigma_1 <= 1.14, Frobenius error within 1 % of the direct form's",
        f"{top:.4f}, {ratio - 1:+.2%}",
        top <= 1.14 and abs(ratio - 1) <= 0.01,
    )
