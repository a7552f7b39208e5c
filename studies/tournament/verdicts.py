"""Answers to the questions of docs/tournament.md, from the tables of a complete stage."""

import math
import statistics
from collections.abc import Mapping, Sequence

from studies.tournament.rules import CLAIMS, OLDER, ORACLES, UPDATES, Row
from studies.tournament.statistics import Interval, detectable

__all__ = ["answers", "removes", "signed", "span"]

# Question 1: (what is changed, the arm with the change, the arm without)
CHANGES = (
    ("torch's polynomial in our class", "jordan", "default"),
    ("the published Polar Express", "polar-express", "default"),
    ("exact factors", "exact", "default"),
    ("exact factors times .87", "exact-times-.87", "exact"),
    ("Jordan's result over its mean singular value", "jordan-mean-one", "jordan"),
    ("the default's result over its mean singular value", "default-mean-one", "default"),
)


def signed(value: float) -> str:
    """A difference in nats a token: +0.0147."""
    return "diverged" if math.isinf(value) else "" if math.isnan(value) else f"{value:+.4f}"


def span(interval: Interval) -> str:
    """The ends of an interval: [+0.0108, +0.0187]."""
    return "-" if math.isnan(interval.low) else f"[{interval.low:+.4f}, {interval.high:+.4f}]"


def answers(stage: str, tables: Sequence[Sequence[Row]]) -> list[tuple[str, str, str]]:
    """(question, measured, answer) of a stage that is complete. `tables` are those of `rules.families`, in order."""
    of = {(row.arm, row.other): row.judged for table in tables for row in table}
    if stage == "demo":
        return [*_first(of)]
    found = [_oracles(of), *([_updates(of)] if stage == "small" else [])]
    if stage == "small":
        found += [_claim(of, arm, other) for arm, other in CLAIMS if (arm, other) in of]
        found += [_cold(row.judged) for table in tables for row in table if row.arm.startswith("(adamw-cold -")]
    return found


def _first(of: Mapping[tuple[str, str], Interval]) -> list[tuple[str, str, str]]:
    """Question 1: whether there is a difference, and what removes it."""
    gap = of["default", OLDER]
    found = [("1. Is the default's loss higher than torch's?", _measured(gap), gap.word)]
    for what, changed, base in CHANGES:
        against = of[changed, OLDER]
        direct = of.get((changed, base)) or _turned(of[base, changed])
        lost = Interval(0.0, 0.0, 0.0, 0.0, gap.pairs) if base == OLDER else of[base, OLDER]
        measured = f"{changed} - {base}: {_measured(direct)}; {changed} - {OLDER}: {_measured(against)}"
        found.append((f"1. {what} ({base} -> {changed})", measured, removes(lost, against, direct)))
    return found


def _turned(interval: Interval) -> Interval:
    """The difference with its sides exchanged."""
    ends = -interval.mean, -interval.high, -interval.low
    return Interval(*ends, interval.deviation, interval.pairs, interval.comparisons)


def removes(base: Interval, changed: Interval, direct: Interval) -> str:
    """What a change does to the difference from torch's loss.

    Args:
        base: The loss without the change minus torch's.
        changed: The loss with the change minus torch's.
        direct: The loss with the change minus the loss without.
    """
    if direct.word == "higher":
        return "raises the loss"
    if base.word != "higher":
        return "lowers the loss" if direct.word == "lower" else "no difference to remove, and none made"
    if direct.word != "lower":
        return "cannot be told from no change"
    return "lowers the loss, and a difference stays" if changed.word == "higher" else "removes the difference"


def _oracles(of: Mapping[tuple[str, str], Interval]) -> tuple[str, str, str]:
    rows = {arm: of[arm, "exact"] for arm in ORACLES if (arm, "exact") in of}
    return ("2. Does an oracle lose less than exact factors, or more?", _listed(rows), _sorted(rows, "exact factors"))


def _updates(of: Mapping[tuple[str, str], Interval]) -> tuple[str, str, str]:
    rows = {arm: of[arm, OLDER] for arm in UPDATES if (arm, OLDER) in of}
    return ("3. Does another update beat torch's Muon?", _listed(rows), _sorted(rows, OLDER))


def _listed(rows: Mapping[str, Interval]) -> str:
    return "; ".join(f"{arm} {signed(i.mean)}" for arm, i in sorted(rows.items(), key=lambda item: item[1].mean))


def _sorted(rows: Mapping[str, Interval], other: str) -> str:
    heads = {"lower": f"lower than {other}", "higher": f"higher than {other}", "diverged": "diverged"}
    words = {head: [arm for arm, i in rows.items() if i.word == word] for word, head in heads.items()}
    parts = [f"{head}: {', '.join(names)}" for head, names in words.items() if names]
    same = [i for i in rows.values() if i.word == "not told apart"]
    if same:
        resolved = [detectable(i) for i in same if not math.isnan(i.deviation)]
        power = f"; these seeds resolve about {statistics.median(resolved):.4f}" if resolved else ""
        parts.append(f"not told apart from {other}: {len(same)}{power}")
    return "; ".join(parts)


def _claim(of: Mapping[tuple[str, str], Interval], arm: str, other: str) -> tuple[str, str, str]:
    interval = of[arm, other]
    word = {"lower": "confirmed", "not told apart": "not seen", "higher": "the opposite"}.get(interval.word)
    return (f"4. Is {arm} below {other}?", _measured(interval), word or interval.word)


def _cold(interval: Interval) -> tuple[str, str, str]:
    word = {"higher": "confirmed", "not told apart": "not seen", "lower": "the opposite"}.get(interval.word)
    return ("4. Does AdamW lose more than Muon without warm-up?", _measured(interval), word or interval.word)


def _measured(interval: Interval) -> str:
    return f"{signed(interval.mean)} {span(interval)}, {interval.pairs} seeds"
