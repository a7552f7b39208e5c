"""Watching runs: bars on a terminal, plain lines in a log file; and Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from matfn.train.loop import Trainer

PLAIN_EVERY = 10.0  # seconds between two plain lines of one run


class Progressing:
    """A `Watcher` and context manager: loss, tokens/s and time left of every run, and of all together."""

    def __init__(self, console: Console, total_steps: int, *, runs: int = 1) -> None:
        """Args: where to print (a terminal gets bars, all else lines), the steps of all runs together, their number."""
        self._console, self._total, self._done = console, total_steps, 0
        self._start, self._printed, self._notes = 0.0, {}, {}
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
        self._all = self._bars.add_task("together", total=total_steps, note="") if runs > 1 else None

    def __enter__(self) -> Progressing:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def stepped(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Show a step."""
        task, key, now = self._task(trainer), self._key(trainer), time.monotonic()
        if not self._done:  # reading the text and building the models is no measure of a step
            self._start = now - line["seconds"]
        self._done += 1
        rate = f"{trainer.tokens_per_step / line['seconds'] / 1e3:6.1f}k {trainer.task.unit}s/s"
        self._notes[key] = f"loss {line['loss']:6.4f}", rate
        self._show(trainer, task)
        if now - self._printed.get(key, -PLAIN_EVERY) >= PLAIN_EVERY and trainer.step < trainer.recipe.train.steps:
            self._printed[key] = now
            self._line(trainer)

    def evaluated(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Show the new validation loss; a finished run always has a plain line."""
        self._show(trainer, self._task(trainer))
        if trainer.step == trainer.recipe.train.steps:
            self._line(trainer)

    def _show(self, trainer: Trainer, task: TaskID) -> None:
        alone = "" if self._all is not None else f"  {self._left()} left"
        self._bars.update(task, completed=trainer.step, note=self._note(trainer) + alone)
        if self._all is not None:
            self._bars.update(self._all, total=self._total, completed=self._done, note=f"{self._left()} left")

    def _line(self, trainer: Trainer) -> None:
        if not self._console.is_terminal:
            steps = f"{trainer.step:>6}/{trainer.recipe.train.steps}"
            text = f"{self._name(trainer):<24}{steps}  {self._note(trainer)}  {self._left()} left"
            self._console.print(text, highlight=False, soft_wrap=True)

    def _note(self, trainer: Trainer) -> str:
        values = [line["val_loss"] for line in trainer.history if "val_loss" in line]
        loss, rate = self._notes[self._key(trainer)]
        return f"{loss}  val {values[-1]:6.4f}  {rate}" if values else f"{loss}  val   -     {rate}"

    def _task(self, trainer: Trainer) -> TaskID:
        key = self._key(trainer)
        if key not in self._tasks:
            self._total -= trainer.step - 1  # steps of an earlier session are not to be done again
            self._tasks[key] = self._bars.add_task(self._name(trainer), total=trainer.recipe.train.steps, note="")
        return self._tasks[key]

    @staticmethod
    def _key(trainer: Trainer) -> tuple[str, int]:
        return trainer.table.label, trainer.seed

    @staticmethod
    def _name(trainer: Trainer) -> str:
        return f"{trainer.table.label}, seed {trainer.seed}"

    def _left(self) -> str:
        seconds = (time.monotonic() - self._start) / self._done * max(0, self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Interrupt:
    """A context manager; `wanted` becomes true at the first SIGINT. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        """Nothing is installed until the context is entered."""
        self.wanted = False
        self._previous = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
