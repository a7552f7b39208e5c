"""Cache: finished compositions on disk, safe against concurrent processes, damaged files and unwritable directories."""

import hashlib
import json
import os
import stat
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from .request import GridRequest, Request, Row
from .verify import rows_from, trusted

__all__ = ["cached_rows", "directory", "read_small", "write_whole"]

# Part of every key. Raise it when compose() or tabulate() changes, so that old files are ignored.
_VERSION = 3
_MOST = 4 * 2**20  # bytes, ten times the size of a table of a thousand rows


def directory() -> Path | None:
    """Return $MATFN_CACHE_DIR, else $XDG_CACHE_HOME/matfn, else ~/.cache/matfn; None if there is no home directory."""
    if named := os.environ.get("MATFN_CACHE_DIR"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path("~/.cache").expanduser()) / "matfn"
    except RuntimeError:  # the system does not know the user, as in many containers
        return None


@lru_cache(maxsize=256)
def cached_rows(request: Request | GridRequest) -> tuple[Row, ...]:
    """Return the rows of `compose(request)` or `tabulate(request)`, from memory, from disk, or computed and stored.

    A file is replaced if it is damaged or of another version, or if its rows are not the best polynomials of the
    request (`verify.trusted`). If the directory cannot be written, the next process computes the rows again.
    """
    key = json.loads(_canonical({"version": _VERSION, "kind": type(request).__name__, **asdict(request)}))
    if (folder := directory()) is None:
        return _computed(request)
    path = folder / f"minimax-{hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]}.json"
    rows = _read(path, key, request)
    if rows is None:
        rows = _computed(request)
        _write(path, key, rows)
    return rows


def _computed(request: Request | GridRequest) -> tuple[Row, ...]:
    from . import composition  # late: it imports mpmath

    if isinstance(request, GridRequest):
        return composition.tabulate(request)
    return composition.compose(request)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _read(path: Path, key: dict[str, Any], request: Request | GridRequest) -> tuple[Row, ...] | None:
    try:
        content = json.loads(read_small(path))
        body = content["body"]
        if content["sha256"] != hashlib.sha256(_canonical(body).encode()).hexdigest() or body["key"] != key:
            return None
        rows = rows_from(body["rows"])
        return rows if trusted(request, rows) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _write(path: Path, key: dict[str, Any], rows: tuple[Row, ...]) -> None:
    body = {"key": key, "rows": [{"q": r.coefficients, "interval": r.interval, "converged": r.converged} for r in rows]}
    # json writes enough digits to read the same double back.
    text = json.dumps({"sha256": hashlib.sha256(_canonical(body).encode()).hexdigest(), "body": body}, indent=1)
    write_whole(path, text)


def read_small(path: Path) -> bytes:
    """Read a regular file of at most 4 MB. Reading a pipe would wait for a writer; reading a device may never end.

    Raises:
        OSError: If the file is larger, is no regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _MOST:
            raise OSError(f"{path} is no regular file of at most {_MOST} bytes")
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; a folder that cannot be written costs the next process a computation."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # atomic: another process sees the old file, the new file or no file
    except OSError:
        pass
    finally:
        Path(temporary).unlink(missing_ok=True)  # exists only if it was not renamed
