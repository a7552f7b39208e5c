"""Tables of the budget benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from studies.budget.errors import ALL, Errors
from studies.budget.rivals import BUDGETS, OURS, RIVALS
from studies.budget.steps import Count
from studies.budget.time import Clock, Overhead
from studies.budget.verdicts import at, best, means, of_group
from studies.page import Shown

__all__ = ["measurements", "tables"]

REMARK = "rms(1 - sigma); in brackets the best of Polar Express, PRISM-5 and Jordan, and a perfect choice."


def measurements(
    errors: Mapping[str, Mapping[str, Errors]], perfect: Mapping[str, Sequence[float]], sources: Sequence[str]
) -> Iterator[Shown]:
    """Errors at a budget, by dtype."""
    for dtype, found in errors.items():
        yield beside(of_group(found, "spectra", "drawn"), perfect, f"RitzMinimax and the best of the others, {dtype}")
        if sources:
            yield momenta(found, sources, dtype)
    first = next(iter(errors))
    yield at_five(of_group(errors[first], "spectra"), first)


def tables(
    polar: Sequence[Count], roots: Sequence[Count], overheads: Sequence[Overhead], clocks: Sequence[Clock]
) -> Iterator[Shown]:
    """Steps to an accuracy, and the cost of the measurement."""
    yield counts("Polar factor: steps to rms(I - M) <= 1e-6, float64", polar, "Polar Express, told")
    yield counts("Inverse fourth root: steps to rms(I - M) <= 1e-6, float64", roots, "minimax, told")
    yield arithmetic(overheads)
    yield times(clocks)


def beside(errors: Mapping[str, Errors], perfect: Mapping[str, Sequence[float]], title: str) -> Shown:
    """The error of RitzMinimax and, in brackets, of the best of three others and of a perfect choice, by budget."""
    rows = [
        (
            name.partition(": ")[2].removesuffix(ALL),
            [
                f"{_error(at(e, OURS, t))} ({_error(best(e, t))}, {_error(bound)})"
                for t, bound in zip(BUDGETS, perfect[name], strict=True)
            ],
        )
        for name, e in errors.items()
    ]
    heads = tuple(f"{t} steps" for t in BUDGETS)
    return Shown(title, heads, rows, REMARK)


def momenta(errors: Mapping[str, Errors], sources: Sequence[str], dtype: str) -> Shown:
    """The mean error of every rival over the matrices of a run, by training step."""
    rows = []
    for source in sources:
        of = of_group(errors, source)
        for step in dict.fromkeys(name.rpartition(", ")[2] for name in of):
            picked = [e for name, e in of.items() if name.endswith(f", {step}")]
            for t in BUDGETS:
                cells = [_error(means(picked, lambda e, n=n, t=t: at(e, n, t))) for n in RIVALS]
                rows.append((f"{source}, {step}, {t} steps", cells))
    return Shown(f"Momentum matrices, {dtype}", tuple(RIVALS), rows, "Mean rms(1 - sigma) over the matrices of a step.")


def at_five(errors: Mapping[str, Errors], dtype: str) -> Shown:
    """Every rival after five steps."""
    rows = [(name.partition(": ")[2], [_error(at(e, rival, 5)) for rival in RIVALS]) for name, e in errors.items()]
    return Shown(f"Everyone after five steps, {dtype}", tuple(RIVALS), rows, "rms(1 - sigma).")


def counts(title: str, found: Sequence[Count], told: str) -> Shown:
    """Steps to an accuracy."""
    names = tuple(found[0].others)
    rows = [
        (c.name, [f"{c.least:.1e}", *(_steps(c.others[name]) for name in names), _steps(c.told), _ours(c)])
        for c in found
    ]
    remark = "least: of s = m^(1/p) before the first step. A range: over five draws of the random vectors."
    return Shown(title, ("least", *names, told, OURS), rows, remark)


def arithmetic(overheads: Sequence[Overhead]) -> Shown:
    """What the choice of a step computes."""
    rows = [
        (f"{o.dtype}, step {o.step + 1}", [f"{o.products:.2%}", f"{o.rest:.2%}", f"{o.share:.2%}", str(o.operations)])
        for o in overheads
    ]
    remark = (
        "Shares of the 3 n^3 multiply-adds of a quintic step on a square matrix; the last column is launches on a GPU."
    )
    heads = ("skinny products", "all else", "together", "operations")
    return Shown(f"Arithmetic of the measurement, n = {overheads[0].n}", heads, rows, remark)


def times(clocks: Sequence[Clock]) -> Shown:
    """Milliseconds of five steps, and the share of the measurement."""
    rows = [
        (
            f"{' x '.join(map(str, clock.shape))}, {clock.dtype}",
            [
                *(f"{clock.seconds[name] * 1e3:.3g}" for name in RIVALS),
                "{:.0%} ({:.0%} to {:.0%})".format(*clock.extra),
            ],
        )
        for clock in clocks
    ]
    remark = (
        "Milliseconds, the least of rounds in which all take turns. Last column: the share of RitzMinimax's time that "
        "Polar Express, of the same products, does not take; in brackets the quartiles of the pairs of each round."
    )
    return Shown("Time of five steps", (*RIVALS, "share of the measurement"), rows, remark)


def _error(value: float) -> str:
    if value == float("inf"):
        return "–"
    return f"{value:.3f}" if value >= 5e-4 else f"{value:.0e}"


def _steps(value: int | None) -> str:
    return ">120" if value is None else str(value)


def _ours(c: Count) -> str:
    if c.ours is None:
        return "none"
    return str(c.ours) if c.ours == c.fewest else f"{c.fewest} to {c.ours}"
