"""The training loop: one model, one optimizer, one seed, resumable to the identical loss curve."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matfn.optim import JsonLines, Telemetry, TensorBoard, plan
from matfn.train import TrainError, checkpoint, parallel, processes, restore
from matfn.train.data import Batches, Corpus, validation_windows
from matfn.train.metrics import Metrics, Unwritten, cut, verified
from matfn.train.model import loss, make_model
from matfn.train.optimizers import make_optimizers
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.settings import plain

METRICS, CHECKPOINT, TELEMETRY = "metrics.jsonl", "checkpoint.pt", "telemetry.jsonl"


class Diverged(TrainError):
    """The loss is infinite or NaN. The optimizer made no step with it."""


class Watcher(Protocol):
    """Shows the progress of runs: a progress bar, plain lines, or nothing."""

    def stepped(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Take the metrics of a step."""

    def evaluated(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Take the metrics of an evaluation."""


class Trainer:
    """One run and its folder of `metrics.jsonl` and `checkpoint.pt`. Each run in a process has its own random state."""

    def __init__(self, recipe: Recipe, table: OptimizerTable, corpus: Corpus, *, seed: int, directory: Path) -> None:
        """Start at step 0, or at the checkpoint in the folder, which is created if missing.

        The seed determines the weights and the order of the batches.

        Raises:
            TrainError: The device is missing, the processes have different texts or do not fit the recipe, or the
                checkpoint is damaged or belongs to another recipe, seed or text.
        """
        self.recipe, self.table, self.corpus, self.seed, self.directory = recipe, table, corpus, seed, directory
        train, context = recipe.train, recipe.data.context
        self.device = pick_device(train.device)
        self.model = make_model(recipe.model, corpus.vocabulary, context=context, seed=seed).to(self.device)
        self._spread = parallel.spread(self.model, recipe, self.device)
        parallel.check_text(corpus)
        self.optimizers = make_optimizers(table, self._spread, train)
        self._part = parallel.data_part(recipe)
        self.batches = Batches(corpus.train, context, batch=train.batch, seed=seed, part=self._part)
        self._validation = validation_windows(corpus, context, train.eval_windows)
        self.step = 0
        self._rng = [
            torch.Generator(kind).manual_seed(seed).get_state() for kind in dict.fromkeys(("cpu", self.device.type))
        ]
        # Checkpoints hold the plain model: a compiled model prefixes every name.
        self._forward = torch.compile(self._spread) if train.compile else self._spread
        watched = self._watched() if recipe.telemetry.every else []  # a wrong name is told before anything is written
        saved = processes.from_first(self._found)
        start = self._restore(saved) if saved is not None else b""
        self.metrics = Metrics(directory / METRICS, start) if processes.first() else Unwritten(directory, start)
        self._saved = time.monotonic()
        self._telemetry = self._attach_telemetry(watched) if watched else []

    @property
    def history(self) -> list[dict[str, float]]:
        """The lines of the log."""
        return self.metrics.history

    @property
    def telemetry_seconds(self) -> float:
        """Time that telemetry has taken so far."""
        return sum(member.seconds for member in self._telemetry)

    def advance(self, until: int, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to step `until`, with evaluations and checkpoints; return early if `stop()` is true.

        Raises:
            Diverged: The loss is infinite or NaN; the metrics record the step.
            TrainError: A file cannot be written, or somebody else removed or changed the log.
        """
        train = self.recipe.train
        with self._own_randomness():
            while self.step < min(until, train.steps) and not stop():
                watcher.stepped(self, self._record(**self._one_step()))
                if self.step % train.eval_every == 0 or self.step == train.steps:
                    elapsed = sum(line.get("seconds", 0.0) for line in self.history)
                    watcher.evaluated(self, self._record(step=self.step, **self.evaluate(), elapsed=elapsed))
                if self._checkpoint_due():
                    self._rng = self._rng_now()
                    self.save()

    def _found(self) -> dict[str, Any] | None:
        """The checkpoint in the folder; None if there is none. The folder is made."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / CHECKPOINT
        return checkpoint.load(path) if path.exists() else None

    def _checkpoint_due(self) -> bool:
        every, minutes = self.recipe.train.checkpoint_every, self.recipe.train.checkpoint_minutes
        if every > 0 and self.step % every == 0:
            return True
        return minutes > 0 and processes.agreed(time.monotonic() - self._saved >= 60 * minutes) > 0

    def evaluate(self) -> dict[str, float]:
        """The mean loss over all validation windows in nats, as "val_loss"."""
        inputs, targets = self._validation
        size, total = self.recipe.train.batch, 0.0
        number, parts = self._part
        self.model.eval()
        with torch.no_grad():
            for i in range(0, len(inputs), size):
                windows = len(inputs[i : i + size])
                # Every process must call the model equally often: windows that cannot be divided go through each.
                own = slice(i + number, i + windows, parts) if windows % parts == 0 else slice(i, i + windows)
                total += float(self._loss(inputs[own], targets[own])) * windows
        self.model.train()
        total = float(processes.mean(torch.tensor(total, dtype=torch.float64)))
        return {"val_loss": self._finite(total / len(inputs), "validation loss")}

    def save(self) -> None:
        """Write the log and then the checkpoint to disk; the older checkpoint stays until the new one is complete.

        Raises:
            TrainError: They cannot be written, or somebody else removed or changed the log.
        """
        state = {
            **self._identity(),
            "recipe": plain(self.recipe),
            "optimizer": plain(self.table),
            "step": self.step,
            "metrics": self.metrics.sync(),
            "model": parallel.whole(self.model.state_dict()),
            "optimizers": parallel.whole(self.optimizers.state_dict()),
            "batches": self.batches.generator.get_state(),
            "rng": self._rng,
        }
        if processes.first():
            checkpoint.save(self.directory / CHECKPOINT, state)
        self._saved = time.monotonic()
        self.metrics.verify()

    def _identity(self) -> dict[str, Any]:
        """The values that a checkpoint and the run that resumes it must share, beside recipe and optimizer."""
        data, order = self.corpus.facts["sha256"], self.corpus.order
        return {"seed": self.seed, "data": data, "order": order}

    def _restore(self, state: dict[str, Any]) -> bytes:
        """Load a checkpoint, and return the lines of the log before it."""
        path, train = self.directory / CHECKPOINT, self.recipe.train
        restore.check_run(path, state, self.recipe, self.table, self._identity())
        self.step = restore.check_step(path, state, train.steps)
        self._rng = restore.check_states(path, state["rng"], self._rng, "its rng")
        log, record = self.directory / METRICS, state.get("metrics")
        start = processes.from_first(
            lambda: verified(log, record, until=self.step, eval_every=train.eval_every, steps=train.steps)
        )
        restore.load_model(path, state["model"], self.model)
        restore.load_optimizers(path, state["optimizers"], self.optimizers, self.step)
        generator = self.batches.generator
        [batches] = restore.check_states(path, [state["batches"]], [generator.get_state()], "its order of batches")
        generator.set_state(batches)
        return start

    def _one_step(self) -> dict[str, float]:
        train, start, total = self.recipe.train, self._clock(), torch.zeros((), device=self.device)
        for number in range(train.accumulate):
            with parallel.summed(self._spread, last=number == train.accumulate - 1):
                value = self._loss(*self.batches.draw()) / train.accumulate
                value.backward()
            total += value.detach()
        if train.clip:
            parallel.clip(self.model.parameters(), train.clip)
        number = self._finite(float(processes.mean(total)), "loss")
        middle, lr, before = self._clock(), self.optimizers.lr(), self.telemetry_seconds
        self.optimizers.step()
        measured = self.telemetry_seconds - before  # recorded apart: it is no part of the optimizer
        end = self._clock() - measured
        self.optimizers.finish()
        self.step += 1
        line = {"step": self.step, "loss": number, "lr": lr, "seconds": end - start, "optimizer_seconds": end - middle}
        return {**line, "telemetry_seconds": measured} if measured else line

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        enabled = self.recipe.train.autocast == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            return loss(self._forward, inputs.to(self.device), targets.to(self.device))

    def _watched(self) -> list[tuple[torch.optim.Optimizer, list[str]]]:
        """The optimizers that telemetry watches, each with the patterns of its parameters.

        Raises:
            TrainError: No parameter has such a name.
        """
        only, names = self.recipe.telemetry.only, {entry.parameter: entry.name for entry in plan(self.model)}
        found = []
        for optimizer in self.optimizers.members:
            own = [names[p] for group in optimizer.param_groups for p in group["params"] if p in names]
            found.append((optimizer, [pattern for pattern in only if any(fnmatchcase(name, pattern) for name in own)]))
        if not any(patterns for _, patterns in found):
            raise TrainError(f"telemetry.only = {list(only)} matches no parameter; known: {', '.join(names.values())}")
        return [(optimizer, patterns) for optimizer, patterns in found if patterns]

    def _attach_telemetry(self, watched: list[tuple[torch.optim.Optimizer, list[str]]]) -> list[Telemetry]:
        """Telemetry of the watched optimizers, written from the present step on."""
        table, path = self.recipe.telemetry, self.directory / TELEMETRY
        cut(path, self.step)
        sinks: list[Any] = [JsonLines(path)]
        if table.tensorboard:
            try:
                sinks.append(TensorBoard(self.directory / "tensorboard"))
            except ImportError as missing:
                raise TrainError(f"telemetry.tensorboard: {missing}") from missing
        names, attached = {entry.parameter: entry.name for entry in plan(self.model)}, []
        options = {"every": table.every, "exact": table.exact, "budget": table.budget, "names": names}
        for optimizer, only in watched:
            attached.append(Telemetry(optimizer, *sinks, only=only, **options))
            attached[-1].step = self.step
        return attached

    def _finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        self._record(step=self.step + 1, diverged=1)
        raise Diverged(
            f"{self.table.label}, seed {self.seed}: the {what} is {value} at step {self.step + 1}. "
            "Lower its lr, lengthen train.warmup, or set train.clip = 1.0"
        )

    def _record(self, **line: float) -> dict[str, float]:
        self.metrics.write(**line)
        return line

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _rng_now(self) -> list[Tensor]:
        return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else [])

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.set_rng_state(self._rng[0])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self._rng[1], self.device)
            try:
                yield
            finally:
                self._rng = self._rng_now()


def pick_device(name: str) -> torch.device:
    """The device that a recipe names; "auto" is CUDA if torch finds it, else the CPU.

    Raises:
        TrainError: The recipe asks for CUDA and there is none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TrainError('train.device = "cuda", but torch sees no CUDA device: use "auto" or "cpu"')
    return torch.device("cuda", torch.cuda.current_device())
