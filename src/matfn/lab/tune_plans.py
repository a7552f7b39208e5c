"""Plans that `matfn tune` weighs: schedules of mixed degrees and engines, with the error and the cost they foretell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import torch

import matfn
from matfn.checks import check_rounding
from matfn.engines import amplification
from matfn.engines.cost import Product, computed, products_of, sweeps
from matfn.engines.restarts import restarts_for
from matfn.kernels import EAGER
from matfn.schedule import Schedule

__all__ = ["DEGREES", "STEPS", "Plan", "mixes", "plans", "predicted"]

DEGREES = (9, 7, 5, 3)
STEPS = (3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Plan:
    """A schedule and how it is run.

    Attributes:
        degrees: Of the steps.
        schedule: The steps.
        engine: `Direct()`, or `Gram` with the restarts computed for the dtype.
        products: Of one matrix.
        error: Worst |1 - s| over [lower, 1] without rounding.
        rounding: What rounding may add: unit roundoff times the larger of `Schedule.rounding` and, with Gram, the
            amplification of its model.
    """

    degrees: tuple[int, ...]
    schedule: Schedule
    engine: Any
    products: tuple[Product, ...]
    error: float
    rounding: float

    @property
    def name(self) -> str:
        """Degrees and engine."""
        how = "direct" if isinstance(self.engine, matfn.Direct) else f"gram, restarts {self.engine.restarts}"
        return f"{'-'.join(map(str, self.degrees))}, {how}"

    @property
    def total(self) -> float:
        """The error that it foretells, rounding included."""
        return self.error + self.rounding

    def multiply_adds(self, kernel: object = EAGER) -> float:
        """Of one matrix, as the kernel computes them."""
        return sum(computed(product, kernel) for product in self.products)


def mixes(most: int) -> Iterator[tuple[int, ...]]:
    """Degrees that fall from step to step, 3 to 8 steps, of at most so many products: q of degree 1 to 4.

    High degrees come first: they lift small values most where the interval is long, and at the end of a schedule a
    step of degree 3 or 5 is as good. A product count stands in for the cost, which depends on the shape.
    """
    for steps in STEPS:
        for degrees in combinations_with_replacement(DEGREES, steps):
            if sum({3: 2, 5: 3, 7: 4, 9: 4}[degree] for degree in degrees) <= most:
                yield degrees


@lru_cache(maxsize=16)
def plans(
    shape: tuple[int, int], dtype: torch.dtype, lower: float, most: int = 20
) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
    """All plans that the dtype bears, and those that it does not.

    Args:
        shape: (rows, columns).
        dtype: Of the iteration.
        lower: The least singular value that the schedules are made for, as a part of the Frobenius norm.
        most: Products of a schedule, run directly on a square matrix; the default, five quintics, has 15.

    Returns:
        The plans, and the names of those that rounding would spoil (`Schedule.rounding`, amplification).
    """
    found, refused = [], []
    for degrees in mixes(most):
        schedule = matfn.PolarExpress(degree=degrees, lower=lower).schedule(2)
        try:
            check_rounding(schedule, dtype)
        except ValueError:
            refused.append("-".join(map(str, degrees)))
            continue
        both = list(_of_schedule(degrees, schedule, shape, dtype))
        found += [plan for plan in both if plan.rounding < 1]
        refused += [plan.name for plan in both if plan.rounding >= 1]  # Gram, which no restart saves here
    return tuple(found), tuple(refused)


def _of_schedule(
    degrees: tuple[int, ...], schedule: Schedule, shape: tuple[int, int], dtype: torch.dtype
) -> Iterator[Plan]:
    roundoff, error = torch.finfo(dtype).eps / 2, schedule.error()
    restarts = restarts_for(schedule, dtype)
    grown = max(schedule.rounding, amplification(schedule, restarts, roundoff))
    gram = matfn.Gram(restarts)
    yield _plan(degrees, schedule, matfn.Direct(), shape, error, schedule.rounding * roundoff)
    yield _plan(degrees, schedule, gram, shape, error, grown * roundoff)


def _plan(
    degrees: tuple[int, ...],
    schedule: Schedule,
    engine: matfn.Direct | matfn.Gram,
    shape: tuple[int, int],
    error: float,
    rounding: float,
) -> Plan:
    return Plan(degrees, schedule, engine, products_of(schedule, engine, shape), error, rounding)


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
