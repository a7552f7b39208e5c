"""C22: the paper's comparison of GPTs, from the runs of the tournament's stage `small` that exist.

A run is a JSON file with arm, lr, seed and validation losses. The runs of seed 1000 search the learning rate; the other
seeds compare the arms, each at its best rate, and take no part in the search.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matfn.train.outcome import Interval, interval
from studies.page import Shown, number
from studies.polar_express.published import GPT_LOSSES
from studies.verdict import CONFIRMED, NOT_SEEN, NOT_TRAINED, Verdict

__all__ = ["ARMS", "FOLDER", "Run", "Runs", "compared", "rates", "read", "verdicts"]

FOLDER = Path(__file__).parents[2] / "docs" / "results" / "tournament" / "small"
GRID_SEED = 1000  # of the search for the rate
# The arms of the tournament that the paper compares, by its name for them.
ARMS = {
    "AdamW": "adamw",
    "Jordan": "torch",
    "You": "you",
    "PE": "polar-express",
    "PE, 3 steps": "polar-express-3",
    "exact (SVD)": "exact",
}
EDGE = 0.02  # nats by which the paper's Polar Express is below Jordan and You at 1B tokens, at least (C22)


@dataclass(frozen=True)
class Run:
    """One finished run; a run that diverged has an infinite loss."""

    arm: str
    lr: float
    seed: int
    loss: float


@dataclass(frozen=True)
class Runs:
    """The runs of a folder."""

    runs: tuple[Run, ...]

    def grid(self, name: str) -> dict[float, float]:
        """The loss of each rate of the search, for an arm by the paper's name."""
        return {
            r.lr: r.loss for r in sorted(self.runs, key=lambda r: r.lr) if r.arm == ARMS[name] and r.seed == GRID_SEED
        }

    def best(self, name: str) -> float | None:
        """The rate of the least loss in the search; None without a search, or if every rate diverged."""
        found = {rate: loss for rate, loss in self.grid(name).items() if math.isfinite(loss)}
        return min(found, key=lambda rate: found[rate]) if found else None

    def inside(self, name: str) -> bool:
        """Whether the best rate has a smaller and a larger one beside it."""
        best, found = self.best(name), list(self.grid(name))
        return best is not None and min(found) < best < max(found)

    def seeds(self, name: str) -> dict[int, float]:
        """The loss of each compared seed, at the best rate."""
        best = self.best(name)
        return {r.seed: r.loss for r in self.runs if r.arm == ARMS[name] and r.seed != GRID_SEED and r.lr == best}

    def difference(self, name: str, other: str) -> Interval | None:
        """Loss of one arm less the loss of another, paired by seed; None without a common seed."""
        ours, theirs = self.seeds(name), self.seeds(other)
        pairs = [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]
        return interval([p for p in pairs if math.isfinite(p)]) if any(math.isfinite(p) for p in pairs) else None


def read(folder: Path) -> Runs:
    """The finished runs of the paper's arms in a folder; none if there is no folder."""
    found = []
    for path in sorted(folder.glob("*-seed*.json")):
        row = json.loads(path.read_text())
        if row["arm"] in ARMS.values() and row["val"]:
            last = row["val"][-1][1]
            found.append(Run(row["arm"], row["lr"], row["seed"], math.inf if last is None else last))
    return Runs(tuple(found))


def rates(runs: Runs) -> Shown:
    """Loss by rate of each arm in the search (one seed)."""
    columns = sorted({rate for name in ARMS for rate in runs.grid(name)})
    rows = []
    for name in ARMS:
        found, best = runs.grid(name), runs.best(name)
        cells = [number(found[rate]) + (" *" if rate == best else "") if rate in found else "" for rate in columns]
        rows.append((name, cells))
    edge = [name for name in ARMS if runs.grid(name) and not runs.inside(name)]
    remark = (
        f"Validation loss of one run, seed {GRID_SEED}, by learning rate; * is the best. "
        + (f"Not yet inside its grid: {', '.join(edge)}. " if edge else "")
        + "AdamW's rates are its own."
    )
    return Shown("GPT: loss by learning rate", tuple(f"{rate:g}" for rate in columns), rows, remark)


def compared(runs: Runs) -> Shown:
    """Best rate, mean loss over the compared seeds, and the paired difference to Polar Express."""
    rows = []
    for name in ARMS:
        best, losses = runs.best(name), runs.seeds(name)
        mean = number(sum(losses.values()) / len(losses)) if losses else ""
        difference = None if name == "PE" else runs.difference(name, "PE")
        cells = [f"{best:g}" if best else "", mean, str(len(losses)), signed(difference) if difference else ""]
        rows.append((name, cells))
    remark = (
        "Mean validation loss at the best rate, number of seeds, and the loss less Polar Express's, paired by seed, "
        "with its 95 % interval of Student (not corrected for the number of comparisons). " + _paper()
    )
    return Shown("GPT: paired seeds at the best rate of each arm", ("rate", "loss", "seeds", "less PE's"), rows, remark)


def signed(difference: Interval) -> str:
    """A difference with its sign and interval."""
    half = "" if difference.half_width is None else f" ± {difference.half_width:.4f}"
    return f"{difference.mean:+.4f}{half} (n = {difference.count})"


def _paper() -> str:
    less = [f"{where}: {jordan - pe:+.3f}, {you - pe:+.3f}" for where, (_, jordan, you, pe) in GPT_LOSSES.items()]
    return f"The paper's Jordan and You less Polar Express: {'; '.join(less)}."


def verdicts(runs: Runs) -> Iterator[Verdict]:
    """The claims on training, "not yet trained" where runs are missing."""
    yield _order(runs)
    yield _every_rate(runs)
    yield _against(
        runs, "C22", "AdamW ends above Muon with Polar Express", "AdamW less PE: interval above 0", ("AdamW",), 0.0
    )
    yield _against(
        runs,
        "ablation 1",
        "three steps are worse than five",
        "PE with 3 steps less PE: interval above 0",
        ("PE, 3 steps",),
        0.0,
    )
    yield _exact(runs)


def _missing(claim: str, says: str, wanted: str, runs: Runs) -> Verdict:
    have = f"{len(runs.runs)} runs of the paper's arms" if runs.runs else ""
    return Verdict(
        claim, says, wanted, have, NOT_TRAINED, "the runs of the tournament's stage small are missing or incomplete"
    )


def _against(runs: Runs, claim: str, says: str, wanted: str, names: Sequence[str], edge: float) -> Verdict:
    """Whether each named arm less Polar Express is above 0 by its interval, and above `edge` in the mean."""
    found = {name: runs.difference(name, "PE") for name in names}
    known = {name: d for name, d in found.items() if d is not None and d.half_width is not None}
    if len(known) < len(names):
        return _missing(claim, says, wanted, runs)
    held = all(d.resolved and d.mean > edge for d in known.values())
    return Verdict(
        claim,
        says,
        wanted,
        ", ".join(f"{name} {signed(d)}" for name, d in known.items()),
        CONFIRMED if held else NOT_SEEN,
        "" if held else _why(list(known.values()), edge),
    )


def _why(found: Sequence[Interval], edge: float) -> str:
    if any(d.resolved and d.mean < 0 for d in found):
        return "a rival is below Polar Express"
    if any(not d.resolved for d in found):
        return "an interval contains 0"
    return f"a difference, but of less than {edge:g}"


def _order(runs: Runs) -> Verdict:
    says = "Polar Express ends below Jordan and You, each at its best rate"
    less = {where: [rival - pe for rival in (jordan, you)] for where, (_, jordan, you, pe) in GPT_LOSSES.items()}
    spans = []
    for tokens in ("1B", "10B"):
        found = [gap for where, gaps in less.items() if f" {tokens} " in f"{where} ".replace(",", " ") for gap in gaps]
        spans.append(f"{min(found):.3f} to {max(found):.3f} at {tokens} tokens")
    wanted = f"both less PE above {EDGE:g}, intervals above 0; the paper: {', '.join(spans)}"
    return _against(runs, "C22", says, wanted, ("Jordan", "You"), EDGE)


def _every_rate(runs: Runs) -> Verdict:
    claim, says, wanted = (
        "C22",
        "Polar Express is best at every rate",
        "least loss at each rate that all three have (one seed)",
    )
    grids = {name: runs.grid(name) for name in ("PE", "Jordan", "You")}
    common = sorted(set.intersection(*(set(grid) for grid in grids.values())))
    if not common:
        return _missing(claim, says, wanted, runs)
    winners = {rate: min(grids, key=lambda name: grids[name][rate]) for rate in common}
    gaps = [min(grids["Jordan"][r], grids["You"][r]) - grids["PE"][r] for r in common]
    held = all(name == "PE" for name in winners.values())
    parts = [f"{r:g}: {winners[r]} ({gap:+.3f})" for r, gap in zip(common, gaps, strict=True)]
    others = [loss for loss in runs.seeds("PE").values() if math.isfinite(loss)]
    why = "one run a rate" + (f"; seeds of PE differ by {statistics.stdev(others):.3f}" if len(others) > 1 else "")
    return Verdict(claim, says, wanted, ", ".join(parts), CONFIRMED if held else NOT_SEEN, why)


def _exact(runs: Runs) -> Verdict:
    claim, says = "ablation 2", "the exact factor (SVD) is no better than five steps"
    wanted = "PE less exact: interval contains 0, or below 0"
    difference = runs.difference("PE", "exact (SVD)")
    if difference is None or difference.half_width is None:
        return _missing(claim, says, wanted, runs)
    held = difference.mean - difference.half_width <= 0
    return Verdict(
        claim,
        says,
        wanted,
        signed(difference),
        CONFIRMED if held else NOT_SEEN,
        "" if held else "exact factors end lower",
    )
