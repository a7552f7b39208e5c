"""Training runs on one device: a compiled model, bfloat16 products, times by CUDA events, one row for each run."""

from __future__ import annotations

import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, wait
from benchmarks.gpu_train_parts import record, rules
from benchmarks.gpu_train_parts.contenders import ARMS
from benchmarks.gpu_train_parts.rules import Run, Scale, Settings
from matfn.train.data import Batches, Corpus, validation_windows
from matfn.train.model import loss, make_model
from matfn.train.optimizers import Optimizers
from studies.tournament.arms import make

__all__ = ["Task", "grid", "large", "seeds", "speed", "train"]

EVALUATIONS = 8  # of a run with a curve; runs of the grid are evaluated at their end
SETTLED = 5  # steps before the medians of times begin: they compile, tune and capture
BROKEN = 1e3  # a loss above it has diverged

Value = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task(Place):
    """A place with what is trained there.

    Attributes:
        settings: Models and arms.
        corpus: The text.
        folder: The folder of results.
        call: Number of the call of the script, which tells the card of a row.
        parent: The process that began the part; when it is gone, no further run begins.
        compiled: Whether the model is compiled.
    """

    settings: Settings
    corpus: Corpus
    folder: Path
    call: int
    parent: int
    compiled: bool = True

    @property
    def autocast(self) -> torch.autocast:
        """The precision of the model's products."""
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)


def speed(place: Place) -> list[Case]:
    """One case: the runs of a part, until none is left or the seconds are gone."""
    return _cases("speed", place)


def grid(place: Place) -> list[Case]:
    """As `speed`."""
    return _cases("grid", place)


def seeds(place: Place) -> list[Case]:
    """As `speed`."""
    return _cases("seeds", place)


def large(place: Place) -> list[Case]:
    """As `speed`."""
    return _cases("large", place)


def _cases(part: str, place: Place) -> list[Case]:
    assert isinstance(place, Task)
    return [Case(part, partial(_work, part, place))]


def _work(part: str, task: Task, bench: Bench) -> Iterator[Row]:
    """Run after run, as the rules say. A row is on the disk before the next run begins."""
    trainer: Trainer | None = None
    while (run := rules.to_do(part, task.settings, record.read(task.folder))) is not None:
        trainer = trainer or Trainer(task, task.settings.large if part == "large" else task.settings.small)
        if trainer.seconds(run) > bench.left or os.getppid() != task.parent:
            yield {"note": f"no time left for {run.key}"}
            return
        facts = {"stage": run.stage, "arm": run.arm, "lr": run.lr, "seed": run.seed, "steps": run.steps}
        begun = time.perf_counter()
        try:
            yield from trainer.compile(bench)
            row = facts | bench.attempt(run.key, partial(train, run, trainer))
        except Skipped as why:
            row = facts | {"error": str(why)}
            trainer.clear()
        row |= {"call": task.call, "compiled": trainer.kind, "wall_seconds": time.perf_counter() - begun}
        record.append(task.folder, row)
        yield {key: row[key] for key in row if key not in ("val", "train")}


@dataclass
class Trainer:
    """The one model of a process. Each run copies its own first weights into it, so that it is compiled once.

    Attributes:
        task: Device, text and settings.
        scale: Sizes.
        kind: "compiled", "traced" without a GPU, "eager", or why compiling failed.
        pace: Seconds of a step of the last run, evaluations and first weights included; zero before.
    """

    task: Task
    scale: Scale
    kind: str = ""
    _value: Value | None = None
    pace: float = 0.0
    _windows: tuple[Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        corpus, scale, index = self.task.corpus, self.scale, torch.device(self.task.device).index
        if self.task.cuda and index is not None:
            torch.cuda.set_device(index)  # events and memory are those of the present device
        self.model = self.fresh(0).to(self.task.device)
        found = validation_windows(corpus, scale.context, scale.windows)
        self._windows = (found[0].to(self.task.device), found[1].to(self.task.device))

    def fresh(self, seed: int) -> torch.nn.Module:
        """The model with the first weights of a seed, on the CPU."""
        return make_model(self.scale.model, self.task.corpus.vocabulary, context=self.scale.context, seed=seed)

    def seconds(self, run: Run) -> float:
        """Seconds of a run, guessed by the last one of this process; zero for the first."""
        return self.pace * run.steps

    def compile(self, bench: Bench) -> Iterator[Row]:
        """Compile loss and model by one call; if that fails, a row says so, and the model runs eager."""
        if self._value is not None:
            return
        eager: Value = partial(loss, self.model)
        self._value, self.kind = eager, "eager"
        if not self.task.compiled:
            return
        begun = time.perf_counter()
        try:
            self._value = bench.attempt("torch.compile", partial(self._try, eager))
            self.kind = "compiled" if self.task.cuda else "traced"
            yield {"note": f"torch.compile took {time.perf_counter() - begun:.1f} s"}
        except Skipped as why:
            self.kind = f"eager: torch.compile failed: {why}"
            self.clear()
            yield {"note": self.kind}

    def _try(self, eager: Value) -> Value:
        def value(inputs: Tensor, targets: Tensor) -> Tensor:
            return eager(inputs, targets)

        # Without a GPU the compiler would write and build C++, which takes a minute: torch's tracing alone is tried.
        found = torch.compile(value, dynamic=False, backend="inductor" if self.task.cuda else "aot_eager")
        inputs, targets = self.to_device(Batches(self.task.corpus.train, self.scale.context, batch=self.scale.batch,
                                                 seed=0).draw())  # fmt: skip
        with self.task.autocast:
            first = found(inputs, targets)
        first.backward()
        self.model.zero_grad(set_to_none=True)
        wait(self.task)
        return found

    def to_device(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs and targets on the device; the copy from pinned memory does not hold up the host."""
        if not self.task.cuda:
            return pair
        inputs, targets = (x.pin_memory().to(self.task.device, non_blocking=True) for x in pair)
        return inputs, targets

    def clear(self) -> None:
        """Free the memory that the last run left."""
        self.model.zero_grad(set_to_none=True)
        if self.task.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def value(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, with a graph."""
        assert self._value is not None
        with self.task.autocast:
            return self._value(inputs, targets)

    @torch.no_grad()
    def validate(self) -> float:
        """Nats a token on the same windows for everybody, eager: a second graph would take longer to compile."""
        pieces = zip(*(x.split(self.scale.batch) for x in self._windows), strict=True)
        with self.task.autocast:
            found = [loss(self.model, x, y) * len(x) for x, y in pieces]
        return float(torch.stack(found).sum()) / len(self._windows[0])


class Clock:
    """Marks in the stream of the device: before the model's work, after it, and after the optimizer's step."""

    def __init__(self, place: Place) -> None:
        self._cuda, self._marks = place.cuda, []

    def mark(self) -> None:
        """Mark the present place."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def row(self) -> Row:
        """Median seconds of model, optimizer and step. The device must have finished."""
        marks = self._marks[3 * min(SETTLED, len(self._marks) // 6) :]
        between = (lambda a, b: a.elapsed_time(b) / 1e3) if self._cuda else (lambda a, b: b - a)
        steps = list(zip(marks[::3], marks[1::3], marks[2::3], strict=True))
        found = {"model_seconds": [between(a, b) for a, b, _ in steps]}
        found["optimizer_seconds"] = [between(b, c) for _, b, c in steps]
        found["step_seconds"] = [between(a, c) for a, _, c in steps]
        return {name: statistics.median(values) for name, values in found.items()}


def train(run: Run, trainer: Trainer) -> Row:
    """Train one run: the losses, the median times, and what was noticed."""
    task, scale = trainer.task, trainer.scale
    trainer.clear()
    trainer.model.load_state_dict(trainer.fresh(run.seed).state_dict())
    if task.cuda:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizers = make(ARMS[run.arm], trainer.model, run.lr, scale.train(run.steps))
        clock, val, losses = _steps(run, trainer, optimizers)
        said = sorted({str(w.message)[:160] for w in caught if issubclass(w.category, RuntimeWarning)})
    times = clock.row()
    trainer.pace = (time.perf_counter() - begun) / run.steps
    last = val[-1][1]
    return {
        "loss": last if last < BROKEN else None, "val": [(step, v if v < BROKEN else None) for step, v in val],
        "train": losses, **times, "tokens_per_second": scale.batch * scale.context / times["step_seconds"],
        **({"peak_bytes": torch.cuda.max_memory_allocated()} if task.cuda else {}),
        **({"warnings": said} if said else {}),
    }  # fmt: skip


def _steps(run: Run, trainer: Trainer, optimizers: Optimizers) -> tuple[Clock, list[tuple[int, float]], list[Any]]:
    """All steps of a run. The host reads losses at evaluations alone, so the device never waits for it in between."""
    task, scale = trainer.task, trainer.scale
    batches = Batches(task.corpus.train, scale.context, batch=scale.batch, seed=run.seed)
    every = max(1, run.steps // EVALUATIONS) if run.stage in ("seeds", "large") else run.steps
    clock, val, losses = Clock(task), [], []
    for step in range(1, run.steps + 1):
        clock.mark()
        pair = trainer.to_device(batches.draw())
        value = trainer.value(*pair)
        value.backward()
        clock.mark()
        optimizers.step()
        optimizers.finish()
        clock.mark()
        losses.append(value.detach())
        if step % every == 0 or step == run.steps:
            val.append((step, trainer.validate()))
            if not val[-1][1] < BROKEN:
                break
    wait(task)
    return clock, val, torch.stack(losses)[:: max(1, run.steps // 50)].tolist()
