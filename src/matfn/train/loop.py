"""The training loop: one model, one optimizer, one seed, resumable to the identical loss curve."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matfn.train import checkpoint
from matfn.train.errors import TrainError
from matfn.train.optimizers import make_optimizers
from matfn.train.recipe import OptimizerTable, Recipe, to_table
from matfn.train.settings import plain
from matfn.train.task import Task, tokens_per_step
from matfn.train.telemetry import Telemetries

METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.pt"


class Diverged(TrainError):
    """The loss is not finite. The optimizer has not been stepped with it."""


class Watcher(Protocol):
    """Who wants to see the progress of runs: a progress bar, plain lines, or nobody."""

    def stepped(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Called after each step with its line of the metrics."""

    def evaluated(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Called after each evaluation with its line of the metrics."""


class Trainer:
    """A run in its folder: `metrics.jsonl`, `checkpoint.pt`. Runs in one process have each their own random state."""

    def __init__(self, recipe: Recipe, table: OptimizerTable, task: Task, *, seed: int, directory: Path) -> None:
        """Build everything at step 0, or at the folder's checkpoint where it holds one.

        Args:
            recipe: Model, data and loop.
            table: The optimizer of this run.
            task: What is learned, from data already split.
            seed: Decides the weights and the order of the batches.
            directory: The run's folder, made here. A checkpoint in it is resumed.

        Raises:
            TrainError: The device is missing, or the checkpoint is damaged or belongs to another recipe, seed or data.
        """
        self.recipe, self.table, self.task, self.seed, self.directory = recipe, table, task, seed, directory
        train = recipe.train
        self.device = pick_device(train.device)
        self.model = task.model(seed).to(self.device)
        self.optimizers = make_optimizers(table, self.model, train)
        self.batches = task.batches(seed)
        self.step, self.history = 0, []
        self._rng = [
            torch.Generator(kind).manual_seed(seed).get_state() for kind in dict.fromkeys(("cpu", self.device.type))
        ]
        # Checkpoints hold the plain model: a compiled model prefixes every name.
        self._forward = torch.compile(self.model) if train.compile else self.model
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / CHECKPOINT).exists():
            self._restore(checkpoint.load(directory / CHECKPOINT))
        self.metrics = checkpoint.Metrics(directory / METRICS, keep_to=self.step)
        self.history = checkpoint.read_metrics(directory / METRICS)
        members = self.optimizers.members
        self.telemetry = Telemetries(recipe.telemetry, members, self.model, directory, step=self.step)

    @property
    def tokens_per_step(self) -> int:
        """Tokens between two optimizer steps."""
        return tokens_per_step(self.recipe)

    def advance(self, until: int, watcher: Watcher, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Train to step `until`, evaluating and checkpointing on the way; return early where `stop()` says so.

        Raises:
            Diverged: The loss became infinite or NaN; the metrics say at which step.
        """
        train = self.recipe.train
        with self._own_randomness():
            while self.step < min(until, train.steps) and not stop():
                watcher.stepped(self, self._record(**self._one_step()))
                if self.step % train.eval_every == 0 or self.step == train.steps:
                    elapsed = sum(line.get("seconds", 0.0) for line in self.history)
                    watcher.evaluated(self, self._record(step=self.step, **self.evaluate(), elapsed=elapsed))
                if train.checkpoint_every and self.step % train.checkpoint_every == 0:
                    self._rng = self._rng_now()
                    self.save()

    def evaluate(self) -> dict[str, float]:
        """The mean loss over all validation windows, as "val_loss", in nats."""
        inputs, targets = self.task.validation
        size, total = self.recipe.train.batch, 0.0
        self.model.eval()
        with torch.no_grad():
            for i in range(0, len(inputs), size):
                part = self._apply(self.task.loss, inputs[i : i + size], targets[i : i + size])
                total += float(part) * len(inputs[i : i + size])
        self.model.train()
        return {"val_loss": self._finite(total / len(inputs), "validation loss")}

    def save(self) -> None:
        """Write the checkpoint; the older one stays until this one is complete."""
        state = {
            **self._identity(),
            "step": self.step,
            "recipe": to_table(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "batches": self.batches.generator.get_state(),
            "rng": self._rng,
        }
        checkpoint.save(self.directory / CHECKPOINT, state)

    def _identity(self) -> dict[str, Any]:
        return {"optimizer": plain(self.table), "seed": self.seed, "data": self.task.facts["sha256"]}

    def _restore(self, state: dict[str, Any]) -> None:
        wanted = {**self._identity(), "recipe": to_table(self.recipe)}
        path = self.directory / CHECKPOINT
        for key, value in wanted.items():
            if key not in state:
                raise checkpoint.damaged(path)
            if state[key] != value:
                raise TrainError(
                    f"the checkpoint in {self.directory} has another {key} than this run, so its curve would break: "
                    "resume with what it was started with, or start in a new folder"
                )
        try:
            self.step, self._rng = state["step"], state["rng"]
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.batches.generator.set_state(state["batches"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise checkpoint.damaged(path) from error

    def _one_step(self) -> dict[str, float]:
        train, start, total = self.recipe.train, self._clock(), torch.zeros((), device=self.device)
        for _ in range(train.accumulate):
            value = self._apply(self.task.loss, *self.batches.draw()) / train.accumulate
            value.backward()
            total += value.detach()
        if train.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip)
        number = self._finite(float(total), "loss")
        middle, lr, measured = self._clock(), self.optimizers.lr(), self.telemetry.seconds
        self.optimizers.step()
        measured = self.telemetry.seconds - measured  # diagnostics are not the optimizer's time; they have a line of it
        end = self._clock() - measured
        self.optimizers.finish()
        self.step += 1
        line = {"step": self.step, "loss": number, "lr": lr, "seconds": end - start, "optimizer_seconds": end - middle}
        return {**line, "telemetry_seconds": measured} if measured else line

    def _apply(self, rule: Callable[..., Any], inputs: Tensor, targets: Tensor) -> Any:
        enabled = self.recipe.train.autocast == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            return rule(self._forward, inputs.to(self.device), targets.to(self.device))

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
        self.history.append(line)
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
    """The device a recipe names; "auto" is CUDA where there is one.

    Raises:
        TrainError: CUDA is asked for and absent.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TrainError('train.device = "cuda", but torch sees no CUDA device: use "auto" or "cpu"')
    return torch.device("cuda", torch.cuda.current_device())
