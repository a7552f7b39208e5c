"""What one run's metrics amount to, and the comparison of several: pure functions of recorded numbers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matfn.train.stats import Interval, interval

UNTOLD = 0.03  # nats: three standard deviations between two single runs of the demo, whose seeds differ by 0.01
WARM = 5  # the first steps allocate and compile; they are left out of timings where there are more


@dataclass(frozen=True)
class Outcome:
    """One run. Curves are tuples of (step, nats per token); `seconds` is training time without evaluation.

    Attributes:
        arm: Name of the optimizer.
        seed: Seed of weights and batches.
        lr: Learning rate in the recipe.
        train: Training loss at every step.
        val: Validation loss at every evaluation, with the training seconds up to it as a third member.
        step_seconds: Time of a step: the median of forward and backward, which are the same work each time, and the
            mean of the optimizer, which works harder at some steps (roots, bases) than at others.
        optimizer_share: The optimizer's part of that.
        diverged: The step at which the loss was no longer finite, or None.
        accuracy: Share of the test images named rightly, at every evaluation; empty for text.
    """

    arm: str
    seed: int
    lr: float
    train: tuple[tuple[int, float], ...]
    val: tuple[tuple[int, float, float], ...]
    step_seconds: float
    optimizer_share: float
    diverged: int | None
    accuracy: tuple[tuple[int, float], ...] = ()

    @property
    def final(self) -> float | None:
        """The last validation loss; None for a run that diverged or was cut short."""
        return self.val[-1][1] if self.val and self.diverged is None else None


def outcome(lines: Sequence[dict[str, float]], *, arm: str, seed: int, lr: float) -> Outcome:
    """Sum up the lines of a metrics log."""
    steps = [line for line in lines if "loss" in line]
    timed = steps[WARM:] or steps
    lost = [int(line["step"]) for line in lines if "diverged" in line]
    passes = statistics.median(line["seconds"] - line["optimizer_seconds"] for line in timed) if timed else 0.0
    optimizer = statistics.fmean(line["optimizer_seconds"] for line in timed) if timed else 0.0
    return Outcome(
        arm=arm,
        seed=seed,
        lr=lr,
        train=tuple((int(line["step"]), line["loss"]) for line in steps),
        val=tuple((int(line["step"]), line["val_loss"], line["elapsed"]) for line in lines if "val_loss" in line),
        step_seconds=passes + optimizer,
        optimizer_share=optimizer / (passes + optimizer) if timed else 0.0,
        diverged=lost[0] if lost else None,
        accuracy=tuple((int(line["step"]), line["accuracy"]) for line in lines if "accuracy" in line),
    )


@dataclass(frozen=True)
class Row:
    """One arm over all seeds: a line of the table. `val` is None where no seed survived."""

    arm: str
    lr: float
    val: Interval | None
    step_seconds: float
    optimizer_share: float
    diverged: int


@dataclass(frozen=True)
class Difference:
    """Validation loss of `second` minus that of `first`, paired by seed: negative means `second` is better."""

    first: str
    second: str
    nats: Interval


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """The table's lines, in the order of the recipe."""
    return [_row(arm, [o for o in outcomes if o.arm == arm]) for arm in dict.fromkeys(o.arm for o in outcomes)]


def _row(arm: str, runs: list[Outcome]) -> Row:
    finals = [run.final for run in runs if run.final is not None]
    return Row(
        arm=arm,
        lr=runs[0].lr,
        val=interval(finals) if finals else None,
        step_seconds=statistics.median(run.step_seconds for run in runs),
        optimizer_share=statistics.median(run.optimizer_share for run in runs),
        diverged=sum(run.diverged is not None for run in runs),
    )


def differences(outcomes: Sequence[Outcome]) -> list[Difference]:
    """Every pair of arms, over the seeds that both survived."""
    return differences_of({(o.arm, o.seed): o.final for o in outcomes if o.final is not None})


def differences_of(losses: Mapping[tuple[str, int], float]) -> list[Difference]:
    """Every pair of arms, over the seeds that both have a loss for; `losses` has (arm, seed) for keys."""
    arms, pairs = list(dict.fromkeys(arm for arm, _ in losses)), []
    for first, second in itertools.combinations(arms, 2):
        paired = [losses[second, s] - losses[first, s] for a, s in losses if a == first and (second, s) in losses]
        if paired:
            pairs.append(Difference(first, second, interval(paired)))
    return pairs


def leaders(table: Sequence[Row], pairs: Sequence[Difference]) -> set[str]:
    """The arm of the lowest mean loss and every arm it cannot be told from: the ones a table may mark as best."""
    alive = {row.arm: row.val.mean for row in table if row.val}
    if not alive:
        return set()
    best = min(alive, key=lambda arm: alive[arm])
    level = {best}
    for pair in pairs:
        gap = pair.nats
        told_apart = gap.resolved if gap.half_width is not None else abs(gap.mean) > UNTOLD
        if best in (pair.first, pair.second) and not told_apart:
            level |= {pair.first, pair.second}
    return level


def resolution(outcomes: Sequence[Outcome], steps: int) -> str:
    """What these numbers can and cannot tell, in plain words, to print beside them."""
    seeds = len({o.seed for o in outcomes})
    if seeds == 1:
        spread = f"One seed has no error bar: seeds differ by about 0.01 here, so take gaps under {UNTOLD:g} for none."
    else:
        spread = f"Intervals are 95 % Student over {seeds} seeds; differences are paired by seed."
    return f"{spread} {steps} steps are a short run: short runs flatter optimizers that start fast."
