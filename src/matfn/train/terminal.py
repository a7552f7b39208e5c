"""The terminal: tables, a width for pipes, and errors in one line with an exit status."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from matfn.train import TrainError, processes
from matfn.train.settings import brief

__all__ = ["Out", "grid", "guarded", "launch", "one_line", "path_of", "safe", "screen", "shape_of", "user_errors"]

F = TypeVar("F", bound=Callable[..., None])
LONGEST = 1500  # characters of an error


def user_errors(command: F) -> F:
    """Show an error in one line and exit with its status: 2 for a user's mistake and for errors of the system.

    An error that nobody foresaw is shown in one line too, with status 1 and how to see its traceback.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:  # `matfn ... | head` is no mistake; typer ends quietly
            raise
        except Exception as error:
            if isinstance(error, _CONTROL) or os.environ.get("MATFN_TRACEBACK"):
                raise
            text, status = _told(error)
            with processes.speaker() as chosen:
                if chosen:
                    Screen(stderr=True).print(f"[bold red]error:[/] {safe(text)}", highlight=False, soft_wrap=True)
            processes.end(status)
            raise typer.Exit(status) from None

    return wrapped  # type: ignore[return-value]


_EXTRA = ("matplotlib", "rich", "tokenizers", "transformers", "typer")  # packages of the extra "train"
_CONTROL = (typer.Exit, typer.Abort, typer.BadParameter)


def _told(error: Exception) -> tuple[str, int]:
    """The one line and the exit status of an error."""
    if isinstance(error, TrainError):
        return one_line(str(error)), error.status
    if processes.broken(error):
        return one_line(f"another process of this run has ended or is out of reach; go on with --resume ({error})"), 2
    if isinstance(error, OSError):
        where = "the output" if error.filename is None else error.filename
        return one_line(f"{where}: {error.strerror or error}"), 2
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("matfn"):
        name = '"matfn[train]"' if str(error.name).split(".")[0] in _EXTRA else error.name
        return one_line(f"this needs {error.name}, which is not installed: pip install {name}"), 2
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
        return one_line(f"there is too little memory for this: {error or 'choose smaller sizes'}"), 2
    told = f"{type(error).__name__}: {error}"
    return f"{one_line(told)} - a fault of matfn itself; MATFN_TRACEBACK=1 shows where, please report it", 1


def guarded(main: Callable[[], None]) -> None:
    """Run the `main` of a script that is no typer command, with the errors of `user_errors`."""
    try:
        user_errors(main)()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def launch(app: typer.Typer) -> None:
    """Run a command line whose output can be written in any encoding: unknown letters become question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()


def one_line(text: str) -> str:
    """A text without line breaks and control characters, of at most `LONGEST` characters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 4]} ..."


def safe(text: str) -> str:
    """Escape square brackets, which rich takes for markup, and replace what a terminal cannot print."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text).replace("[", r"\[")


def path_of(text: str) -> Path:
    """The path that an option or argument names.

    Raises:
        typer.BadParameter: It is empty, or no path.
    """
    if not text.strip():
        raise typer.BadParameter("the path is empty; '.' is the present folder")
    if "\0" in text:
        raise typer.BadParameter(f"{text[:40]!r} holds a NUL character, which no path does")
    return Path(text)


def shape_of(text: str, option: str) -> tuple[int, int]:
    """Rows and columns of a matrix from a text such as "768x3072".

    Raises:
        TrainError: It is no such text, or a side is not in [1, 10^9].
    """
    sides = [side.strip() for side in text.lower().split("x")]
    good = len(sides) == 2 and all(re.fullmatch("[0-9]{1,10}", side) and 1 <= int(side) <= 10**9 for side in sides)
    if not good:
        raise TrainError(f"{option} is rows x columns, such as 768x3072, each from 1 to 10^9; got {brief(text)}")
    return int(sides[0]), int(sides[1])


Out = Annotated[
    Path | None, typer.Option("--out", help="Folder to write to; a dated one under runs/ by default.", parser=path_of)
]


class Screen(Console):
    """A console that falls silent when its pipe is closed. Rich's own would end the process before a run can save."""

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on."""
        self.quiet = True
        stream = sys.stderr if self.stderr else sys.stdout
        with contextlib.suppress(OSError, ValueError):  # a stream that a test put in place has no file number
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def screen(*, stderr: bool = False) -> Console:
    """The terminal in its own width; a file or a pipe gets 110 columns in place of rich's 80."""
    console = Screen(stderr=stderr)
    return console if console.is_terminal else Screen(stderr=stderr, width=110)


def grid(*heads: str, right: tuple[int, ...] = (0, 1, 3)) -> Table:
    """An empty table without lines; the columns `right` are for numbers."""
    shown = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", pad_edge=False)
    for index, head in enumerate(heads):
        shown.add_column(head, justify="right" if index in right else "left", overflow="fold")
    return shown
