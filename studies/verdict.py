"""A verdict: a claim, the number it asks for, the number measured here, and whether the two agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studies.page import Shown

__all__ = ["CONFIRMED", "FALSE", "NOT_SEEN", "NOT_TESTED", "NOT_TRAINED", "WORDS", "Verdict", "judged", "shown"]

CONFIRMED = "confirmed"
NOT_SEEN = "not seen"  # the measurement can show the effect and does not
FALSE = "false as printed"  # a number or a formula of the text contradicts a computation
NOT_TESTED = "not tested"
NOT_TRAINED = "not yet trained"
WORDS = (CONFIRMED, NOT_SEEN, FALSE, NOT_TESTED, NOT_TRAINED)


@dataclass(frozen=True)
class Verdict:
    """One claim.

    Attributes:
        claim: Its number in the specification, such as C5, or a word for the part of the paper and a number.
        says: The claim.
        wanted: The threshold.
        measured: The number measured here.
        verdict: One of the words above.
        why: The reason of a verdict other than "confirmed", or a condition of the confirmation.
    """

    claim: str
    says: str
    wanted: str
    measured: str
    verdict: str
    why: str = ""


def judged(
    claim: str,
    says: str,
    wanted: str,
    measured: str,
    held: bool,
    *,
    otherwise: str = NOT_SEEN,
    why: str = "",
    condition: str = "",
) -> Verdict:
    """Return "confirmed" with its condition if the claim held, else the word `otherwise` with the reason `why`."""
    return Verdict(claim, says, wanted, measured, CONFIRMED if held else otherwise, condition if held else why)


def shown(title: str, verdicts: Sequence[Verdict]) -> Shown:
    """The verdicts as a table, with their counts below."""
    rows = [(v.claim, (v.says, v.wanted, v.measured, v.verdict + (f": {v.why}" if v.why else ""))) for v in verdicts]
    counts = {word: sum(v.verdict == word for v in verdicts) for word in WORDS}
    remark = ", ".join(f"{count} {word}" for word, count in counts.items() if count) + "."
    return Shown(title, ("claim", "wanted", "measured", "verdict"), rows, remark, wide=True)
