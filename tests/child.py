"""Child processes of tests: none waits for input, and none outlives its time, nor what it started."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

LIMIT = 240.0  # seconds, below the limit of a test in pyproject.toml: the test that fails says which command hung


@contextlib.contextmanager
def child(line: Sequence[str] | str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with its own process group, which is killed at the end, whatever happens."""
    process = subprocess.Popen(line, start_new_session=True, **{"stdin": subprocess.DEVNULL, "text": True, **options})
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def completed(line: Sequence[str] | str, **options: Any) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with the output captured as text if no option says otherwise, and a limit on its time."""
    with child(line, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}) as process:
        output, errors = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(line, process.returncode, output, errors)
