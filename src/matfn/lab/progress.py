"""Watching runs: a live table of bars on a terminal, a few plain lines in a log file."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from matfn.lab.train import Trainer

PLAIN_EVERY = 10.0  # seconds between two plain lines of one run


class Progressing:
    """A `Watcher` and context manager: loss, tokens/s and time left of every run, and of all together."""

    def __init__(self, console: Console, total_steps: int) -> None:
        """Args: where to print (a terminal gets bars, all else lines), the steps of all runs together."""
        self._console, self._total, self._done = console, total_steps, 0
        self._start, self._printed = time.monotonic(), {}
        self._tasks: dict[tuple[str, int], TaskID] = {}
        # The width left over goes to the bar; every other column keeps its width, so that nothing jumps.
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
            TextColumn("[cyan]{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._all: TaskID | None = None

    def __enter__(self) -> Progressing:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def resumed(self, steps: int) -> None:
        """Count steps that an earlier session already did."""
        self._total -= steps

    def stepped(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Show a step."""
        self._done += 1
        rate = trainer.tokens_per_step / line["seconds"]
        note = f"loss {line['loss']:6.4f}  {self._validation(trainer)}  {rate / 1e3:6.1f}k tok/s"
        if self._console.is_terminal:
            task = self._task(trainer)
            self._bars.update(task, completed=trainer.step, note=note)
            if self._all is not None:
                self._bars.update(self._all, completed=self._done, note=f"{self._left()} left")
            return
        now, key = time.monotonic(), self._key(trainer)
        if now - self._printed.get(key, -PLAIN_EVERY) >= PLAIN_EVERY or trainer.step == trainer.recipe.train.steps:
            self._printed[key] = now
            steps = f"{trainer.step:>6}/{trainer.recipe.train.steps}"
            self._console.print(
                f"{self._name(trainer):<24}{steps}  {note}  {self._left()} left", highlight=False, soft_wrap=True
            )

    def evaluated(self, trainer: Trainer, line: dict[str, float]) -> None:
        """The next step shows the new validation loss; the last one is shown at once."""
        if self._console.is_terminal:
            note = f"loss {trainer.history[-2]['loss']:6.4f}  {self._validation(trainer)}"
            self._bars.update(self._task(trainer), note=note)

    def _task(self, trainer: Trainer) -> TaskID:
        key = self._key(trainer)
        if key not in self._tasks:
            if len(self._tasks) == 1 and self._all is None:
                self._all = self._bars.add_task("together", total=self._total, note="")
            self._tasks[key] = self._bars.add_task(self._name(trainer), total=trainer.recipe.train.steps, note="")
        return self._tasks[key]

    @staticmethod
    def _key(trainer: Trainer) -> tuple[str, int]:
        return trainer.table.label, trainer.seed

    @staticmethod
    def _name(trainer: Trainer) -> str:
        return f"{trainer.table.label}, seed {trainer.seed}"

    @staticmethod
    def _validation(trainer: Trainer) -> str:
        values = [line["val_loss"] for line in trainer.history if "val_loss" in line]
        return f"val {values[-1]:6.4f}" if values else "val   -   "

    def _left(self) -> str:
        seconds = (time.monotonic() - self._start) / self._done * max(0, self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
