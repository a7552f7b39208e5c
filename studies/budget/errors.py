"""Errors at a budget: rms(1 - sigma) of every rival after 2 to 6 steps, on spectra and on momentum matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import matfn
from studies.budget.rivals import BUDGETS, RIVALS, rival
from studies.momenta import Momentum
from studies.spectra import SPECTRA, drawn

__all__ = ["ALL", "Case", "Errors", "dense", "drawn_cases", "measured", "momentum_cases", "of_case", "spectrum_cases"]

ALL = ", all values"
Errors = dict[str, list[float | None]]  # rms(1 - sigma) by rival, one for each budget


@dataclass(frozen=True)
class Case:
    """A matrix to orthogonalize.

    Attributes:
        name: As shown.
        group: "spectra", "drawn", or "momenta" of a run.
        A: (m, n), float64.
        rank: Singular values that are not zero, to the precision of float32 for a matrix that was computed in it. The
            error is taken over so many, and for a singular matrix also over all.
        spectrum: Singular values over the greatest, descending.
    """

    name: str
    group: str
    A: Tensor
    rank: int
    spectrum: np.ndarray


def spectrum_cases(size: int, seed: int) -> Iterator[Case]:
    """The spectra of the accuracy benchmark, square but for one that is four times as tall."""
    for name in ("gaussian", "gaussian tall", *list(SPECTRA)[1:]):
        m = size * 4 if name.endswith("tall") else size
        yield _case(name, "spectra", m, SPECTRA[name.removesuffix(" tall")](m, size, seed))


def drawn_cases(count: int, size: int) -> Iterator[Case]:
    """Spectra drawn at random."""
    for number in range(count):
        yield _case(f"drawn {number}", "drawn", size, drawn(size, size, number))


def momentum_cases(source: str, momenta: Sequence[Momentum]) -> Iterator[Case]:
    """Momentum matrices of a training run; zero matrices (of steps without a gradient) are left out."""
    for momentum in momenta:
        A = momentum.matrix.double()
        s = torch.linalg.svdvals(A).numpy()
        if s[0] > 0:
            rank = int((s > max(A.shape) * 2.0**-24 * s[0]).sum())
            yield Case(f"{momentum.name}, step {momentum.step}", source.replace(": ", ", "), A, rank, s / s[0])


def _case(name: str, group: str, m: int, values: np.ndarray) -> Case:
    values = np.ascontiguousarray(values, dtype=np.float64)
    return Case(name, group, dense(values, m), int((values > 0).sum()), values)


def dense(values: np.ndarray, m: int, seed: int = 0) -> Tensor:
    """A matrix of those singular values between random orthonormal factors, (m, n) in float64."""
    generator, n = torch.Generator().manual_seed(seed), len(values)
    U, V = (torch.linalg.qr(torch.randn(rows, n, generator=generator, dtype=torch.float64)).Q for rows in (m, n))
    return (U * torch.from_numpy(values)) @ V.mT


def of_case(case: Case, dtype: torch.dtype) -> tuple[Errors, Errors]:
    """The error of every rival at every budget over the `rank` greatest values, and over all of them.

    The matrix is rounded to the dtype and iterated in it. What is zero no method lifts: over all values it is a share
    of the error that all have, and hides what happens to the others.
    """
    A = case.A.to(dtype)
    s = torch.linalg.svdvals(A.double())
    least = float(s[case.rank - 1] / torch.linalg.vector_norm(s))
    on_range: Errors = {name: [] for name in RIVALS}
    over_all: Errors = {name: [] for name in RIVALS}
    for name in RIVALS:
        for steps in BUDGETS:
            method = rival(name, steps, least)
            sigma = None if method is None else _values(matfn.orthogonalize(A, method=method))
            on_range[name].append(_rms(sigma, case.rank))
            over_all[name].append(_rms(sigma, len(s)))
    return on_range, over_all


def _values(U: Tensor) -> Tensor:
    """Singular values, descending; infinite where U is not finite."""
    if not bool(torch.isfinite(U).all()):
        return torch.full((min(U.shape),), torch.inf)
    return torch.linalg.svdvals(U.double())


def _rms(sigma: Tensor | None, count: int) -> float | None:
    """The root mean square of 1 - sigma over the greatest values, to four digits; 1e99 for more, as JSON needs it."""
    if sigma is None:
        return None
    return min(float(f"{math.sqrt((1 - sigma[:count]).square().mean().item()):.4g}"), 1e99)


def measured(
    cases: Sequence[Case], dtypes: Sequence[str], notice: Callable[[str], None]
) -> dict[str, dict[str, Errors]]:
    """Errors by dtype and case; singular matrices a second time, over all their values, with `ALL` behind the name."""
    found: dict[str, dict[str, Errors]] = {}
    for dtype in dtypes:
        found[dtype] = {}
        for case in cases:
            notice(f"error at a budget  {dtype}  {case.group}: {case.name}")
            name = f"{case.group}: {case.name}"
            found[dtype][name], over_all = of_case(case, getattr(torch, dtype))
            if case.rank < min(case.A.shape):
                found[dtype][name + ALL] = over_all
    return found
