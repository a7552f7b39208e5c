"""Degrees: what a product buys, by the paper's count of products and by this project's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from matfn.iteration.step import paterson_stockmeyer
from matfn.minimax.remez import best_odd
from studies.page import Shown, number
from studies.polar_express.composition import errors_of
from studies.verdict import Verdict, judged

__all__ = ["counted", "degrees", "mixed", "per_product", "verdicts"]

BUDGETS = range(6, 25)


def counted(degree: int) -> tuple[int, float]:
    """Products of a step on a square matrix: (d + 1)/2 by the paper; here symmetric ones count half."""
    k = (degree - 1) // 2
    inner = sum(paterson_stockmeyer(k))
    return (degree + 1) // 2, 1 + (1 + inner) / 2


@lru_cache
def per_product() -> dict[str, list[tuple[float, float, float]]]:
    """For each degree: (products by the paper, products here, worst error) after each step, l = 1e-3."""
    found = {}
    for degree in (3, 5, 7, 9):
        paper, here = counted(degree)
        errors = errors_of(degree, 1e-3, 14 if degree == 3 else 8)
        found[f"degree {degree}"] = [(paper * t, here * t, float(e)) for t, e in enumerate(errors, 1)]
    return found


def mixed(
    budget: float, low: float = 1e-3, high: float = 1.0, taken: tuple[int, ...] = ()
) -> tuple[float, tuple[int, ...]]:
    """The least error within a budget of the products counted here, over all sequences of degrees 3, 5 and 9."""
    best = (1.0, taken)
    for degree in (3, 5, 9):
        cost = counted(degree)[1]
        if cost <= budget:
            error = float(best_odd(2, (degree - 1) // 2, low, high).error)
            best = min(best, (error, (*taken, degree)), mixed(budget - cost, 1 - error, 1 + error, (*taken, degree)))
    return best


def degrees(budgets: Sequence[int]) -> Shown:
    """The error that each degree reaches within a budget, by both counts."""
    rows = []
    for column, count in ((0, "paper's count"), (1, "this project's count")):
        for budget in budgets:
            cells = [
                number(min((row[2] for row in rows_ if row[column] <= budget), default=1.0))
                for rows_ in per_product().values()
            ]
            best = mixed(budget) if column else None
            rows.append((f"{budget} products, {count}", [*cells, f"{number(best[0])} {best[1]}" if best else ""]))
    remark = (
        "Worst error on [1e-3, 1] without cushion. A step of degree d costs (d + 1)/2 products in the paper. Here the "
        "polynomial is evaluated by Paterson and Stockmeyer's scheme, symmetric products count half, and the matrix is "
        f"square: {', '.join(f'{counted(d)[1]:g}' for d in (3, 5, 7, 9))} for degrees 3, 5, 7 and 9. The last column "
        "is the best of all orders of degrees 3, 5 and 9."
    )
    return Shown("Error against products, by degree", (*per_product(), "best mix"), rows, remark)


def least(column: int) -> dict[int, str]:
    """The degree with the least error for each budget of products; column 0 is the paper's count, 1 this project's."""
    found = {}
    for budget in BUDGETS:
        reached = [(row[2], name) for name, rows in per_product().items() for row in rows if row[column] <= budget]
        found[budget] = min(reached)[1]
    return found


def verdicts() -> Iterator[Verdict]:
    """Degree 5 against other degrees."""
    names = list(per_product())
    paper, here = (Counter(least(column).values()) for column in (0, 1))
    counts = "with fewer products for q(M) (Paterson and Stockmeyer) and halves of symmetric ones: "
    counts += ", ".join(f"{name} {here[name]}" for name in names)
    yield judged(
        "degrees 2",
        "degree 5, the authors' choice, is the best use of a product (one degree for all steps, l = 1e-3)",
        f"least error at more than half of the budgets of {BUDGETS[0]} to {BUDGETS[-1]} products, paper's count",
        ", ".join(f"{name}: {paper[name]}" for name in names) + f" of {len(BUDGETS)} budgets",
        paper["degree 5"] > len(BUDGETS) / 2,
        why=counts,
        condition=counts,
    )
