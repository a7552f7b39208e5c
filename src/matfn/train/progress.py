"""Progress of runs: bars on a terminal, plain lines in a file; and signals, heard between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

try:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn
except ImportError as missing:
    raise ImportError(f'matfn.train.progress needs {missing.name}: pip install "matfn[train]"') from None

from matfn.train import processes
from matfn.train.loop import Trainer

PLAIN_EVERY = 10.0  # seconds between two plain lines of one run


class Progressing:
    """A `Watcher` and context manager that shows loss, tokens/s and time left."""

    def __init__(self, console: Console, total_steps: int, *, runs: int = 1) -> None:
        """Args: the terminal (bars) or file (lines), the steps of all runs together, and the number of runs."""
        self._console, self._total, self._done = console, total_steps, 0
        self._start, self._printed, self._notes = 0.0, {}, {}
        self._tasks: dict[str, TaskID] = {}
        # Only the bar's width varies: the columns stay in place.
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

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stepped(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Show a step."""
        name, now = self._name(trainer), time.monotonic()
        if not self._done:  # the clock starts here: reading the text and building the models is no step
            self._start = now - line["seconds"]
        self._done += 1
        rate = f"{trainer.recipe.tokens_per_step / line['seconds'] / 1e3:6.1f}k {trainer.corpus.unit}s/s"
        self._notes[name] = f"loss {line['loss']:6.4f}", rate
        self._show(trainer)
        if now - self._printed.get(name, -PLAIN_EVERY) >= PLAIN_EVERY and trainer.step < trainer.recipe.train.steps:
            self._printed[name] = now
            self._line(trainer)

    def evaluated(self, trainer: Trainer, line: dict[str, float]) -> None:
        """Show the new validation loss. A finished run always prints a plain line."""
        self._show(trainer)
        if trainer.step == trainer.recipe.train.steps:
            self._line(trainer)

    def _show(self, trainer: Trainer) -> None:
        name = self._name(trainer)
        if name not in self._tasks:
            self._total -= trainer.step - 1  # a resumed run has made these steps before
            self._tasks[name] = self._bars.add_task(name, total=trainer.recipe.train.steps, note="")
        alone = "" if self._all is not None else f"  {self._left()} left"
        self._bars.update(self._tasks[name], completed=trainer.step, note=self._note(trainer) + alone)
        if self._all is not None:
            self._bars.update(self._all, total=self._total, completed=self._done, note=f"{self._left()} left")

    def _line(self, trainer: Trainer) -> None:
        if not self._console.is_terminal:
            steps = f"{trainer.step:>6}/{trainer.recipe.train.steps}"
            text = f"{self._name(trainer):<24}{steps}  {self._note(trainer)}  {self._left()} left"
            try:
                self._console.print(text, highlight=False, soft_wrap=True)
            except OSError:  # a full disk: the run goes on without progress, up to its checkpoint
                self._console = Console(quiet=True)

    def _note(self, trainer: Trainer) -> str:
        values = [line["val_loss"] for line in trainer.history if "val_loss" in line]
        loss, rate = self._notes[self._name(trainer)]
        return f"{loss}  val {values[-1]:6.4f}  {rate}" if values else f"{loss}  val   -     {rate}"

    @staticmethod
    def _name(trainer: Trainer) -> str:
        return f"{trainer.table.label}, seed {trainer.seed}"

    def _left(self) -> str:
        seconds = (time.monotonic() - self._start) / self._done * max(0, self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Interrupt(threading.Event):
    """An event that a signal sets.

    Attributes:
        number: The signal that set it; SIGINT before any signal.
    """

    number: int = signal.SIGINT


def everywhere(signalled: Interrupt) -> Callable[[], bool]:
    """Asks whether any process of the run heard a signal. All processes must ask equally often, between two steps."""

    def stop() -> bool:
        number = processes.agreed(signalled.number if signalled.is_set() else 0)
        if number:
            signalled.number = number
            signalled.set()
        return number > 0

    return stop


@contextlib.contextmanager
def interrupt() -> Iterator[Interrupt]:
    """An event that the first Ctrl-C, SIGTERM, SIGHUP or closed pipe sets; a second signal raises KeyboardInterrupt.

    Only the main thread can catch signals. A signal that the process was told to ignore, as by nohup, stays ignored.
    SIGPIPE, from the closed pipe of `matfn train ... | head`, is the exception, because Python itself ignores it.
    """
    wanted, pipe = Interrupt(), getattr(signal, "SIGPIPE", None)

    def handle(number: int, frame: FrameType | None) -> None:
        if wanted.is_set() and number != pipe:
            raise KeyboardInterrupt
        wanted.number = number
        wanted.set()

    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    kinds = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE") if hasattr(signal, name)]
    caught = [kind for kind in kinds if signal.getsignal(kind) != signal.SIG_IGN or kind == pipe]
    previous = [signal.signal(kind, handle) for kind in caught]
    try:
        yield wanted
    finally:
        for kind, before in zip(caught, previous, strict=True):
            signal.signal(kind, before)
