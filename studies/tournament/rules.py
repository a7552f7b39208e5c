"""The comparisons that the rules in docs/tournament.md ask for, by table, and their paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from studies.tournament.runs import Run
from studies.tournament.statistics import Interval, difference, losses, paired

__all__ = ["OLDER", "ORACLES", "UPDATES", "Family", "Row", "cold", "families", "rows"]

OLDER = "torch"
ORACLES = ("torch", "jordan", "exact", "polar-express", "default", "four-steps", "ritz", "prism")  # question 2
UPDATES = (
    "normuon",
    "adamuon",
    "sigma^.1",
    "sigma^.3",
    "nu^.5",
    "heads",
    "tables",
    "cautious",
    "bf16-momentum",
    "adamw",
)  # question 3
CLAIMS = (
    ("polar-express", "torch"),
    ("polar-express", "you"),
    ("torch", "adamw"),
    ("you", "adamw"),
    ("polar-express", "adamw"),
    ("prism-3", "polar-express-3"),
    ("prism", "polar-express"),
)  # question 4
SIZES = (
    ("jordan-mean-one", "jordan"),
    ("default-mean-one", "default"),
    ("exact-times-.87", "exact"),
    ("default", "jordan"),
    ("default", "exact"),
    ("default", "polar-express"),
)  # question 1: what one change does


@dataclass(frozen=True)
class Family:
    """The comparisons of one table.

    Attributes:
        title: Its heading.
        pairs: (arm, the arm that it is compared with).
        corrected: Whether the verdicts use the intervals that are corrected for the number of comparisons.
        planned: Whether the rules name the table; if not, the page says so.
        cold: Whether `cold` is one more comparison of the table.
    """

    title: str
    pairs: tuple[tuple[str, str], ...]
    corrected: bool
    planned: bool = True
    cold: bool = False

    @property
    def comparisons(self) -> int:
        """The number that the intervals are corrected for."""
        return len(self.pairs) + self.cold


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        arm: The arm.
        other: What it is compared with.
        plain: The difference with an interval of 95 %.
        corrected: The same with the interval corrected for the number of comparisons of the table.
        judged: The interval that the rules judge by: one of the two.
    """

    arm: str
    other: str
    plain: Interval
    corrected: Interval
    judged: Interval


def families(stage: str, arms: Sequence[str]) -> list[Family]:
    """The tables of a stage. `arms` are all arms of the stage, run or not: the correction is for the planned number."""
    others = tuple(arm for arm in arms if arm != OLDER)
    found = [Family(f"Every arm against {OLDER}", tuple((arm, OLDER) for arm in others), stage != "demo")]
    if stage == "demo":
        return [*found, Family("One thing changed", known(SIZES, arms), corrected=False, planned=False)]
    oracles = tuple((arm, "exact") for arm in ORACLES if arm != "exact")
    found.append(Family("Oracles against exact factors", known(oracles, arms), corrected=True))
    claims = known(CLAIMS, arms)
    if claims and stage == "small":
        has = {"adamw", "adamw-cold", "torch", "torch-cold"} <= set(arms)
        found.append(Family("Claims of the papers", claims, corrected=True, cold=has))
    return [family for family in found if family.pairs]


def known(pairs: Sequence[tuple[str, str]], arms: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs of arms that the stage has."""
    return tuple(pair for pair in pairs if set(pair) <= set(arms))


def rows(family: Family, runs: Sequence[Run]) -> list[Row]:
    """The differences of a table, by rising mean; pairs without a common seed are left out."""
    found = []
    for arm, other in family.pairs:
        plain = difference(runs, arm, other)
        corrected = difference(runs, arm, other, comparisons=family.comparisons)
        found.append(Row(arm, other, plain, corrected, corrected if family.corrected else plain))
    if family.cold:
        plain, corrected = cold(runs), cold(runs, comparisons=family.comparisons)
        found.append(Row("(adamw-cold - adamw)", "(torch-cold - torch)", plain, corrected, corrected))
    found = [row for row in found if row.plain.pairs]
    return sorted(found, key=lambda row: (math.isnan(row.plain.mean), row.plain.mean))


def cold(runs: Sequence[Run], *, comparisons: int = 1) -> Interval:
    """How much more AdamW loses than Muon without warm-up: (adamw-cold - adamw) - (torch-cold - torch), by seed."""
    of = [losses(runs, arm) for arm in ("adamw-cold", "adamw", "torch-cold", "torch")]
    seeds = sorted(set.intersection(*(set(found) for found in of)))
    adamw = [of[0][s] - of[1][s] for s in seeds]
    muon = [of[2][s] - of[3][s] for s in seeds]
    return paired(adamw, muon, comparisons=comparisons)
