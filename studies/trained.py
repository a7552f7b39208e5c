"""Verdicts on "this optimizer ends below that one", from the runs of the tournament's stage `small`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from studies.tournament.progress import Progress, progress
from studies.tournament.rules import cold, families
from studies.tournament.run import STAGES
from studies.tournament.runs import Run, read
from studies.tournament.statistics import Interval, best, difference
from studies.verdict import CONFIRMED, NOT_SEEN, NOT_TRAINED, Verdict

__all__ = ["RESULTS", "Trained", "trained"]

RESULTS = Path(__file__).parents[1] / "docs" / "results"
STAGE = "small"
SCALE = "a GPT of 4 layers and width 128, 400 steps of 2048 tokens"


@dataclass(frozen=True)
class Trained:
    """The runs of the stage, and whether the rules allow a verdict.

    Attributes:
        runs: All runs so far.
        progress: How many of the planned runs have ended.
    """

    runs: list[Run]
    progress: Progress

    @property
    def comparisons(self) -> int:
        """The number that the intervals of the papers' claims are corrected for; fixed before the runs."""
        family = next(f for f in families(STAGE, STAGES[STAGE].arms) if f.title == "Claims of the papers")
        return family.comparisons

    def below(self, claim: str, says: str, arm: str, other: str, *, paper: str = "") -> Verdict:
        """A verdict on "`arm` ends below `other`"; `paper` is a remark on the paper's own experiment.

        "confirmed" wants an interval below 0. An interval that holds 0 or lies above it is "not seen".
        """
        wanted = f"{arm} minus {other} below 0 (95 %, corrected for {self.comparisons} comparisons)"
        verdict = Verdict(claim, says, wanted, "", NOT_TRAINED, paper)
        if not self.progress.complete:
            return self._waiting(verdict)
        found = difference(self.runs, arm, other, comparisons=self.comparisons)
        at = [f"{name} at {rate.lr:g}" for name in (arm, other) if (rate := best(self.runs, name)) is not None]
        word = CONFIRMED if found.high < 0 or found.mean == -math.inf else NOT_SEEN
        measured = f"{told(found)}, {found.pairs} seeds; {', '.join(at)}"
        return replace(verdict, measured=measured, verdict=word, why=_joined(f"{SCALE}", paper))

    def colder(self, claim: str, says: str, *, paper: str = "") -> Verdict:
        """A verdict on "AdamW loses more without warm-up than Muon"."""
        wanted = f"(adamw-cold - adamw) - (torch-cold - torch) above 0 (95 %, corrected for {self.comparisons})"
        verdict = Verdict(claim, says, wanted, "", NOT_TRAINED, paper)
        if not self.progress.complete:
            return self._waiting(verdict)
        found = cold(self.runs, comparisons=self.comparisons)
        parts = [difference(self.runs, f"{arm}-cold", arm) for arm in ("adamw", "torch")]
        own = ", ".join(f"{name} {part.mean:+.4f}" for name, part in zip(("AdamW", "Muon"), parts, strict=True))
        word = CONFIRMED if found.low > 0 or found.mean == math.inf else NOT_SEEN
        measured = f"{told(found)}, {found.pairs} seeds; without warm-up {own}"
        return replace(verdict, measured=measured, verdict=word, why=_joined(SCALE, paper))

    def _waiting(self, verdict: Verdict) -> Verdict:
        shown = f"{self.progress.done} of {self.progress.planned} runs"
        why = _joined("a verdict waits for all planned runs", verdict.why)
        return replace(verdict, measured=shown, verdict=NOT_TRAINED, why=why)


def trained(results: Path = RESULTS) -> Trained:
    """The stage `small` in `results`/tournament, as `studies.tournament.runs.read` finds it."""
    runs = read(results / "tournament", STAGE)
    return Trained(runs, progress(STAGES[STAGE], runs))


def told(found: Interval) -> str:
    """Mean and interval with their signs; a run that diverged leaves no interval."""
    if not math.isfinite(found.mean):
        return "a run diverged"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}] nats a token"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
