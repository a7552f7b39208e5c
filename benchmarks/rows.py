"""Rows of the speed benchmark: time with its spread, errors and counts; and the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.timing import Pace, Timing, interleaved
from matfn.train.provenance import conditions

__all__ = ["Contender", "Keep", "Report", "Row", "Watch", "facts", "measured"]

Watch = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        name: As shown.
        work: The call.
        errors: What it got wrong, by the name of the figure.
        multiply_adds: Of one call, those that are really done; None where nobody has counted them.
        choice: Whether it is what the library does when it is asked for nothing.
    """

    name: str
    work: Callable[[], object]
    errors: dict[str, float] = field(default_factory=dict)
    multiply_adds: float | None = None
    choice: bool = False


@dataclass(frozen=True)
class Row:
    """One contender on one case. Missing figures are None, and `note` gives the reason.

    Attributes:
        case: Shapes, batch and dtype.
        name: Who.
        errors: By name of the figure, as the part defines them.
        median, spread: Seconds of a call; quartile range by median.
        rounds, attempts: Samples; how often the row was measured because it scattered.
        ratio, ratio_low, ratio_high: Speed relative to the baseline of the case, in pairs of one round: median, range.
        rate: Floating-point operations a second, counting the products actually done.
        choice: See `Contender`.
        note: Why there is no time, or why there is only one sample.
    """

    case: str
    name: str
    errors: dict[str, float] = field(default_factory=dict)
    median: float | None = None
    spread: float | None = None
    rounds: int = 0
    attempts: int = 0
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    rate: float | None = None
    choice: bool = False
    note: str = ""


@dataclass(frozen=True)
class Report:
    """All rows of one part.

    Attributes:
        part: "polar", "step", "roots", "scaling".
        title: As shown.
        figure: Which of the errors is plotted, and what it is called there.
        baseline: Whose speed is 1.
        caption: What the figures are.
        rows: In the order of measurement.
        absent: Peers that could not be measured, and why.
        conditions: Of the run.
    """

    part: str
    title: str
    figure: tuple[str, str]
    baseline: str
    caption: str
    rows: tuple[Row, ...]
    absent: dict[str, str]
    conditions: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    def cases(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(row.case for row in self.rows))


Keep = Callable[[Report], None]


def measured(
    case: str,
    contenders: Sequence[Contender],
    baseline: str,
    pace: Pace,
    prepare: Callable[[str], object] | None = None,
) -> list[Row]:
    """Time the contenders of one case against each other.

    Args:
        case: As shown.
        contenders: All have been called once.
        baseline: Name of one of them.
        pace: How long.
        prepare: See `interleaved`.
    """
    works = {contender.name: contender.work for contender in contenders}
    timings = interleaved(works, baseline, pace, prepare=prepare)
    return [_row(case, contender, timings[contender.name], pace) for contender in contenders]


def _row(case: str, contender: Contender, timing: Timing, pace: Pace) -> Row:
    count = contender.multiply_adds
    slow = timing.median > pace.limit
    return Row(
        case,
        contender.name,
        contender.errors,
        timing.median,
        timing.spread,
        len(timing.seconds),
        timing.attempts,
        timing.ratio,
        min(timing.ratios),
        max(timing.ratios),
        None if count is None else 2 * count / timing.median,
        contender.choice,
        f"one call alone: longer than {pace.limit:g} s" if slow else "",
    )


def facts(versions: dict[str, str], pace: Pace) -> dict[str, str]:
    """The conditions of a run: machine, threads, versions, and how long was measured."""
    return {
        **conditions(torch.device("cpu")),
        **versions,
        "measured": (
            f"{pace.rounds} interleaved rounds after a warm-up, ratios within a round; rows that scatter by more than "
            f"{pace.bound:.0%} (quartile range by median) measured again, at most {pace.repeats} times"
        ),
    }
