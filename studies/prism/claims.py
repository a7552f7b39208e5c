"""The claims about PRISM that are checked in seconds: identities of the fit, bounds of the iterates, results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from matfn import Exact, NewtonSchulz, Polynomial, Prism, inv_rootm, orthogonalize
from matfn.engines import Direct
from matfn.iteration.residual import Residual
from matfn.iteration.target import POLAR, SIGN
from matfn.kernels import EAGER
from matfn.methods.prism.family import family
from matfn.methods.prism.fit import blocks, least, moments
from studies.prism.counts import EXACT3, EXACT5, Watched, first, watch
from studies.prism.sizes import Size, assembled
from studies.prism.spectral import count, fitted, follow
from studies.spectra import SPECTRA

__all__ = [
    "assembly", "chebyshev", "counterexample", "determinism", "divergence", "invariance", "normalised", "orientation",
    "quartic", "rank_deficient", "root", "sketch_counts", "sketch_law", "solver", "taylor", "theorem1", "tightness",
]  # fmt: skip


def alpha(m: Tensor, method: Prism, weights: Tensor | None = None, p: int = 2) -> Tensor:
    """The coefficient that the library fits to eigenvalues m, (b, n); `weights` are square roots of theirs, (b, n)."""
    of = method.family(p)
    W = torch.ones_like(m) if weights is None else weights
    low, high = method.interval or of.interval
    return least(moments(blocks(lambda V: m.unsqueeze(-1) * V, W.unsqueeze(-1), of)), low, high)


def residual(xi: Tensor | np.ndarray, a: Tensor | np.ndarray | float, d: int) -> Tensor | np.ndarray:
    """h(xi; a) for p = 2, written out."""
    g = 1 + a * xi if d == 1 else 1 + xi / 2 + a * xi**2
    return 1 - (1 - xi) * g**2


def gaussian(m: int, n: int, seed: int = 0) -> Tensor:
    """A standard normal matrix in float64."""
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _published(t: list[float], d: int) -> list[float]:
    """m_0 .. m_4 of the specification, section 1.3, from t_i = tr R^i."""
    if d == 1:
        third = 4 * t[2] - 10 * t[3] + 6 * t[4]
        return [t[2], 4 * (t[3] - t[2]), third, 4 * (t[3] - 2 * t[4] + t[5]), t[4] - 2 * t[5] + t[6]]
    return [
        9 * t[4] / 16 + 3 * t[5] / 8 + t[6] / 16,
        -3 * t[4] + t[5] / 2 + 2 * t[6] + t[7] / 2,
        4 * t[4] - 4 * t[5] - 9 * t[6] / 2 + 3 * t[7] + 3 * t[8] / 2,
        4 * t[6] - 6 * t[7] + 2 * t[9],
        t[8] - 2 * t[9] + t[10],
    ]


def quartic() -> float:
    """C1: the worst relative difference of the printed coefficients, the library's, and ||h(R; 0.77)||_F^2."""
    worst, n = 0.0, 40
    values = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Q = torch.linalg.qr(gaussian(n, n)).Q
    M = (Q * values) @ Q.T
    R, one = torch.eye(n, dtype=torch.float64) - M, torch.eye(n, dtype=torch.float64)
    for d in (1, 2):
        t = [float(torch.linalg.matrix_power(R, i).trace()) for i in range(11)]
        m = _published(t, d)
        C = blocks(lambda W: M @ W, one, family(2, d))
        ours = (moments(C) * float(C[0].abs().amax()) ** 2).tolist()
        worst = max(worst, *(abs(a / b - 1) for a, b in zip(ours, m[1:], strict=True)))
        g = one + 0.77 * R if d == 1 else one + R / 2 + 0.77 * R @ R
        norm = float((one - (one - R) @ g @ g).square().sum())
        worst = max(worst, abs(sum(c * 0.77**i for i, c in enumerate(m)) / norm - 1))
    return worst


def taylor() -> float:
    """C2: the greatest difference on [0, 1] of steps at the lower end of the interval and Newton-Schulz's."""
    x = np.linspace(0, 1, 101)
    worst = 0.0
    for d, classical in ((1, 1.5 * x - 0.5 * x**3), (2, (15 * x - 10 * x**3 + 3 * x**5) / 8)):
        of = family(2, d)
        step = Polynomial(tuple(c + of.interval[0] * f for c, f in zip(of.fixed, of.free, strict=True)))
        worst = max(worst, float(np.abs(x * step(x**2) - classical).max()))
    return worst


def sketch_counts(draws: int = 8) -> dict[int, tuple[float, float]]:
    """C7: for 8 columns and 1, the mean excess over the exact count and the widest range, Gaussian 512, 40 sketches."""
    excess: dict[int, list[float]] = {8: [], 1: []}
    widest: dict[int, float] = {8: 0, 1: 0}
    for seed in range(draws):
        sigma = SPECTRA["gaussian"](512, 512, seed)
        m = (sigma / np.linalg.norm(sigma)) ** 2
        [exact] = count(fitted(m, 2, EXACT5), 1e-6, 40)
        for columns, found in excess.items():
            counts = [
                math.inf if c is None else c for c in count(fitted(m, 2, Prism(degree=5, sketch=columns), 40), 1e-6, 40)
            ]
            widest[columns] = max(widest[columns], max(counts) - min(counts))
            found.append(float(np.mean(counts)) - (exact or 0))
    return {columns: (float(np.mean(found)), widest[columns]) for columns, found in excess.items()}


def sketch_law() -> tuple[float, tuple[float, float], tuple[float, float]]:
    """C8: p-value of Kolmogorov and Smirnov, and mean and deviation of 300 coefficients each, dense and simulated."""
    A = gaussian(128, 128)
    kept = Kept(EXACT5, 6, [])
    Direct().run(POLAR, (A / A.norm())[None], kept, EAGER)
    M, of = kept.iterates[5], family(2, 2)
    at = Residual(M, 2)
    dense = [
        float(least(moments(blocks(at.product, at.sketch(8, draw), of)), *of.interval).item()) for draw in range(300)
    ]
    weights = torch.from_numpy(np.sqrt(np.random.default_rng(0).chisquare(8, (300, 128)) / 8))
    simulated = alpha(torch.linalg.eigvalsh(M).expand(300, -1), Prism(degree=5), weights).tolist()
    both = [(float(np.mean(values)), float(np.std(values))) for values in (dense, simulated)]
    return float(ks_2samp(dense, simulated).pvalue), both[0], both[1]  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Kept(Watched):
    """A method that keeps the matrix and the highest coefficient of each step."""

    iterates: list[Tensor] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)

    def step(self, k: int, residual: Residual) -> Polynomial:
        """The step of `inner`."""
        step = super().step(k, residual)
        self.iterates.append(residual.M)
        self.highest.append(float(torch.as_tensor(step.coefficients[-1]).reshape(-1)[0]))
        return step


def invariance(d: int) -> tuple[float, float, float]:
    """C9: least and greatest residual and greatest singular value over 15 steps, 1000 spectra, fitted and random a.

    Starts with singular values in (0, 1], so the first residuals are in [0, 1).
    """
    rng = np.random.default_rng(d)
    lowest, highest = 1.0, 0.0
    for random in (False, True):
        sigma = rng.random((1000, 12)) ** rng.uniform(0.2, 8, (1000, 1))
        m = torch.from_numpy(np.clip(sigma, 1e-12, 1) ** 2)
        for _ in range(15):
            a = alpha(m, Prism(degree=2 * d + 1, sketch="exact"))
            if random:
                a = torch.from_numpy(rng.uniform(*family(2, d).interval, 1000))
            m = 1 - torch.as_tensor(residual(1 - m, a[:, None], d))
            lowest, highest = min(lowest, float((1 - m).min())), max(highest, float((1 - m).max()))
    return lowest, highest, (1 - lowest) ** 0.5


def tightness() -> float:
    """C10: the a at which h(min h(.; a); a) = min h(.; a), d = 2, by bisection."""
    xi = np.linspace(0, 1, 200001)
    low, high = 1.4, 1.6
    for _ in range(40):
        middle = (low + high) / 2
        bottom = float(np.asarray(residual(xi, middle, 2)).min())
        low, high = (middle, high) if float(residual(np.array(bottom), middle, 2)) > bottom else (low, middle)
    return low


def divergence() -> dict[str, tuple[int | None, int | None]]:
    """C10: steps with the printed interval and with a up to 1.6; None did not converge within 60."""
    found = {}
    for name in ("i^-2", "log-uniform 1e-6"):
        sigma = SPECTRA[name](1024, 512, 0)
        m = (sigma / np.linalg.norm(sigma)) ** 2
        wide = Prism(degree=5, sketch="exact", interval=(3 / 8, 1.6))
        found[name] = (count(fitted(m, 2, EXACT5), 1e-6, 60)[0], count(fitted(m, 2, wide), 1e-6, 60)[0])
    return found


def counterexample(sketch: int | str) -> list[float]:
    """||I - X_k^2||_2, k = 0 .. 3, for A = [[0, -1], [1, 0]] of norm 1, whose square -I is symmetric."""
    A = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)
    watched = Kept(Prism(degree=3, sketch=sketch), 4, [])
    Direct().run(SIGN, A, watched, EAGER)
    return [float(torch.linalg.matrix_norm(torch.eye(2, dtype=torch.float64) - M[0], 2)) for M in watched.iterates]


def theorem1() -> tuple[int, int]:
    """Violations of the exponents 2^(k-2) and 2^k in 6 steps on 1000 positive spectra, multiplicities 1e-6 to 1e6."""
    rng = np.random.default_rng(3)
    r = torch.from_numpy(rng.random((1000, 6)) ** rng.uniform(0.05, 3, (1000, 1)))
    weights = torch.from_numpy(10.0 ** rng.uniform(-3, 3, (1000, 6)))
    start, weak, strong = r.amax(-1), 0, 0
    for k in range(1, 7):
        r = torch.as_tensor(residual(r, alpha(1 - r, EXACT3, weights)[:, None], 1))
        norm = r.abs().amax(-1) - 1e-14
        weak += int((~(norm <= start ** (2.0 ** (k - 2)))).sum())  # not a number is a violation, too
        strong += int((~(norm <= start ** (2**k))).sum())
    return weak, strong


def normalised() -> tuple[float, float]:
    """C12: m_4 = t_8 - 2 t_9 + t_10 in float32 for residuals in [0.5, 1] 1e-6, and |a - 3/8| of the library's route."""
    r = torch.linspace(0.5, 1, 64) * 1e-6
    raw = float((r**8).sum() - 2 * (r**9).sum() + (r**10).sum())
    return raw, abs(float(alpha((1 - r)[None], EXACT5)[0]) - 3 / 8)


def solver(spectra: int = 2000) -> tuple[float, float]:
    """C13: the greatest |a - a*| and relative excess of the loss over roots of the derivative, random spectra.

    Where two minima are level to 1e-12, either is right, and |a - a*| does not count.
    """
    rng, of = np.random.default_rng(0), family(2, 2)
    low, high = of.interval
    apart = excess = 0.0
    for _ in range(spectra):
        values = np.clip(rng.random(16) ** rng.uniform(0.2, 8), 1e-12, 1)
        m = torch.from_numpy(values[None] ** 2)
        C = blocks(lambda W, m=m: m.unsqueeze(-1) * W, torch.ones(1, 16, 1, dtype=torch.float64), of)
        coefficients = [0.0, *moments(C)[0].tolist()]
        scaled = float((C[0] / C[0].abs().amax()).square().sum())
        loss = np.polynomial.Polynomial([scaled, *coefficients[1:]])
        inner = [float(z.real) for z in loss.deriv().roots() if abs(z.imag) < 1e-12 and low < z.real < high]
        best = min([low, high, *inner], key=loss)
        ours = float(alpha(m, EXACT5)[0])
        gap = (float(loss(ours)) - float(loss(best))) / float(loss(best))
        excess = max(excess, gap)
        if abs(gap) > 1e-12 or abs(ours - best) < (high - low) / 64:
            apart = max(apart, abs(ours - best))
    return apart, excess


def root() -> float:
    """C14: relative error of A^(-1/4) against eigh, n = 96, condition 1e6, float64, PRISM of degree 3."""
    Q = torch.linalg.qr(gaussian(96, 96)).Q
    values = torch.logspace(0, -6, 96, dtype=torch.float64)
    A, wanted = (Q * values) @ Q.T, (Q * values**-0.25) @ Q.T
    found = inv_rootm((A + A.T) / 2, 4, method=Prism(degree=3, sketch="exact", steps=20))
    return float((found - wanted).norm() / wanted.norm())


def rank_deficient() -> tuple[float, float, float]:
    """C15: greatest singular value beyond the 16th, |rms - sqrt(1/2)|, and greatest |a - a of the 64 x 16 block|.

    64 x 32 with 16 zero columns.
    """
    A = gaussian(64, 32)
    A[:, 16:] = 0
    seen = [Kept(EXACT5, 12, []) for _ in range(2)]
    X = orthogonalize(A, method=seen[0])
    orthogonalize(A[:, :16], method=seen[1])
    tail = float(torch.linalg.svdvals(X)[16:].max())
    rms = float((torch.eye(32, dtype=torch.float64) - X.T @ X).norm()) / 32**0.5
    coefficients = zip(seen[0].highest[:7], seen[1].highest[:7], strict=True)
    return tail, abs(rms - 0.5**0.5), max(abs(a - b) for a, b in coefficients)


def chebyshev() -> tuple[float, int | None, int | None, int | None]:
    """C16: |a - closed form|, and steps to rms 1e-9 of Newton, Chebyshev and PRISM for the inverse, condition 1e3."""
    sigma = SPECTRA["log-uniform 1e-3"](256, 256, 0)
    m = sigma**2 / float((sigma**2).sum())  # the spectrum of A X_0 = A A^T / ||A||_F^2
    wide = Prism(degree=5, sketch="exact", interval=(0.01, 100.0))
    half = torch.from_numpy(np.linspace(0.3, 1, 32))[None]
    t4, t5, t6 = (float(((1 - half) ** i).sum()) for i in (4, 5, 6))
    closed = (t4 - t5) / (t4 - 2 * t5 + t6)
    ways = (
        follow(m, NewtonSchulz(3, 1).schedule(1)),
        follow(m, NewtonSchulz(5, 1).schedule(1)),
        fitted(m, 1, Prism(degree=5, sketch="exact")),
    )
    newton, classical, prism = (count(trace, 1e-9, 120)[0] for trace in ways)
    return abs(float(alpha(half, wide, p=1)[0]) - closed), newton, classical, prism


def assembly() -> tuple[int | None, int | None]:
    """C17: steps to ||I - X^T X||_F <= 1e-2 of HTMP 0.1, 1024 x 512: assembled in float32, and in exact arithmetic."""
    sigma = Size(1024, 512, 0.1, 1).spectrum(0)
    seen = [error * 512**0.5 for error in watch(assembled(sigma, 1024), EXACT5, 30)]
    return first(seen, 1e-2), next(_exact(sigma), None)


def _exact(sigma: np.ndarray) -> Iterator[int]:
    for k, (m, _) in zip(range(150), fitted(sigma**2, 2, EXACT5), strict=False):
        if float((1 - m).square().sum()) <= 1e-4:
            yield k


def determinism() -> tuple[bool, float]:
    """C18: whether the same seed gives the same bits, and the greatest difference of 20 other seeds.

    5 steps on a Gaussian 128 x 64 float32 matrix.
    """
    A = gaussian(128, 64).float()

    def made(seed: int) -> Tensor:
        return orthogonalize(A, method=Prism(degree=5, steps=5), generator=torch.Generator().manual_seed(seed))

    one = made(0)
    return torch.equal(one, made(0)), max(float((one - made(seed)).abs().max()) for seed in range(1, 21))


def orientation() -> tuple[float, float]:
    """C19: the greatest difference of polar(W) and polar(W^T)^T, and of polar(W) and the SVD's U V^T, float64."""
    W = gaussian(96, 48)
    tall = orthogonalize(W, method=Prism(degree=5, steps=20, sketch="exact"))
    wide = orthogonalize(W.T.contiguous(), method=Prism(degree=5, steps=20, sketch="exact")).T
    return float((tall - wide).abs().max()), float((tall - orthogonalize(W, method=Exact())).abs().max())
