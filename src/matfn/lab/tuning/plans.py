"""Plans that `matfn tune` weighs: schedules of mixed degrees, intervals, cushions and norms, by engine and restarts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, pairwise
from typing import Any

import numpy as np
import torch

import matfn
from matfn.checks import check_rounding
from matfn.engines.cost import Product, computed, products_of, sweeps
from matfn.kernels import EAGER
from matfn.lab.tuning.rounding import Engine, expected, rounded
from matfn.schatten import NORMS
from matfn.schedule import Schedule

__all__ = ["CUSHIONS", "DEGREES", "LOWERS", "STEPS", "Plan", "mixes", "plan_of", "plans", "predicted"]

DEGREES = (9, 7, 5, 3)
STEPS = (3, 4, 5, 6, 7, 8)
LOWERS = (1e-3, 2e-3, 4e-3)
CUSHIONS = (None, 0.06, 0.1)
_SPENT = {3: 2, 5: 3, 7: 4, 9: 4}  # products of a step, run directly on a square matrix
_SLACK = 0.93  # a mix is out of the race if another one has no more error and cost, and one of them less by that


@dataclass(frozen=True)
class Plan:
    """A schedule and how it is run.

    Attributes:
        method: The schedule's degrees, interval, cushion and norm.
        schedule: Its steps.
        engine: `Direct()`, or `Gram` with restarts.
        products: Of one matrix.
        error: Worst |1 - s| over [lower, 1] without rounding.
        rounding: What rounding may add to that at most, by the model of `rounded`; infinite where nothing is left.
        expected: rms(1 - sigma) that is to be expected of the spectra that were given.

    What a plan is weighed by is `total`: rounding hits few directions, but those it hits are the largest.
    """

    method: matfn.PolarExpress
    schedule: Schedule
    engine: Engine
    products: tuple[Product, ...]
    error: float
    rounding: float
    expected: float

    @property
    def degrees(self) -> tuple[int, ...]:
        """Of the steps."""
        return self.schedule.degrees

    @property
    def name(self) -> str:
        """Degrees, lower end, what is not the default of the rest, and the engine."""
        usual = matfn.PolarExpress()
        parts = ["-".join(map(str, self.degrees)), f"{self.method.lower:g}"]
        parts += [] if self.method.cushion is None else [f"cushion {self.method.cushion:g}"]
        parts += [] if self.method.norm == usual.norm else ["S4"]
        how = "direct" if isinstance(self.engine, matfn.Direct) else f"gram {self.engine.restarts}"
        return f"{' '.join(parts)}, {how}"

    @property
    def total(self) -> float:
        """What is expected of the spectra and what rounding may add, together."""
        return math.hypot(self.expected, self.rounding)

    def multiply_adds(self, kernel: object = EAGER) -> float:
        """Of one matrix, as the kernel computes them."""
        return sum(computed(product, kernel) for product in self.products)


def plan_of(
    method: matfn.PolarExpress,
    engine: Engine,
    shape: tuple[int, int],
    dtype: torch.dtype,
    spectra: Sequence[np.ndarray],
) -> Plan:
    """The plan, foretold, whether the dtype bears it or not."""
    schedule = method.schedule(2)
    low, high = rounded(schedule, engine, dtype, min(shape))
    error = schedule.error()
    rounding = max(1 - low, high - 1, error) - error
    products = products_of(schedule, engine, shape)
    return Plan(method, schedule, engine, products, error, rounding, expected(schedule, engine, spectra, dtype))


def mixes(most: int) -> Iterator[tuple[int, ...]]:
    """Degrees that fall from step to step, the last as it likes: 3 to 8 steps, q of degree 1 to 4.

    High degrees come first: they lift small values most where the interval is long, and at the end of a schedule a
    step of degree 3 or 5 is as good. But what they lose by rounding they lose where the interval is long too, so in
    half precision a high degree may come last, or not at all. A product count stands in for the cost, which depends on
    the shape.

    Args:
        most: Products, run directly on a square matrix; five quintics have 15.
    """
    for steps in STEPS:
        for falling in combinations_with_replacement(DEGREES, steps - 1):
            for last in DEGREES:
                if sum(_SPENT[degree] for degree in (*falling, last)) <= most:
                    yield (*falling, last)


def plans(
    shape: tuple[int, int],
    dtype: torch.dtype,
    lowers: Sequence[float],
    spectra: Sequence[np.ndarray],
    most: int = 18,
) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
    """The plans that the dtype bears, and the mixes of degrees that it does not.

    A plan is borne if by the model of `rounded` no singular value in [lower, 1] ends at 0 or at 2 and beyond. Each mix
    is tried with the middle of `lowers` first; those that are beaten clearly in cost and error go no further, the
    others are tried with every interval, cushion and norm. Of these, which cost the same, the one that is
    expected to leave the least error stands for all with its engine.

    Args:
        shape: (rows, columns).
        dtype: Of the iteration.
        lowers: Least singular values that schedules are made for, as parts of the norm.
        spectra: Singular values of matrices like those that it is for.
        most: See `mixes`.
    """
    found: dict[tuple[int, ...], Plan] = {}
    refused = []
    usual = lowers[len(lowers) // 2]
    for degrees in mixes(most):
        first = [matfn.PolarExpress(degrees, lower=usual, cushion=cushion) for cushion in (None, CUSHIONS[-1])]
        if borne := _borne(first, (matfn.Direct(),), shape, dtype, spectra):
            found[degrees] = min(borne, key=lambda plan: plan.total)
        else:
            refused.append("-".join(map(str, degrees)))
    chosen: list[Plan] = []
    for degrees in _in_the_race(found, shape):
        variants = [matfn.PolarExpress(degrees, lower=low, cushion=high) for low in lowers for high in CUSHIONS]
        chosen += _borne(variants, tuple(_engines(len(degrees), shape)), shape, dtype, spectra)
    return tuple(_least(chosen)), tuple(refused)


def _borne(
    methods: Sequence[matfn.PolarExpress],
    engines: Sequence[Engine],
    shape: tuple[int, int],
    dtype: torch.dtype,
    spectra: Sequence[np.ndarray],
) -> list[Plan]:
    """Of each method the plans by engine and norm that the dtype bears."""
    found = []
    for method in methods:
        try:
            check_rounding(method.schedule(2), dtype)
        except ValueError:
            continue
        for engine in engines:
            plan = plan_of(method, engine, shape, dtype, spectra)
            if plan.error + plan.rounding < 1:
                found.append(plan)
                for norm in NORMS[1:]:  # its steps are the same, and so is all that rounding does to them
                    other = replace(method, norm=norm)
                    schedule = other.schedule(2)
                    better = expected(schedule, engine, spectra, dtype)
                    found.append(replace(plan, method=other, schedule=schedule, expected=better))
    return found


def _engines(steps: int, shape: tuple[int, int]) -> Iterator[Engine]:
    """Direct, and for what is not square Gram with at most two restarts that are not neighbours."""
    yield matfn.Direct()
    if shape[0] != shape[1]:
        for count in range(3):
            for restarts in combinations(range(1, steps), count):
                if all(b - a > 1 for a, b in pairwise(restarts)):
                    yield matfn.Gram(restarts)


def _in_the_race(found: Mapping[tuple[int, ...], Plan], shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """The mixes that none beats clearly: in error and in the cost of either engine, Gram's with one restart."""
    kept: dict[tuple[int, ...], None] = {}
    for engine in (matfn.Direct(), matfn.Gram((2,))):
        costs = {
            degrees: sum(p.multiply_adds for p in products_of(plan.schedule, engine, shape))
            for degrees, plan in found.items()
        }
        points = [(plan.total, costs[degrees]) for degrees, plan in found.items()]
        for degrees, plan in found.items():
            error, cost = plan.total, costs[degrees]
            beaten = (e <= error and c <= cost and (e < _SLACK * error or c < _SLACK * cost) for e, c in points)
            if not any(beaten):
                kept[degrees] = None
    return list(kept)


def _least(borne: Sequence[Plan]) -> list[Plan]:
    """Of each mix and engine, which cost the same, the plan with the least error."""
    found: dict[tuple[Any, ...], Plan] = {}
    for plan in borne:
        key = (plan.degrees, plan.engine)
        if key not in found or plan.total < found[key].total:
            found[key] = plan
    return list(found.values())


def predicted(
    plan: Plan, seconds: Mapping[Product, float], around: float, per_entry: float, shape: tuple[int, int]
) -> float:
    """Seconds of a call: its products one by one as they were measured, and what is not a product.

    Args:
        plan: What is run.
        seconds: Of each product of it, by the kernel that is thought of.
        around: Of scaling and rounding the argument and the result, once.
        per_entry: Of an entry of an n x n matrix in the weighted sums of powers.
        shape: (rows, columns).
    """
    return around + sum(seconds[product] for product in plan.products) + per_entry * sweeps(plan.schedule, shape)
