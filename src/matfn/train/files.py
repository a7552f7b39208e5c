"""Files that are whole or absent, folders that one process writes to at a time, and reads that cannot wait for ever."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from matfn.pages import files
from matfn.train import TrainError

LOCK = ".lock"
_PARTIAL = re.compile(r"\.\d+\.partial$")  # the end of the names that `whole` gives to unfinished files


def dated(name: str) -> Path:
    """A new folder for results, not yet made: `runs/NAME/` and the present time, and a number if that exists."""
    first = Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H%M%S")
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_name(f"{first.name}-{number}")
    return path


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Make a folder for results before the work, so that a bad path costs no time; remove it again if it stays empty.

    While the folder is in use it is locked against other processes. The system drops the lock of a process that dies.
    Unfinished files of a process that was killed are removed.

    Raises:
        TrainError: The folder cannot be made or written to, or another process writes to it.
    """
    try:
        made = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise TrainError(f"cannot make the folder {str(path)!r}: {reason}; choose another with --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise TrainError(f"cannot write to the folder {str(path)!r}: permission denied; choose another with --out")
    with _locked(path):
        _remove_unfinished(path)
        try:
            yield path
        finally:
            if [entry.name for entry in path.iterdir()] == [LOCK]:
                (path / LOCK).unlink()
            with contextlib.suppress(OSError):  # the first folder with content ends the loop
                for place in made:
                    place.rmdir()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainError(
            f"another process writes to {str(path)!r}: wait until it ends, or choose another folder with --out"
        ) from None
    except NotImplementedError:
        warnings.warn(f"{str(path)!r} is on a file system without locks: start no second run in it", stacklevel=2)
        yield
        return
    except OSError as error:
        raise TrainError(f"cannot lock the folder {str(path)!r}: {error.strerror}; choose another with --out") from None
    try:
        yield
    finally:
        lock.release()


def _remove_unfinished(path: Path) -> None:
    """Remove what `whole` left in a folder of runs when its process was killed."""
    for pattern in ("*.partial", "*/*.partial", "*/*/*.partial"):
        for file in path.glob(pattern):
            if _PARTIAL.search(file.name):
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, on disk and moved to `path` at the end. After an error `path` is unchanged.

    The unfinished file has a new name in the same folder: an existing file or link of that name is never written to.

    Raises:
        TrainError: The file cannot be written, as on a full disk.
    """
    try:
        with files.whole(path) as file:
            yield file
    except OSError as error:
        raise unwritten(path, error) from None


def unwritten(path: Path, error: OSError, kept: str = "the older one is unchanged; ") -> TrainError:
    """The error for a file that the system does not let us write; `kept` says what is left of an existing file."""
    kept = kept if path.exists() else ""
    return TrainError(
        f"cannot write {path}: {error.strerror or error}; {kept}make room on the disk, or choose another place"
    )


def replace_text(path: Path, text: str) -> None:
    """Write a text file, whole even after a crash."""
    with whole(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A regular file to read.

    Anything else is refused: reading a pipe would wait for a writer, and a device may never end.

    Raises:
        OSError: The file is missing or cannot be read.
        TrainError: It is no regular file, or it has more than `most` bytes.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe or a device"
            raise TrainError(f"{path} is {kind}; give a regular file")
        if most is not None and facts.st_size > most:
            raise TrainError(f"{path} has {facts.st_size} bytes, wanted at most {most}: is it another file?")
        with open(handle, "rb", closefd=False) as file:
            yield file
    except OSError as error:  # a failed read does not know its file
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(handle)


def read(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file; see `opened`."""
    with opened(path, most) as file:
        return file.read()
