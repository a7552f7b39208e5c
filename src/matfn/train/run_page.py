"""`matfn report`: the page of a run or of a comparison, from the files in its folder, also while it runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from matfn.optim import History
from matfn.optim.model.html import plan_table
from matfn.optim.telemetry.report import SHOWN, choice_table, figure_cards, last_values, loss_card
from matfn.pages.charts import Line, chart
from matfn.pages.page import card, document, facts, number, table
from matfn.train import TrainError, about, compare, files, single
from matfn.train import recipe as recipes
from matfn.train.checkpoint import damaged
from matfn.train.loop import METRICS, TELEMETRY
from matfn.train.metrics import read_metrics
from matfn.train.outcome import Outcome, outcome
from matfn.train.recipe import Recipe

__all__ = ["PAGE", "page", "write"]

PAGE = "training.html"


@dataclass(frozen=True)
class Seen:
    """One run as its files show it.

    Attributes:
        arm: The label of the optimizer.
        seed: The seed.
        colour: The number of its colour.
        lines: The lines of its log.
        outcome: Their summary.
        history: Its telemetry; without steps if none was recorded.
    """

    arm: str
    seed: int
    colour: int
    lines: list[dict[str, float]]
    outcome: Outcome
    history: History

    def curve(self, key: str, factor: float = 1.0) -> list[tuple[float, float]]:
        """The (step, value) pairs of a number of the log."""
        return [(line["step"], line[key] * factor) for line in self.lines if key in line]


def write(folder: Path, out: Path | None = None) -> Path:
    """Write the page of the run in `folder`, whole or not at all, and return its path.

    Args:
        folder: The folder of `matfn train` or `matfn compare`; the run may be unfinished.
        out: The file to write; by default `training.html` in the folder.

    Raises:
        TrainError: The folder holds no run, a file is damaged, or the page cannot be written.
    """
    path = folder / PAGE if out is None else out
    files.replace_text(path, page(folder))
    return path


def page(folder: Path) -> str:
    """Return the page of a run or a comparison.

    Raises:
        TrainError: The folder holds no run or no finished step, or a file is damaged.
    """
    if not (folder / single.RECIPE).exists():
        raise TrainError(f"{folder} holds no recipe.toml: give the folder of a run of matfn train or matfn compare")
    recipe = recipes.recorded(folder / single.RECIPE)[0]
    runs, unit = list(_runs(recipe, folder)), _unit(recipe)
    if not any(run.lines for run in runs):
        raise TrainError(f"{folder} has no step in its log yet: train first")
    known = about.recorded(folder)
    body = [
        f"<h1>{escape(recipe.title)}</h1>",
        f'<p class="lead">{escape(_lead(recipe, runs))}</p>',
        _results(runs, unit),
    ]
    body += ['<div class="cards">', *_curves(runs, unit), "</div>", *_updates(recipe, runs, known), *_decisions(known)]
    made = facts(known.conditions) if known.conditions else "<p>Not recorded by the version that made this run.</p>"
    body += ["<h2>Made with</h2>", made]
    body.append(f"<details><summary>Recipe</summary><pre>{escape(recipes.text(recipe))}</pre></details>")
    return document(recipe.title, body)


def _runs(recipe: Recipe, folder: Path) -> Iterator[Seen]:
    """The run in the folder, or the runs of a comparison that have begun."""
    if not recipe.arms:
        arm = recipe.arm(None)
        yield _seen(folder, arm.label, recipe.train.seed, arm.lr, 0)
        return
    labels = [arm.label for arm in recipe.arms]
    for job in (job for together in compare.rounds(recipe, recipe.arms, folder) for job in together):
        if (job.folder / METRICS).exists():
            yield _seen(job.folder, job.arm.label, job.seed, job.arm.lr, labels.index(job.arm.label))


def _seen(folder: Path, arm: str, seed: int, lr: float, colour: int) -> Seen:
    lines = read_metrics(folder / METRICS)
    path = folder / TELEMETRY
    try:
        history = History.parse(files.read(path), str(path))
    except FileNotFoundError:
        history = History()
    except ValueError as error:
        raise damaged(path, str(error)) from None
    rates = [line["lr"] for line in lines if "lr" in line]
    return Seen(arm, seed, colour, lines, outcome(lines, arm=arm, seed=seed, lr=max(rates, default=lr)), history)


def _lead(recipe: Recipe, runs: Sequence[Seen]) -> str:
    model, train, last = recipe.model, recipe.train, min(_last(run) for run in runs)
    network = f"{model.name.upper()} of {model.layers} layers and width {model.width}, context {recipe.data.context}"
    done = f"{train.steps} steps" if last == train.steps else f"step {last:g} of {train.steps} so far"
    return f"{network}; {recipe.tokens_per_step:,} {_unit(recipe)}s a step; {done}."


def _unit(recipe: Recipe) -> str:
    """The unit of the losses: a text is read as bytes, shards as tokens."""
    return "token" if recipe.data.source == "shards" else "byte"


def _last(run: Seen) -> float:
    return run.lines[-1]["step"] if run.lines else 0


def _results(runs: Sequence[Seen], unit: str) -> str:
    heads = ("run", "steps", "greatest lr", f"validation loss (nats/{unit})", "step (ms)", "optimizer share")
    several, found = len({run.seed for run in runs}) > 1, []
    for run in runs:
        name, ended = run.arm + (f", seed {run.seed}" if several else ""), run.outcome
        lost = "diverged" if ended.diverged is not None else "not yet"
        loss = f"{ended.val[-1][1]:.4f}" if ended.val and ended.diverged is None else lost
        time = f"{ended.step_seconds * 1e3:.1f}"
        found.append((name, f"{_last(run):g}", number(ended.lr), loss, time, f"{ended.optimizer_share:.0%}"))
    return table(heads, found)


def _curves(runs: Sequence[Seen], unit: str) -> Iterator[str]:
    """Validation and training loss, learning rates, and times."""
    alone, step = len(runs) == 1, "optimizer step"
    val = [Line("validation" if alone else run.arm, run.curve("val_loss"), run.colour) for run in runs]
    train = [Line("training" if alone else "", run.curve("loss"), run.colour, faint=True) for run in runs]
    caption = "Validation." if alone else "Thick: validation. Thin: training."
    yield loss_card([line for line in (*val, *train) if line.points], "loss", f"nats per {unit}", caption * (not alone))
    rates = [Line(run.arm, run.curve("lr"), run.colour) for run in _first(runs)]
    yield card("Learning rate", "lr, before the scale of each matrix", chart(rates, x=step, y="learning rate"), "")
    if alone:
        [run] = runs
        times = [Line("step", run.curve("seconds", 1e3)), Line("optimizer", run.curve("optimizer_seconds", 1e3), 1)]
    else:
        times = [Line(run.arm, run.curve("seconds", 1e3), run.colour) for run in _first(runs)]
    told = "Telemetry and evaluation are not counted."
    yield card("Time of a step", "ms, on this machine", chart(times, x=step, y="time", scale="log"), told)


def _first(runs: Sequence[Seen]) -> list[Seen]:
    """The first run of each arm."""
    found: dict[str, Seen] = {}
    for run in runs:
        found.setdefault(run.arm, run)
    return list(found.values())


def _updates(recipe: Recipe, runs: Sequence[Seen], known: about.About) -> Iterator[str]:
    """What the updates did: of one run by layer, of several the medians beside each other and then by layer."""
    seen = [run for run in _first(runs) if run.history]
    if not seen:
        yield "<h2>What the updates did</h2><p>Nothing was recorded. Telemetry measures condition number and nuclear "
        yield "norm of the gradients, and orthogonality and direction of the updates. To record them at every 50th "
        yield "step, within 5 % of the time, train with</p><pre>--set telemetry.every=50</pre>"
        yield "<p>or write the table into the recipe:</p><pre>[telemetry]\nevery = 50</pre>"
        return
    yield "<h2>What the updates did</h2>"
    if len(seen) > 1:
        yield '<div class="cards">'
        yield from _medians(seen)
        yield "</div>"
    for run in seen:
        if len(seen) == 1:
            yield from (*figure_cards(run.history, known.layers), last_values(run.history, known.layers))
        else:
            yield f"<details><summary>By layer: {escape(run.arm)}</summary>"
            yield from (*figure_cards(run.history, known.layers), "</details>")


def _medians(runs: Sequence[Seen]) -> Iterator[str]:
    """For each figure of telemetry a chart with the median over the layers of every arm."""
    for name, look in SHOWN.items():
        lines = []
        for run in runs:
            values = list(run.history.figures[name].values())
            columns = [[row[k] for row in values if math.isfinite(row[k])] for k in range(len(run.history))]
            points = [(s, statistics.median(c)) for s, c in zip(run.history.steps, columns, strict=True) if c]
            lines += [Line(run.arm, points, run.colour)] if points else []
        if lines:
            drawing = chart(lines, x="optimizer step", y=look.title, scale=look.scale)
            yield card(look.title, f"{look.unit}; the median of the layers", drawing, look.caption)


def _decisions(known: about.About) -> Iterator[str]:
    if known.plan:
        yield f"<h2>What the plan decided</h2>{plan_table(known.plan)}"
    for label, choices in known.choices.items():
        if choices:
            told = f" by {label}" if len(known.choices) > 1 else ""
            yield choice_table(choices).replace("are computed</h2>", f"are computed{escape(told)}</h2>", 1)
