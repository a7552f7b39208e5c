"""Spectral: PRISM and scheduled methods on vectors of singular values or eigenvalues, exactly as on matrices.

An iteration that multiplies by functions of M acts on each eigenvalue alone, and a Gaussian sketch of k columns weights
the squared residuals with independent chi^2_k / k: what dense matrices do is simulated in law, without a matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from matfn import Prism, Schedule
from matfn.methods.prism.fit import blocks, least, moments

__all__ = ["Trace", "count", "fitted", "follow"]

Trace = Iterator[tuple[Tensor, Tensor | None]]  # m after 0, 1, 2, ... steps, (b, n), and the coefficient taken next


def fitted(m: np.ndarray, p: int, method: Prism, seeds: int = 1) -> Trace:
    """PRISM without end on eigenvalues m, once for each seed of the sketch (one run if the fit is exact)."""
    of = method.family(p)
    low, high = of.interval if method.interval is None else method.interval
    state = torch.from_numpy(np.array(m, dtype=np.float64)).expand(seeds, -1)
    rng = np.random.default_rng(0)
    for k in itertools.count():
        columns = None if method.sketch == "exact" else int(method.sketch)
        root_weights = np.ones((*state.shape, 1))
        if columns is not None:
            root_weights = np.sqrt(rng.chisquare(columns, root_weights.shape) / columns)
        a = torch.full((seeds,), high, dtype=torch.float64)
        if k >= method.warm:
            product = lambda W, state=state: state.unsqueeze(-1) * W  # noqa: E731
            a = least(moments(blocks(product, torch.from_numpy(root_weights), of)), low, high)
        yield state, a
        state = state * _step(state, of.fixed, of.free, a) ** p


def _step(m: Tensor, fixed: tuple[float, ...], free: tuple[float, ...], a: Tensor) -> Tensor:
    total = torch.zeros_like(m)
    for c, x in zip(reversed(fixed), reversed(free), strict=True):
        total = total * m + (c + a.unsqueeze(-1) * x)
    return total


def follow(m: np.ndarray, *schedules: Schedule) -> Trace:
    """The steps of the schedules one after the other, then the last one's last step without end."""
    state = torch.from_numpy(np.array(m, dtype=np.float64))[None]
    rows = [row for schedule in schedules for row in schedule.rows]
    for row in itertools.chain(rows, itertools.repeat(rows[-1])):
        yield state, None
        state = state * row(state) ** schedules[0].p


def count(trace: Trace, tolerance: float, limit: int) -> list[int | None]:
    """Steps until rms(1 - m) <= tolerance, for each run; None if `limit` steps do not suffice."""
    found: list[int | None] = []
    for k, (m, _) in enumerate(itertools.islice(trace, limit + 1)):
        found = found or [None] * len(m)
        small = (1 - m).square().mean(-1).sqrt() <= tolerance
        found = [k if f is None and bool(s) else f for f, s in zip(found, small, strict=True)]
        if None not in found:
            break
    return found
