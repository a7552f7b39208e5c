"""C22: the paper's comparison of GPTs, from the runs of the tournament's stage `small` that exist.

Reading, the best rate of an arm, pairs of seeds, intervals and runs that diverged are as in `studies.tournament`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from studies.page import Shown, number
from studies.polar_express.published import GPT_LOSSES
from studies.tournament.runs import GRID_SEED, Run
from studies.tournament.statistics import Interval, best, difference, grid, losses
from studies.trained import Trained, told
from studies.verdict import NOT_TRAINED, Verdict, judged

__all__ = ["ARMS", "compared", "rates", "taken", "verdicts"]

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


def taken(runs: Sequence[Run]) -> list[Run]:
    """The runs of the arms that the paper compares."""
    return [run for run in runs if run.arm in ARMS.values()]


def rates(runs: Sequence[Run]) -> Shown:
    """Loss by rate of each arm in the search (one seed)."""
    grids = {name: grid(runs, arm) for name, arm in ARMS.items()}
    columns = sorted({rate for found in grids.values() for rate in found})
    rows, edge = [], []
    for name, found in grids.items():
        at = best(runs, ARMS[name])
        least = at.lr if at is not None else None
        cells = [number(found[rate]) + (" *" if rate == least else "") if rate in found else "" for rate in columns]
        rows.append((name, cells))
        if at is not None and not at.inside:
            edge.append(name)
    remark = (
        f"Validation loss of one run, seed {GRID_SEED}, by learning rate; * is the best. "
        + (f"Not yet inside its grid: {', '.join(edge)}. " if edge else "")
        + "AdamW's rates are its own."
    )
    return Shown("GPT: loss by learning rate", tuple(f"{rate:g}" for rate in columns), rows, remark)


def compared(runs: Sequence[Run]) -> Shown:
    """Best rate, mean loss over the compared seeds, and the paired difference to Polar Express."""
    rows = []
    for name, arm in ARMS.items():
        at, found = best(runs, arm), losses(runs, arm)
        mean = number(statistics.fmean(found.values())) if found else ""
        less = difference(runs, arm, ARMS["PE"])
        cells = [f"{at.lr:g}" if at else "", mean, str(len(found)), told(less) if name != "PE" and less.pairs else ""]
        rows.append((name, cells))
    remark = (
        "Mean validation loss at the best rate, number of seeds, and the loss less Polar Express's, paired by seed, "
        "with its 95 % interval of Student (not corrected for the number of comparisons). " + _paper()
    )
    return Shown("GPT: paired seeds at the best rate of each arm", ("rate", "loss", "seeds", "less PE's"), rows, remark)


def _paper() -> str:
    less = [f"{where}: {jordan - pe:+.3f}, {you - pe:+.3f}" for where, (_, jordan, you, pe) in GPT_LOSSES.items()]
    return f"The paper's Jordan and You less Polar Express: {'; '.join(less)}."


def verdicts(stage: Trained) -> Iterator[Verdict]:
    """The claims on training, "not yet trained" until all planned runs have ended."""
    yield _order(stage)
    yield _every_rate(stage)
    yield _against(
        stage, "C22", "AdamW ends above Muon with Polar Express", "AdamW less PE: interval above 0", ("AdamW",), 0.0
    )
    yield _against(
        stage,
        "ablation 1",
        "three steps are worse than five",
        "PE with 3 steps less PE: interval above 0",
        ("PE, 3 steps",),
        0.0,
        comparisons=1,
    )
    yield _exact(stage)


def _missing(claim: str, says: str, wanted: str, stage: Trained) -> Verdict:
    have = f"{stage.progress.done} of {stage.progress.planned} runs" if stage.runs else ""
    return Verdict(
        claim, says, wanted, have, NOT_TRAINED, "the runs of the tournament's stage small are missing or incomplete"
    )


def _against(
    stage: Trained,
    claim: str,
    says: str,
    wanted: str,
    names: Sequence[str],
    edge: float,
    *,
    comparisons: int | None = None,
) -> Verdict:
    """Whether each named arm less Polar Express is above 0 by its interval, and above `edge` in the mean.

    The intervals are corrected for `comparisons`; None is the number of the rules' table "Claims of the papers".
    """
    if not stage.progress.complete:
        return _missing(claim, says, wanted, stage)
    count = stage.comparisons if comparisons is None else comparisons
    found = {name: difference(stage.runs, ARMS[name], ARMS["PE"], comparisons=count) for name in names}
    held = all(d.mean == math.inf or (d.low > 0 and d.mean > edge) for d in found.values())
    level = f" (95 %, corrected for {count} comparisons)" if count > 1 else " (95 %)"
    shown = ", ".join(f"{name} {told(d)}, {d.pairs} seeds" for name, d in found.items()) + level
    return judged(claim, says, wanted, shown, held, why=_why(list(found.values()), edge))


def _why(found: Sequence[Interval], edge: float) -> str:
    if any(math.isnan(d.mean) or d.mean == -math.inf for d in found):
        return "a run of Polar Express diverged"
    if any(d.high < 0 for d in found):
        return "a rival is below Polar Express"
    if any(math.isfinite(d.mean) and not d.apart for d in found):
        return "an interval contains 0"
    return f"a difference, but of less than {edge:g}"


def _order(stage: Trained) -> Verdict:
    says = "Polar Express ends below Jordan and You, each at its best rate"
    less = {where: [rival - pe for rival in (jordan, you)] for where, (_, jordan, you, pe) in GPT_LOSSES.items()}
    spans = []
    for tokens in ("1B", "10B"):
        found = [gap for where, gaps in less.items() if f" {tokens} " in f"{where} ".replace(",", " ") for gap in gaps]
        spans.append(f"{min(found):.3f} to {max(found):.3f} at {tokens} tokens")
    wanted = f"both less PE above {EDGE:g}, intervals above 0; the paper: {', '.join(spans)}"
    return _against(stage, "C22", says, wanted, ("Jordan", "You"), EDGE)


def _every_rate(stage: Trained) -> Verdict:
    claim, says, wanted = (
        "C22",
        "Polar Express is best at every rate",
        "least loss at each rate that all three have (one seed)",
    )
    grids = {name: grid(stage.runs, ARMS[name]) for name in ("PE", "Jordan", "You")}
    common = sorted(set.intersection(*(set(found) for found in grids.values())))
    if not (stage.progress.complete and common):
        return _missing(claim, says, wanted, stage)
    winners = {rate: min(grids, key=lambda name: grids[name][rate]) for rate in common}
    gaps = [min(grids["Jordan"][r], grids["You"][r]) - grids["PE"][r] for r in common]
    held = all(name == "PE" for name in winners.values())
    parts = [f"{r:g}: {winners[r]} ({gap:+.3f})" for r, gap in zip(common, gaps, strict=True)]
    others = [loss for loss in losses(stage.runs, ARMS["PE"]).values() if math.isfinite(loss)]
    why = "one run a rate" + (f"; seeds of PE differ by {statistics.stdev(others):.3f}" if len(others) > 1 else "")
    return judged(claim, says, wanted, ", ".join(parts), held, why=why, condition=why)


def _exact(stage: Trained) -> Verdict:
    claim, says = "ablation 2", "the exact factor (SVD) is no better than five steps"
    wanted = "PE less exact: interval contains 0, or below 0"
    if not stage.progress.complete:
        return _missing(claim, says, wanted, stage)
    found = difference(stage.runs, ARMS["PE"], ARMS["exact (SVD)"])
    held = found.low <= 0 or found.mean == -math.inf
    shown = f"{told(found)}, {found.pairs} seeds (95 %)"
    return judged(claim, says, wanted, shown, held, why="exact factors end lower")
