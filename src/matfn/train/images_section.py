"""The report's section on images: accuracy, steps to 95 %, and the training loss that tells arms apart sooner."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from html import escape

from matfn.train import drawing, plots
from matfn.train.compare import Comparison
from matfn.train.outcome import Outcome, differences_of
from matfn.train.sections import difference_lines, table
from matfn.train.stats import interval

__all__ = ["GOAL", "lines", "section", "steps_to"]

GOAL = 0.95
LAST = 20  # steps, the mean of whose training losses stands for the end of training


def steps_to(run: Outcome, goal: float = GOAL) -> int | None:
    """The first evaluation at which the accuracy is `goal` or more; None if there is none."""
    return next((step for step, accuracy in run.accuracy if accuracy >= goal), None)


def section(comparison: Comparison) -> Iterable[str]:
    """For the page; nothing where nothing was classified."""
    if not any(run.accuracy for run in comparison.runs):
        return
    heads = ("optimizer", "test accuracy (%)", f"steps to {GOAL:.0%}, by seed", "training loss at the end (nats)")
    caption = "Training loss (nats per image), smoothed over 10 steps, mean over the seeds, against optimizer steps."
    yield "<h2>Accuracy and training loss</h2>"
    yield table(heads, _rows(comparison))
    yield f'<p class="note">{escape(_note(comparison))}</p>'
    yield f"<figure>{drawing.svg(plots.train_curves(comparison))}<figcaption>{escape(caption)}</figcaption></figure>"
    found = "".join(f"<li>{escape(line)}</li>" for line in _differences(comparison))
    yield f"<p>Training loss, mean of the last {LAST} steps:</p><ul>{found}</ul>"


def lines(comparison: Comparison) -> list[str]:
    """The same for the terminal."""
    if not any(run.accuracy for run in comparison.runs):
        return []
    rows = [
        f"{arm}: {accuracy} % of the test images, {GOAL:.0%} after {steps} steps, training loss {loss}"
        for arm, accuracy, steps, loss in _rows(comparison)
    ]
    return [*rows, _note(comparison)]


def _rows(comparison: Comparison) -> list[tuple[str, str, str, str]]:
    rows = []
    for arm in dict.fromkeys(run.arm for run in comparison.runs):
        runs = [run for run in comparison.runs if run.arm == arm]
        whole = [run for run in runs if run.final is not None]
        reached = ", ".join(str(steps_to(run) or "not") for run in runs)
        accuracy = str(interval([100 * run.accuracy[-1][1] for run in whole])) if whole else "diverged"
        loss = str(interval([_end(run) for run in whole])) if whole else "diverged"
        rows.append((arm, accuracy, reached, loss))
    return rows


def _end(run: Outcome) -> float:
    return statistics.fmean(loss for _, loss in run.train[-LAST:])


def _differences(comparison: Comparison) -> list[str]:
    ends = {(run.arm, run.seed): _end(run) for run in comparison.runs if run.final is not None}
    arms = dict.fromkeys(arm for arm, _ in ends)
    means = {arm: statistics.fmean(loss for (name, _), loss in ends.items() if name == arm) for arm in arms}
    return difference_lines(differences_of(ends), means, comparison.unit)


def _note(comparison: Comparison) -> str:
    count = min(comparison.recipe.train.eval_windows, comparison.data["val_images"])
    points = 100 * math.sqrt(0.98 * 0.02 / count)
    return (
        f"{count} test images give ± {points:.1f} points of standard error at 98 %, the same images for every arm: "
        f"accuracies that differ by less than about {2 * points:.0f} are the same. Steps to {GOAL:.0%} are seen at "
        f"evaluations, every {comparison.recipe.train.eval_every} steps."
    )
