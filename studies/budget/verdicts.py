"""Targets of the budget benchmark: the claim for RitzMinimax, the number measured, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from studies.budget.errors import ALL, Errors
from studies.budget.rivals import BUDGETS, OTHERS, OURS
from studies.budget.steps import Count
from studies.budget.time import Overhead

__all__ = [
    "Verdict",
    "at",
    "best",
    "half",
    "means",
    "no_worse",
    "of_group",
    "ratio",
    "roots",
    "small",
    "steps",
    "trained",
]

SLACK, FLOOR = 1.02, 1e-3


@dataclass(frozen=True)
class Verdict:
    """One target.

    Attributes:
        target: What was to be shown.
        measured: The numbers.
        met: Whether they show it.
    """

    target: str
    measured: str
    met: bool


def at(errors: Errors, name: str, steps: int) -> float:
    """The error of a rival at a budget; infinite if it has no form of that length."""
    value = errors[name][BUDGETS.index(steps)]
    return math.inf if value is None else value


def best(errors: Errors, steps: int) -> float:
    """The least error of those that the targets are set against."""
    return min(at(errors, name, steps) for name in OTHERS)


def ratio(errors: Errors, steps: int) -> float:
    """Our error over theirs, 1e-3 added to both: below that, rounding in half precision decides."""
    return (at(errors, OURS, steps) + FLOOR) / (best(errors, steps) + FLOOR)


def no_worse(errors: Mapping[str, Errors], where: str) -> Verdict:
    """At every budget within 1.02 of the best, plus 1e-3."""
    pairs = [(name, steps) for name in errors for steps in BUDGETS]
    excess = {
        (name, steps): (at(errors[name], OURS, steps) - FLOOR) / max(best(errors[name], steps), 1e-12)
        for name, steps in pairs
    }
    short = [(f"{name.partition(': ')[2]} at {steps}", e) for (name, steps), e in excess.items() if e > SLACK]
    shown = ", ".join(name for name, _ in sorted(short, key=lambda pair: -pair[1])[:6])
    more = f": {shown}{', ...' if len(short) > 6 else ''}" if short else ""
    target = f"{where}: rms no worse than 1.02 x the best of {', '.join(OTHERS)}, plus 1e-3, at 2 to 6 steps"
    return Verdict(target, f"{len(pairs) - len(short)} of {len(pairs)}{more}", not short)


def half(errors: Mapping[str, Errors], perfect: Mapping[str, Sequence[float]], where: str) -> Verdict:
    """At most half of the best on at least half of the cases, at 4 and at 5 steps."""
    counts = {t: sum(at(e, OURS, t) <= best(e, t) / 2 for e in errors.values()) for t in (4, 5)}
    could = {t: sum(perfect[n][BUDGETS.index(t)] <= best(e, t) / 2 for n, e in errors.items()) for t in (4, 5)}
    shown = "; ".join(f"{counts[t]} of {len(errors)} at {t} steps (a perfect choice: {could[t]})" for t in counts)
    target = f"{where}: at most half of it on at least half of them, at 4 and 5 steps"
    return Verdict(target, shown, all(2 * count >= len(errors) for count in counts.values()))


def trained(
    errors: Mapping[str, Errors], perfect: Mapping[str, Sequence[float]], where: str, *, ours: int, other: str
) -> Verdict:
    """Our `ours` steps are better than five of another one, on every matrix; beside it, their means."""
    better = [at(e, OURS, ours) < at(e, other, 5) for e in errors.values()]
    could = sum(perfect[n][BUDGETS.index(ours)] < at(e, other, 5) for n, e in errors.items())
    mean, theirs = (means(errors.values(), lambda e, n=n, t=t: at(e, n, t)) for n, t in ((OURS, ours), (other, 5)))
    target = f"{where}: {ours} steps better than five of {other}"
    shown = f"{sum(better)} of {len(better)} (a perfect choice: {could}); mean {mean:.3f} against {theirs:.3f}"
    return Verdict(target, shown, all(better))


def means(values: Iterable[Errors], of: Callable[[Errors], float]) -> float:
    """The mean of a figure of some errors."""
    found = [of(errors) for errors in values]
    return sum(found) / max(len(found), 1)


def steps(counts: Sequence[Count]) -> Verdict:
    """No more steps than Polar Express told the interval, on every spectrum that converges."""
    known = [c for c in counts if c.told is not None and c.ours is not None]
    short = [c.name for c in known if (c.ours or 0) > (c.told or 0)]
    fewer = sum((c.ours or 0) < (c.told or 0) for c in known)
    target = "polar factor: steps to rms 1e-6 in float64 no more than Polar Express with the exact lower bound"
    measured = f"{len(known) - len(short)} of {len(known)}, on {fewer} of them fewer"
    return Verdict(target, measured + (f"; more: {', '.join(short)}" if short else ""), not short)


def roots(counts: Sequence[Count], prism: str, share: float = 0.7) -> list[Verdict]:
    """For a p-th root: no more than minimax with the exact interval, and at most 0.7 of PRISM's."""
    known = [c for c in counts if c.told is not None and c.ours is not None]
    short = [f"{c.name} ({c.ours} against {c.told})" for c in known if (c.ours or 0) > (c.told or 0)]
    target = "p = 4: steps to rms 1e-6 no more than minimax with the exact interval"
    told = Verdict(
        target,
        f"{len(known) - len(short)} of {len(known)}" + (f"; more: {', '.join(short)}" if short else ""),
        not short,
    )
    shares = [(c.ours or 0) / (c.others[prism] or math.inf) for c in known]
    target = f"p = 4: at most {share:g} of the steps of {prism}"
    return [told, Verdict(target, f"{min(shares):.2f} to {max(shares):.2f}", max(shares) <= share)]


def small(overheads: Sequence[Overhead], limit: float = 0.03) -> Verdict:
    """The arithmetic of the measurement relative to a step."""
    n, most = overheads[0].n, max(overheads, key=lambda o: o.share)
    target = f"measurement at most {limit:.0%} of the multiply-adds of a step at n = {n}"
    shown = (
        f"{most.share:.2%}: {most.products:.2%} products, {most.rest:.2%} all else ({most.dtype}, step {most.step + 1})"
    )
    return Verdict(target, shown, most.share <= limit)


def of_group(errors: Mapping[str, Errors], *groups: str, over_all: str = "") -> dict[str, Errors]:
    """The cases of some groups, over the range of singular ones, or with `over_all=ALL` over all values."""
    whole = {name for name in errors if name.endswith(ALL)}
    found = {name: e for name, e in errors.items() if name.split(": ")[0] in groups and name not in whole}
    return {name: errors.get(name + over_all, e) for name, e in found.items()} if over_all else found
