"""Write files whole or not at all, even if the process or the machine stops."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["whole", "write_text"]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write to. It is put on disk and moved to `path` at the end. After an error `path` is unchanged.

    The unfinished file has a new name in the same folder: an existing file or link of that name is never written to.

    Raises:
        OSError: The file cannot be written, as on a full disk.
    """
    partial = path.with_name(f"{path.name[:50]}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    with whole(path) as file:
        file.write(text.encode())


def _sync_folder(path: Path) -> None:
    """Put the new name of a renamed file on disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
