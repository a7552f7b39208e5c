"""A plan: a schedule on an engine, with its predicted products, rounding, error and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch

import matfn
from matfn.engines.cost import Product, computed, products_of
from matfn.iteration.schedule import Schedule
from matfn.kernels import EAGER
from studies.tune.laws import Laws
from studies.tune.rounding import Engine, expected, rounded

__all__ = ["Aside", "Plan", "fraction", "plan_of", "predicted"]


@dataclass(frozen=True)
class Plan:
    """A schedule and the way to run it.

    Attributes:
        method: The schedule's degrees, interval, cushion, norm and deflation.
        schedule: Its steps.
        engine: `Direct()`, or `Gram` with restarts.
        products: Of one matrix, by the kernel; those of deflation, in float32, are not among them.
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
        """The degrees of the steps."""
        return self.schedule.degrees

    @property
    def deflation(self) -> float:
        """The share of the singular values, the largest, that are shrunk first."""
        return self.method.deflation

    @property
    def name(self) -> str:
        """Degrees, lower end, options other than the defaults, and the engine."""
        usual = matfn.PolarExpress()
        parts = ["-".join(map(str, self.degrees)), f"{self.method.lower:g}"]
        parts += [] if self.method.cushion is None else [f"cushion {self.method.cushion:g}"]
        parts += [] if self.method.norm == usual.norm else ["S4"]
        parts += [f"deflated {fraction(self.deflation)}"] if self.deflation else []
        how = "direct" if isinstance(self.engine, matfn.Direct) else f"gram {self.engine.restarts}"
        return f"{' '.join(parts)}, {how}"

    @property
    def total(self) -> float:
        """The expected error on the spectra plus the most that rounding may add."""
        return math.hypot(self.expected, self.rounding)

    def multiply_adds(self, kernel: object = EAGER) -> float:
        """The operations for one matrix, as the kernel computes them."""
        return sum(computed(product, kernel) for product in self.products)


def fraction(share: float) -> str:
    """A share as a fraction, such as 1/16."""
    return str(Fraction(share).limit_denominator(999))


def plan_of(method: matfn.PolarExpress, engine: Engine, shape: tuple[int, int], dtype: torch.dtype, laws: Laws) -> Plan:
    """The plan with its predictions, even if the dtype cannot bear it.

    Deflation changes nothing of the model of rounding: before the first step a norm of 1 is all that it knows.
    """
    schedule = method.schedule(2)
    low, high = rounded(schedule, engine, dtype, min(shape))
    error = schedule.error()
    rounding = max(1 - low, high - 1, error) - error
    products = products_of(schedule, engine, shape)
    return Plan(method, schedule, engine, products, error, rounding, expected(schedule, engine, laws, dtype))


@dataclass(frozen=True)
class Aside:
    """Seconds outside the products of the kernel.

    Attributes:
        once: By the share that is deflated: scaling, deflating and rounding the argument.
        per_entry: Of an entry of an n x n matrix in the weighted sums of powers.
    """

    once: Mapping[float, float]
    per_entry: float


def predicted(plan: Plan, seconds: Mapping[Product, float], aside: Aside, shape: tuple[int, int]) -> float:
    """Seconds of a call: the measured times of its products, and the time outside products.

    Args:
        plan: What is run.
        seconds: Of each product of it, by the kernel that is thought of.
        aside: What is not a product; it must know the plan's deflation.
        shape: (rows, columns).
    """
    products = sum(seconds[product] for product in plan.products)
    return aside.once[plan.deflation] + products + aside.per_entry * sweeps(plan.schedule, shape)


def sweeps(schedule: Schedule, shape: tuple[int, int]) -> int:
    """Entries of n x n matrices that the steps read or write outside products: weighted sums of powers of M."""
    passes = 0
    for degree in schedule.degrees:
        k = (degree - 1) // 2
        passes += {1: 1, 2: 0}.get(k, k)
    return passes * min(shape) ** 2
