"""The terminal: tables, a width for pipes, and a user's mistake in one line with status 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from matfn.train import TrainError

__all__ = ["grid", "safe", "screen", "user_errors"]

F = TypeVar("F", bound=Callable[..., None])


def user_errors(command: F) -> F:
    """Show a user's mistake, or an error of the system such as a full disk, in one line and exit with status 2.

    Any other exception keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:  # `matfn ... | head` is no mistake; typer ends quietly
            raise
        except (TrainError, OSError) as error:
            text = str(error)
            if isinstance(error, OSError) and error.filename is not None:
                text = f"{error.filename}: {error.strerror}"
            Console(stderr=True).print(f"[bold red]error:[/] {safe(text)}", highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


def safe(text: str) -> str:
    """Escape square brackets, which rich takes for markup."""
    return text.replace("[", r"\[")


def screen(*, stderr: bool = False) -> Console:
    """The terminal in its own width; a file or a pipe gets 110 columns in place of rich's 80."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=110)


def grid(*heads: str, right: tuple[int, ...] = (0, 1, 3)) -> Table:
    """An empty table without lines; the columns `right` are for numbers."""
    shown = Table(box=None, padding=(0, 3, 0, 0), header_style="bold", pad_edge=False)
    for index, head in enumerate(heads):
        shown.add_column(head, justify="right" if index in right else "left", overflow="fold")
    return shown
