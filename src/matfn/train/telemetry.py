"""Telemetry of a training run: `[telemetry]` of the recipe, attached to all optimizers of the run, into its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from matfn.optim import TensorBoard, plan
from matfn.optim.telemetry.sinks import Record, lines
from matfn.optim.telemetry.telemetry import Telemetry
from matfn.train.checkpoint import Metrics
from matfn.train.errors import TrainError
from matfn.train.recipe import TelemetryTable

__all__ = ["TELEMETRY", "Telemetries"]

TELEMETRY = "telemetry.jsonl"


class Telemetries:
    """The telemetry of the optimizers that train one model together; nothing where the recipe has it off."""

    def __init__(
        self,
        table: TelemetryTable,
        optimizers: Sequence[torch.optim.Optimizer],
        model: nn.Module,
        directory: Path,
        *,
        step: int,
    ) -> None:
        """Attach to the optimizers.

        Args:
            table: How often, how exact, of what, where to.
            optimizers: All of a run.
            model: Whose parameters have the names.
            directory: The run's folder, for `telemetry.jsonl` and, if asked for, TensorBoard's events.
            step: The steps made so far; lines of later ones, from before an interruption, are dropped.

        Raises:
            TrainError: TensorBoard is asked for and not installed, or a pattern in `only` matches no matrix.
        """
        self._members: list[Telemetry] = []
        if not table.every:
            return
        names = {entry.parameter: entry.name for entry in plan(model)}
        sinks = _sinks(table, directory, step)
        for optimizer in optimizers:
            only = matching(table.only, optimizer, names)
            if only:
                options = {"every": table.every, "exact": table.exact, "budget": table.budget}
                self._members.append(Telemetry(optimizer, *sinks, only=only, names=names, **options))
                self._members[-1].step = step
        if not self._members:
            raise TrainError(
                f"telemetry.only = {list(table.only)} matches no parameter; known: {', '.join(names.values())}"
            )

    @property
    def seconds(self) -> float:
        """Spent so far, all optimizers together."""
        return sum(member.seconds for member in self._members)


def _sinks(table: TelemetryTable, directory: Path, step: int) -> list[Callable[[Record], object]]:
    """Where the records of a run go: its log, from `step` on, and TensorBoard if it is asked for."""
    metrics = Metrics(directory / TELEMETRY, keep_to=step)
    sinks: list[Callable[[Record], object]] = [lambda record: _write(metrics, record)]
    if table.tensorboard:
        try:
            sinks.append(TensorBoard(directory / "tensorboard"))
        except ImportError as missing:
            raise TrainError(f"telemetry.tensorboard: {missing}") from missing
    return sinks


def matching(only: Sequence[str], optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> list[str]:
    """The patterns that an optimizer has parameters for: a pattern may be meant for the other one."""
    own = [names[p] for group in optimizer.param_groups for p in group["params"] if p in names]
    return [pattern for pattern in only if any(fnmatchcase(name, pattern) for name in own)]


def _write(metrics: Metrics, record: Record) -> None:
    for line in lines(record):
        metrics.write(**line)
