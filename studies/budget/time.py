"""The cost of RitzMinimax's measurement: arithmetic relative to a step, and time, with all rivals in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import matfn
from matfn import RitzMinimax
from matfn.iteration.residual import Residual
from studies.budget.rivals import BUDGETS, OURS, RIVALS, rival

__all__ = ["SHAPES", "Clock", "Overhead", "clocks", "ladder", "overhead"]

SHAPES = ((24, 128, 128), (4, 256, 256), (1, 512, 512), (1, 1024, 1024), (1, 768, 3072))
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}


@dataclass(frozen=True)
class Overhead:
    """Arithmetic of the choice of one step, as shares of the 3 n^3 multiply-adds of a quintic step.

    Attributes:
        n: Order of M.
        dtype: Of the iteration.
        step: Which step: the first also bounds the upper end.
        products: Multiply-adds of the skinny products of the Lanczos steps.
        rest: One for each element that any other operation reads or writes, whichever are more: recurrences, norms,
            conversions, quadrature, rehearsal.
        operations: How many operations are dispatched: each a launch on a GPU.
    """

    n: int
    dtype: str
    step: int
    products: float
    rest: float
    operations: int

    @property
    def share(self) -> float:
        """All of it."""
        return self.products + self.rest


class _Tally(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products = self.rest = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if func.is_view:
            return result
        self.operations += 1
        if name in _PRODUCTS:
            left, right = args[_PRODUCTS[name] : _PRODUCTS[name] + 2]
            self.products += left.numel() * right.shape[-1]
        else:
            sizes = [x.numel() for x in tree_leaves((args, result)) if isinstance(x, Tensor)]
            self.rest += max(sizes, default=0)
        return result


def overhead(n: int, dtype: torch.dtype, k: int, method: RitzMinimax | None = None) -> Overhead:
    """The arithmetic of step k of five, M and its square at hand: the step needs both anyhow."""
    X = torch.randn(1, n, n, generator=torch.Generator().manual_seed(0)).to(dtype)
    X = X / torch.linalg.vector_norm(X)
    residual = Residual(X @ X.mT, 2)
    assert residual.square.shape == (1, n, n)
    method = RitzMinimax() if method is None else method
    method.step(k, residual)  # tables are read from disk once
    residual = Residual(residual.M, 2)
    assert residual.square.shape == (1, n, n)
    with _Tally() as tally:
        method.step(k, residual)
    unit = 3 * n**3
    name = str(dtype).removeprefix("torch.")
    return Overhead(n, name, k, tally.products / unit, tally.rest / unit, tally.operations)


@dataclass(frozen=True)
class Clock:
    """Times of one shape in one dtype.

    Attributes:
        shape: (b, m, n).
        dtype: Of argument and iteration.
        seconds: By rival, the least of the rounds: a busy machine only adds.
        extra: RitzMinimax's share of time that Polar Express, of the same products, does not take, 1 - t_PE / t: of
            those least times, and the first and third quartile of the pairs of each round.
    """

    shape: tuple[int, int, int]
    dtype: str
    seconds: dict[str, float]
    extra: tuple[float, float, float]


def clocks(
    shapes: Sequence[tuple[int, int, int]], dtypes: Sequence[str], rounds: int, notice: Callable[[str], None]
) -> list[Clock]:
    """Five steps of each rival on random matrices of each shape."""
    found = []
    for shape in shapes:
        for dtype in dtypes:
            notice(f"time  {shape} {dtype}")
            A = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
            spent = _rounds({name: (A, rival(name, 5)) for name in RIVALS}, rounds)
            pairs = zip(spent["Polar Express"], spent[OURS], strict=True)
            shares = np.quantile([1 - theirs / ours for theirs, ours in pairs], (0.25, 0.75)).tolist()
            least = {name: min(values) for name, values in spent.items()}
            share = 1 - least["Polar Express"] / least[OURS]
            found.append(Clock(shape, dtype, least, (share, shares[0], shares[1])))
    return found


def ladder(n: int, dtype: str, rounds: int) -> dict[str, list[float | None]]:
    """Seconds of every rival at every budget, on one square matrix: the least of the rounds."""
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    methods = {(name, t): rival(name, t) for name in RIVALS for t in BUDGETS}
    spent = _rounds({key: (A, method) for key, method in methods.items() if method is not None}, rounds)
    return {name: [min(spent[name, t]) if (name, t) in spent else None for t in BUDGETS] for name in RIVALS}


def _rounds(calls: dict[Any, tuple[Tensor, Any]], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each call; each round makes all of them, from another one on, so that a busy spell hits all."""
    spent: dict[Any, list[float]] = {key: [] for key in calls}
    keys = list(calls)
    for A, method in calls.values():
        matfn.orthogonalize(A, method=method)
    for k in range(rounds):
        shift = k * len(keys) // rounds
        for key in [*keys[shift:], *keys[:shift]]:
            A, method = calls[key]
            start = time.perf_counter()
            matfn.orthogonalize(A, method=method)
            spent[key].append(time.perf_counter() - start)
    return spent
