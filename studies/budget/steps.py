"""Steps to an accuracy in float64: RitzMinimax without information, other methods with the exact interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from matfn import NewtonSchulz, PolarExpress, Prism, RitzMinimax, inv_rootm, orthogonalize
from matfn.iteration.target import INV_ROOT, POLAR
from studies.accuracy.work import steps_of
from studies.prism import published
from studies.prism.counts import eigenvalues, singular_values
from studies.prism.spectral import count, fitted, follow

__all__ = ["ROOTS", "SPECTRA", "Count", "polar_counts", "root_counts"]

TOLERANCE, LIMIT, SEEDS = 1e-6, 120, 5
SPECTRA = (*published.POLAR, "gaussian 4096x512", "outlier x100", "clustered")  # more than the specification's table
ROOTS = tuple(published.ROOTS)


@dataclass(frozen=True)
class Count:
    """Steps to rms(I - M) <= 1e-6; None if 120 do not suffice.

    Attributes:
        name: Of the spectrum.
        least: Least s = m^(1/p) before the first step.
        others: By method, from the exact spectrum: schedules, and PRISM with the exact fit.
        told: Minimax polynomials for the exact interval.
        ours: The most over five seeds of the random vectors, on diagonal matrices: a Gaussian vector does not see the
            eigenvectors.
        fewest: The fewest over those seeds.
    """

    name: str
    least: float
    others: dict[str, int | None]
    told: int | None
    ours: int | None
    fewest: int | None


def polar_counts(names: Sequence[str], notice: Callable[[str], None]) -> list[Count]:
    """The polar factor, quintic steps."""
    found = []
    for name in names:
        notice(f"steps to 1e-6  {name}")
        sigma = singular_values(name)
        scaled = sigma / np.linalg.norm(sigma)
        A = torch.diag(torch.from_numpy(scaled.copy()))
        others = {
            "Newton-Schulz": follow(scaled**2, NewtonSchulz(5, 1).schedule()),
            "PRISM-3": fitted(scaled**2, 2, Prism(degree=3, sketch="exact")),
            "PRISM-5": fitted(scaled**2, 2, Prism(degree=5, sketch="exact")),
            "Polar Express": follow(scaled**2, PolarExpress(steps=8).schedule(), NewtonSchulz(5, 1).schedule()),
        }
        found.append(_count(name, scaled, 2, others, lambda m, g, A=A: orthogonalize(A, method=m, generator=g)))
    return found


def root_counts(names: Sequence[str], notice: Callable[[str], None], p: int = 4) -> list[Count]:
    """The inverse p-th root; q of degree 2, PRISM's and Newton's also of degree 1, as published."""
    found = []
    for name in names:
        notice(f"steps to 1e-6, p = {p}  {name}")
        values = eigenvalues(name)
        m = values / np.linalg.norm(values)
        A = torch.diag(torch.from_numpy(m.copy()))
        others = {
            "Newton, degree 1": follow(m, NewtonSchulz(3, 1).schedule(p)),
            "Newton, degree 2": follow(m, NewtonSchulz(5, 1).schedule(p)),
            "PRISM, degree 1": fitted(m, p, Prism(degree=3, sketch="exact")),
            "PRISM, degree 2": fitted(m, p, Prism(degree=5, sketch="exact")),
        }
        found.append(_count(name, m ** (1 / p), p, others, lambda r, g, A=A: inv_rootm(A, p, method=r, generator=g)))
    return found


def _count(name: str, s: np.ndarray, p: int, others: dict[str, Any], run: Callable[..., object]) -> Count:
    """All counts of one spectrum. Exact arithmetic needs no cushion and no safety, so the informed method has none."""
    told = PolarExpress(steps=60, lower=max(float(s.min()), 1e-15), safety=1, cushion=0).schedule(p)
    target = POLAR if p == 2 else INV_ROOT.with_exponent(p)
    method: Any = RitzMinimax(tol=TOLERANCE)
    converges = s.min() > 2e-15  # smaller values are within the roundoff of float64, and count as zero

    def once(seed: int) -> int | None:
        generator = torch.Generator().manual_seed(seed)
        return steps_of(method, target, lambda looked: run(looked, generator))

    ours = [once(seed) for seed in range(SEEDS)] if converges else [None]
    known = [steps for steps in ours if steps is not None]
    return Count(
        name,
        float(s.min()),
        {key: count(trace, TOLERANCE, LIMIT)[0] for key, trace in others.items()},
        count(follow(s**p, told, NewtonSchulz(5, 1).schedule(p)), TOLERANCE, LIMIT)[0],
        max(known, default=None),
        min(known, default=None),
    )
