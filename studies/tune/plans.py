"""The plans that are compared: schedules by degrees, interval, cushion, norm and deflation; engine and restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement, pairwise
from typing import Any

import torch

import matfn
from matfn.engines.cost import products_of
from matfn.iteration.schedule import NORMS
from matfn.iteration.target import ORTHOGONALIZE
from matfn.run.arguments import check_rounding
from studies.tune.laws import Laws
from studies.tune.plan import Plan, plan_of
from studies.tune.rounding import Engine, expected

__all__ = ["CUSHIONS", "DEGREES", "FEW", "LOWERS", "SHARES", "STEPS", "Family", "families", "mixes", "plans"]

DEGREES = (9, 7, 5, 3)
STEPS = (3, 4, 5, 6, 7, 8)
FEW = (2, 3, 4)  # steps after deflation
Lowers = tuple[tuple[float, ...], tuple[float, ...]]
LOWERS: Lowers = (1e-3, 2e-3, 4e-3), (1e-2, 1.4e-2, 2e-2, 3e-2)  # without deflation, and with it
SHARES = (0.0, 1 / 32, 1 / 16, 1 / 8)  # of the singular values
CUSHIONS = (None, 0.06, 0.1)
_SPENT = {3: 2, 5: 3, 7: 4, 9: 4}  # products of a step, run directly on a square matrix
_SLACK = 0.93  # a mix is dropped if another has no more error and cost, and one of the two below this share


def mixes(most: int, lengths: Sequence[int] = STEPS) -> Iterator[tuple[int, ...]]:
    """Degrees that fall from step to step, except at the last step: q of degree 1 to 4.

    High degrees come first: they lift small values most where the interval is long, and at the end of a schedule a
    step of degree 3 or 5 is as good. But what they lose by rounding they lose where the interval is long too, so in
    half precision a high degree may come last, or not at all. A product count stands in for the cost, which depends on
    the shape.

    Args:
        most: Products, run directly on a square matrix; five quintics have 15.
        lengths: Numbers of steps.
    """
    for steps in lengths:
        for falling in combinations_with_replacement(DEGREES, steps - 1):
            for last in DEGREES:
                if sum(_SPENT[degree] for degree in (*falling, last)) <= most:
                    yield (*falling, last)


@dataclass(frozen=True)
class Family:
    """Schedules for one way of deflation.

    Attributes:
        steps: How many.
        lowers: Least singular values that they are made for, as parts of the norm.
        norms: By what X is divided, and the share that is deflated before: the steps of a plan are the same for all of
            these, and so is all that rounding does to them.
        most: See `mixes`.
    """

    steps: Sequence[int]
    lowers: Sequence[float]
    norms: Sequence[tuple[str, float]]
    most: int


def families(shape: tuple[int, int], lowers: Lowers, most: int = 18) -> tuple[Family, Family]:
    """Schedules without deflation, and schedules for it: fewer steps, for larger values.

    Args:
        shape: (rows, columns).
        lowers: Without and with deflation.
        most: See `mixes`; with deflation two thirds of it, for what takes more is served without.
    """
    shares = [share for share in SHARES if share == 0 or int(share * min(shape))]
    without = Family(STEPS, lowers[0], [(norm, 0.0) for norm in NORMS], most)
    return without, Family(FEW, lowers[1], [("schatten4", share) for share in shares], 2 * most // 3)


def plans(
    shape: tuple[int, int], dtype: torch.dtype, found: Sequence[Family], laws: Laws
) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
    """The plans that are stable in the dtype, and the mixes of degrees that are not.

    A plan is borne if by the model of `rounded` no singular value in [lower, 1] ends at 0 or at 2 and beyond. Each mix
    is tried with the middle of `lowers` first; those that are beaten clearly in cost and error go no further, the
    others are tried with every interval, cushion, norm and deflation. Of these, which cost the same, the one that is
    expected to leave the least error stands for all with its engine; deflation has a cost of its own.

    Args:
        shape: (rows, columns).
        dtype: Of the iteration.
        found: Whose plans, see `families`.
        laws: Of matrices like those that it is for.
    """
    chosen: list[Plan] = []
    refused: dict[str, None] = {}
    for family in found:
        raced: dict[tuple[int, ...], Plan] = {}
        usual = family.lowers[len(family.lowers) // 2]
        for degrees in mixes(family.most, family.steps):
            first = [matfn.PolarExpress(degrees, lower=usual, cushion=cushion) for cushion in (None, CUSHIONS[-1])]
            if borne := _borne(first, (matfn.Direct(),), family.norms, shape, dtype, laws):
                raced[degrees] = min(borne, key=lambda plan: plan.total)
            else:
                refused["-".join(map(str, degrees))] = None
        for degrees in _in_the_race(raced, shape):
            variants = [matfn.PolarExpress(degrees, lower=low, cushion=c) for low in family.lowers for c in CUSHIONS]
            chosen += _borne(variants, tuple(_engines(len(degrees), shape)), family.norms, shape, dtype, laws)
    return tuple(_least(chosen)), tuple(refused)


def _borne(
    methods: Sequence[matfn.PolarExpress],
    engines: Sequence[Engine],
    norms: Sequence[tuple[str, float]],
    shape: tuple[int, int],
    dtype: torch.dtype,
    laws: Laws,
) -> list[Plan]:
    """The plans of each method, by engine, norm and deflation, that are stable in the dtype."""
    found = []
    for method in methods:
        try:
            check_rounding(ORTHOGONALIZE, method.schedule(2), dtype)
        except ValueError:
            continue
        for engine in engines:
            plan = plan_of(method, engine, shape, dtype, laws)
            if plan.error + plan.rounding < 1:
                for norm, share in norms:
                    other = replace(method, norm=norm, deflation=share)
                    schedule = other.schedule(2)
                    better = expected(schedule, engine, laws, dtype)
                    found.append(replace(plan, method=other, schedule=schedule, expected=better))
    return found


def _engines(steps: int, shape: tuple[int, int]) -> Iterator[Engine]:
    """The direct engine and, unless square, Gram with at most two restarts that are not neighbours."""
    yield matfn.Direct()
    if shape[0] != shape[1]:
        for count in range(3):
            for restarts in combinations(range(1, steps), count):
                if all(b - a > 1 for a, b in pairwise(restarts)):
                    yield matfn.Gram(restarts)


def _in_the_race(found: Mapping[tuple[int, ...], Plan], shape: tuple[int, int]) -> list[tuple[int, ...]]:
    """The mixes that no other beats clearly in error and in cost, on either engine (Gram with one restart)."""
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
    """The plan of least error for each mix, engine and deflation: these cost the same."""
    found: dict[tuple[Any, ...], Plan] = {}
    for plan in borne:
        key = (plan.degrees, plan.engine, plan.deflation)
        if key not in found or plan.total < found[key].total:
            found[key] = plan
    return list(found.values())
