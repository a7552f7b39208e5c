"""Several optimizers on the same data, weights and batches: search rates, train in turns, sum up."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from matfn.train import Stopped, TrainError, about, checkpoint, optimizers, processes, sizes
from matfn.train import recipe as recipes
from matfn.train.data import Corpus, load_corpus
from matfn.train.files import read, replace_text
from matfn.train.loop import CHECKPOINT, METRICS, Diverged, Trainer, Watcher, pick_device
from matfn.train.metrics import complete, read_metrics, recorded_lines
from matfn.train.model import make_model
from matfn.train.outcome import Difference, Outcome, Row, TimeView, differences, outcome, resolution, rows, time_views
from matfn.train.provenance import Choice, choice_of, conditions
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.settings import plain

RECIPE, FINISHED = "recipe.toml", "finished.json"
GRID_FOLDER = "grid"
TURN = 10  # steps in a turn: so few that a busy spell of the machine slows every arm


@dataclass(frozen=True)
class Comparison:
    """The content of a report."""

    recipe: Recipe
    data: dict[str, Any]
    unit: str
    runs: tuple[Outcome, ...]
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    searches: tuple[Search, ...]
    equal_time: tuple[TimeView, ...]
    note: str
    conditions: dict[str, str]
    choices: tuple[Choice, ...]

    def name(self, arm: str) -> str:
        """The name of an arm in the table: its label, with the precision if it is not the optimizer's own."""
        return next((choice.name for choice in self.choices if choice.arm == arm), arm)

    def table(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "recipe": plain(self.recipe)}


def run(recipe: Recipe, directory: Path, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> Comparison:
    """Train every arm with every seed in `directory`, or continue an interrupted comparison there.

    Args:
        recipe: At least two arms.
        directory: Holds a folder for each run and, at the end, `result.json`.
        watcher: Sees every step.
        stop: Asked between steps; if it returns true, the unfinished runs write checkpoints.

    Raises:
        TrainError: There are fewer than two arms, an arm is wrong, or the folder belongs to another recipe.
        Stopped: `stop` returned true.
    """
    order = processes.from_first(lambda: _begun(recipe, directory))
    for arm in recipe.arms:
        optimizers.check(arm, recipe.place(arm), pick_device(recipe.train.device))
    trials, corpus = trials_of(recipe, directory), load_corpus(recipe.data)
    if order not in (None, corpus.order):
        raise TrainError(
            f"the text of {corpus.facts['source']} is not the one that the comparison in {directory} began with: "
            "restore it, or choose another folder with --out"
        )
    sizes.check(recipe, recipe.arms, corpus)
    if processes.first():
        directory.mkdir(parents=True, exist_ok=True)
        recipes.record(directory / RECIPE, recipe, corpus.order)
        _write_about(recipe, corpus, directory)
    try:
        searches, runs = _trained(recipe, trials, corpus, directory, watcher, stop)
    except Stopped:
        raise Stopped(f"stopped; go on with: {processes.line(f'compare --resume {directory}')}") from None
    comparison = _summarize(recipe, corpus, runs, searches)
    if processes.first():
        replace_text(directory / "result.json", json.dumps(comparison.table(), indent=1, ensure_ascii=False))
    return comparison


def _begun(recipe: Recipe, directory: Path) -> str | None:
    """The order of the text of the comparison that the folder holds; None if it holds none.

    Raises:
        TrainError: There are fewer than two arms, or the folder belongs to another recipe.
    """
    if not recipe.arms and (directory / CHECKPOINT).exists():
        raise TrainError(f"{directory} holds one run: go on with matfn train --resume {directory}")
    if len(recipe.arms) < 2:
        raise TrainError(f"there is nothing to compare: the recipe has {len(recipe.arms)} [[arms]], add at least two")
    begun, order = recipes.recorded(directory / RECIPE) if (directory / RECIPE).exists() else (recipe, None)
    if not begun.same_curve(recipe):
        raise TrainError(f"{directory} holds a comparison by another recipe: choose another folder with --out")
    return order


def _trained(
    recipe: Recipe,
    trials: Sequence[Sequence[Job]],
    corpus: Corpus,
    directory: Path,
    watcher: Watcher,
    stop: Callable[[], bool],
) -> tuple[list[Search], list[Outcome]]:
    """The grids of all arms, then the runs of all seeds with the best rates."""
    arms, searches, runs = [], [], []
    for arm, tried in zip(recipe.arms, trials, strict=True):
        steps = recipe.compare.grid.steps or recipe.train.steps
        best, found = best_rate(arm, steps, train_in_turns(tried, corpus, watcher, stop))
        arms.append(best)
        searches += [found] if found else []
    for together in rounds(recipe, arms, directory):
        runs += train_in_turns(together, corpus, watcher, stop)
    return searches, runs


def remaining(recipe: Recipe, directory: Path) -> tuple[int, int]:
    """The number of unfinished runs of the comparison in `directory`, and the number of their steps."""
    planned = [*trials_of(recipe, directory), *rounds(recipe, recipe.arms, directory)]
    left = [job for together in planned for job in together if not job.over]
    return len(left), sum(job.recipe.train.steps for job in left)


def rounds(recipe: Recipe, arms: Sequence[OptimizerTable], directory: Path) -> list[list[Job]]:
    """The runs of all seeds; those of one list take turns."""
    names, found = folder_names([arm.label for arm in arms]), []
    for seed in recipe.compare.seeds:
        ones = [Job(recipe, arm, seed, directory / f"{name}-seed{seed}") for arm, name in zip(arms, names, strict=True)]
        found += [[one] for one in ones] if recipe.compare.order == "sequential" else [ones]
    return found


def _summarize(recipe: Recipe, corpus: Corpus, runs: list[Outcome], searches: Sequence[Search]) -> Comparison:
    table = rows(runs)
    unlike = optimizers.unlike(recipe, corpus.vocabulary)
    told = (resolution(runs, recipe.train.steps), unlike, edge_warnings(searches))
    device = pick_device(recipe.train.device)
    return Comparison(
        recipe=recipe,
        data=corpus.facts,
        unit=corpus.unit,
        runs=tuple(runs),
        rows=tuple(table),
        differences=tuple(differences(runs)),
        searches=tuple(searches),
        equal_time=tuple(time_views(runs, table, recipe.train)),
        note=" ".join(filter(None, told)),
        conditions=conditions(device),
        choices=tuple(_choices(recipe, corpus, device)),
    )


def _model(recipe: Recipe, corpus: Corpus, device: torch.device) -> torch.nn.Module:
    context, seed = recipe.data.context, recipe.compare.seeds[0]
    return make_model(recipe.model, corpus.vocabulary, context=context, seed=seed).to(device)


def _write_about(recipe: Recipe, corpus: Corpus, directory: Path) -> None:
    """Write what the comparison is made with, for its page."""
    device = pick_device(recipe.train.device)
    model = _model(recipe, corpus, device)
    arms = ((arm.label, optimizers.make_optimizers(arm, model, recipe.train).members) for arm in recipe.arms)
    about.write(directory, model, arms, device)


def _choices(recipe: Recipe, corpus: Corpus, device: torch.device) -> Iterator[Choice]:
    """The precision of each arm for the model's matrices on this machine."""
    model = _model(recipe, corpus, device)
    for arm in recipe.arms:
        choice = choice_of(arm, optimizers.make_optimizers(arm, model, recipe.train).members, device)
        if choice is not None:
            yield choice


@dataclass(frozen=True)
class Job:
    """One run and the folder of its log."""

    recipe: Recipe
    arm: OptimizerTable
    seed: int
    folder: Path

    @property
    def over(self) -> bool:
        """Whether the run has ended, by its last evaluation or by a divergence.

        A finished run has a record of its log. The log of an earlier version has none, and must be complete.

        Raises:
            TrainError: The log of a finished run is damaged.
        """
        train = self.recipe.train
        if (self.folder / FINISHED).exists():
            self.lines()
            return True
        if (self.folder / CHECKPOINT).exists():
            return False
        try:
            lines = read_metrics(self.folder / METRICS)
        except TrainError:  # a crash of the machine damaged the log: the run starts again
            return False
        return complete(lines, until=train.steps, eval_every=train.eval_every, steps=train.steps)

    def ended(self, lines: Sequence[dict[str, float]]) -> bool:
        """Whether these lines end with the last evaluation or with a divergence."""
        last = lines[-1] if lines else {}
        return "diverged" in last or (last.get("step") == self.recipe.train.steps and "val_loss" in last)

    def lines(self) -> list[dict[str, float]]:
        """The lines of the log, verified by the record of a finished run.

        Raises:
            TrainError: The log or its record is damaged.
        """
        path = self.folder / FINISHED
        if not path.exists():
            return read_metrics(self.folder / METRICS)
        try:
            known = json.loads(read(path, most=2**16))
        except (ValueError, RecursionError) as error:
            raise checkpoint.damaged(path, str(error)) from None
        return recorded_lines(self.folder / METRICS, known)

    def outcome(self) -> Outcome:
        """The summary of the log."""
        return outcome(self.lines(), arm=self.arm.label, seed=self.seed, lr=self.arm.lr)


def folder_names(labels: Sequence[str]) -> list[str]:
    """Different names for the folders of different arms, on every file system.

    A name is the label in small letters and digits, with dashes for the rest. Two labels that would have the same name,
    such as "A" and "a", and a label that is too long for a file system get a hash of the label too.
    """
    short = ["".join(c if c.isalnum() else "-" for c in _normal(label)) for label in labels]
    long = [
        f"{n[:40]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}" for n, label in zip(short, labels, strict=True)
    ]
    seen = Counter(map(_normal, short))
    names = [n if seen[_normal(n)] == 1 and len(n.encode()) <= 180 else m for n, m in zip(short, long, strict=True)]
    return names if len(set(map(_normal, names))) == len(names) else long


def _normal(text: str) -> str:
    """A text in the form in which file systems that ignore case and compose accents compare names."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def train_in_turns(jobs: Sequence[Job], corpus: Corpus, watcher: Watcher, stop: Callable[[], bool]) -> list[Outcome]:
    """Train the unfinished jobs in turns, with all their models in memory; when one diverges the others continue.

    Raises:
        TrainError: A file cannot be written, or a log was removed or changed.
        Stopped: `stop` returned true; every unfinished job has a checkpoint.
    """
    unfinished = processes.from_first(lambda: [job for job in jobs if not job.over])
    active = [(job, Trainer(job.recipe, job.arm, corpus, seed=job.seed, directory=job.folder)) for job in unfinished]
    while active:
        for _, trainer in active:
            with contextlib.suppress(Diverged):  # the log records the divergence, and the table will show it
                trainer.advance(trainer.step + TURN, watcher, stop=stop)
        ended = [(job, trainer) for job, trainer in active if job.ended(trainer.history)]
        for job, trainer in ended:
            _finish(job, trainer)
        active = [pair for pair in active if pair not in ended]
        if stop():
            for _, trainer in active:
                trainer.save()
            raise Stopped("stopped")
    return processes.from_first(lambda: [job.outcome() for job in jobs])


def _finish(job: Job, trainer: Trainer) -> None:
    """Record the log of a finished run, and remove the checkpoint, which only an interrupted run needs."""
    if processes.first():
        replace_text(job.folder / FINISHED, json.dumps(trainer.metrics.sync()) + "\n")
        (job.folder / CHECKPOINT).unlink(missing_ok=True)
    trainer.metrics.verify()
    trainer.metrics.close()


@dataclass(frozen=True)
class Search:
    """The learning rates of one arm, ascending, and the final validation loss of each trial: None if it diverged.

    `best` is the rate of the lowest loss, or the lowest rate if every trial diverged.
    """

    arm: str
    steps: int
    rates: tuple[float, ...]
    losses: tuple[float | None, ...]
    best: float

    @property
    def warning(self) -> str:
        """The reason why a better rate may lie outside the grid; empty if the best is inside."""
        if all(loss is None for loss in self.losses):
            return f"{self.arm} (all of them diverged)"
        if self.best not in (self.rates[0], self.rates[-1]):
            return ""
        where = "lowest" if self.best == self.rates[0] else "highest"
        return f"{self.arm} ({self.best:g} is the {where})"


def trials_of(recipe: Recipe, directory: Path) -> list[list[Job]]:
    """The trials of each arm: one run for each of its `rates`, with the steps and the seed of `[compare.grid]`."""
    table = recipe.compare.grid
    try:
        shorter = replace(recipe, train=replace(recipe.train, steps=table.steps or recipe.train.steps))
    except TrainError as error:
        raise TrainError(f"compare.grid.steps = {table.steps}: train.{error}") from None
    tried = [[replace(arm, name=_trial(arm, rate), lr=rate, rates=()) for rate in arm.rates] for arm in recipe.arms]
    labels = [trial.label for trials in tried for trial in trials]
    places = dict(zip(labels, folder_names(labels), strict=True))
    seed, grid = table.seed, directory / GRID_FOLDER
    return [
        [Job(shorter, trial, seed, grid / f"{places[trial.label]}-seed{seed}") for trial in trials] for trials in tried
    ]


def _trial(arm: OptimizerTable, rate: float) -> str:
    """The name of a trial, with six digits of its rate, or with all if two rates of the arm share these six."""
    short = [f"{other:g}" for other in arm.rates]
    return f"{arm.label} at {rate:g}" if len(set(short)) == len(short) else f"{arm.label} at {rate!r}"


def best_rate(arm: OptimizerTable, steps: int, trials: Sequence[Outcome]) -> tuple[OptimizerTable, Search | None]:
    """The arm with the best of its rates, and its grid; without trials the arm as it is, and None."""
    if not trials:
        return arm, None
    losses = tuple(trial.final for trial in trials)
    values = [math.inf if loss is None else loss for loss in losses]
    best = arm.rates[values.index(min(values))]
    return replace(arm, lr=best, rates=()), Search(arm.label, steps, arm.rates, losses, best)


def edge_warnings(searches: Sequence[Search]) -> str:
    """The warnings of all grids in one sentence; empty if there are none."""
    found = [search.warning for search in searches if search.warning]
    return f"At the edge of the grid, so that a better rate may lie outside: {', '.join(found)}." if found else ""
