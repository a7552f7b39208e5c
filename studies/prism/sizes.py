"""The paper's curves: ||I - X^T X||_F against the iteration, on spectra of its sizes and on dense float32 matrices.

At the paper's sizes only the singular values are drawn (`ensemble`), and the iterations act on them in float64. A dense
matrix of 2000 x 1000 is assembled and iterated in float32, as the paper does with larger ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from matfn import NewtonSchulz, PolarExpress, Prism, Schedule
from matfn.iteration.protocols import Iteration
from studies.prism.bidiagonal import ensemble
from studies.prism.counts import watch
from studies.prism.spectral import Trace, fitted, follow

__all__ = ["ROUNDING", "SIZES", "Curve", "Size", "assembled", "dense", "floored", "paper_sizes"]

STEPS = 60  # of a curve in spectral coordinates
DENSE = (2000, 1000)
DENSE_STEPS = {None: 12, 100.0: 12, 0.5: 30, 0.1: 36}  # of each law: until the slowest method has converged
ROUNDING = 3.5e-8  # ||E||_F / ||A||_F of a matrix assembled in float32 from its factors, as the specification measured
METHODS: dict[str, Iteration | Schedule] = {
    "NS5": NewtonSchulz(5, STEPS).schedule(),
    # The published eight polynomials, then Newton-Schulz.
    "Polar Express": replace(
        PolarExpress(steps=8).schedule(),
        rows=PolarExpress(steps=8).schedule().rows + NewtonSchulz(5, STEPS - 8).schedule().rows,
        intervals=(),
    ),
    "PRISM": Prism(degree=5, sketch="exact"),
    "PRISM, sketch 8": Prism(degree=5),
}


@dataclass(frozen=True)
class Size:
    """A condition of the paper: shape, law of the singular values, number of draws here.

    Attributes:
        kappa: Of the high-temperature Marchenko-Pastur law; None for Gaussian entries.
    """

    m: int
    n: int
    kappa: float | None
    draws: int

    @property
    def name(self) -> str:
        """Law and shape."""
        law = "Gaussian" if self.kappa is None else f"HTMP {self.kappa:g}"
        return f"{law} {self.m}x{self.n}"

    def spectrum(self, seed: int) -> np.ndarray:
        """Singular values over the Frobenius norm, descending."""
        beta = 1.0 if self.kappa is None else self.kappa / self.n
        values = ensemble(self.m, self.n, beta, seed)
        return values / np.linalg.norm(values)


SIZES = (
    Size(100000, 2000, None, 5), Size(20000, 5000, None, 3), Size(15000, 15000, None, 1),
    Size(8000, 4000, 100.0, 5), Size(8000, 4000, 0.5, 5), Size(8000, 4000, 0.1, 5),
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """||I - X^T X||_F before the first step and after each.

    Attributes:
        condition: The name of the size, or of the dense matrix.
        method: A key of `METHODS`.
        kind: "exact arithmetic", "with a float32 floor" or "dense float32".
        draw: Seed of the spectrum.
        least: The least singular value over the Frobenius norm.
    """

    condition: str
    method: str
    kind: str
    draw: int
    least: float
    errors: tuple[float, ...]


def paper_sizes(notice: Callable[[str], None], sizes: Sequence[Size] = SIZES) -> Iterator[Curve]:
    """All methods on all draws in exact arithmetic, and the heaviest tail again with the floor of float32."""
    for size in sizes:
        for draw in range(size.draws):
            notice(f"6.6  {size.name}, draw {draw + 1} of {size.draws}")
            sigma = size.spectrum(draw)
            yield from curves(sigma, size.name, "exact arithmetic", draw)
            if size.kappa is not None:
                yield from curves(floored(sigma, size.m), size.name, "with a float32 floor", draw)


def floored(sigma: np.ndarray, m: int, times: float = 1.0) -> np.ndarray:
    """Singular values (over the Frobenius norm) after an error of `times` `ROUNDING` in the m x n matrix.

    The error acts like a matrix E of independent entries with ||E||_F = times * ROUNDING. It lifts the small singular
    values to the least one of E, which is ||E||_F (1 - sqrt(n / m)) / sqrt(n) by the law of Marchenko and Pastur.
    """
    n = len(sigma)
    floor = times * ROUNDING * (1 - math.sqrt(n / m)) / math.sqrt(n)
    lifted = np.hypot(sigma, floor)
    return lifted / np.linalg.norm(lifted)


def curves(sigma: np.ndarray, condition: str, kind: str, draw: int) -> Iterator[Curve]:
    """One curve a method."""
    m = sigma**2
    for name, method in METHODS.items():
        trace = follow(m, method) if isinstance(method, Schedule) else _fitted(m, method)
        yield Curve(condition, name, kind, draw, float(sigma[-1]), errors(trace))


def _fitted(m: np.ndarray, method: Iteration) -> Trace:
    assert isinstance(method, Prism)
    return fitted(m, 2, method)


def errors(trace: Trace) -> tuple[float, ...]:
    """The Frobenius norm after 0 to `STEPS` steps, with no more than three values below 1e-11."""
    found: list[float] = []
    for m, _ in itertools.islice(trace, STEPS + 1):
        found.append(float((1 - m[0]).square().sum().sqrt()))
        if len(found) > 3 and found[-3] < 1e-11:
            break
    return tuple(float(f"{value:.4g}") for value in found)


def dense(
    notice: Callable[[str], None], shape: tuple[int, int] = DENSE, laws: Mapping[float | None, int] = DENSE_STEPS
) -> Iterator[Curve]:
    """Dense matrices in float32 beside the same singular values in exact arithmetic: Gaussian and HTMP."""
    m, n = shape
    for kappa, steps in laws.items():
        size = Size(m, n, kappa, 1)
        notice(f"6.6  dense {size.name}")
        sigma = size.spectrum(0)
        yield from curves(sigma, size.name, "exact arithmetic", 0)
        A = assembled(sigma, m)
        for name, method in METHODS.items():
            if name != "PRISM, sketch 8":
                seen = watch(A, _steps(method, steps), steps)
                yield Curve(
                    size.name,
                    name,
                    "dense float32",
                    0,
                    float(sigma[-1]),
                    tuple(float(f"{e * n**0.5:.4g}") for e in seen),
                )


def _steps(method: Iteration | Schedule, steps: int) -> Iteration | Schedule:
    return replace(method, rows=method.rows[:steps], intervals=()) if isinstance(method, Schedule) else method


def assembled(sigma: np.ndarray, m: int) -> Tensor:
    """U diag(sigma) V^T by float32 products, with random orthonormal U, m x n, and V."""
    generator, n = torch.Generator().manual_seed(0), len(sigma)
    U = torch.linalg.qr(torch.randn(m, n, generator=generator)).Q
    V = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
    return (U * torch.from_numpy(sigma.copy()).float()) @ V.T
