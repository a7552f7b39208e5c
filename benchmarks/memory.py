"""The memory that a piece of work adds: every allocation on the CPU, including torch's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.autograd import profiler

__all__ = ["peak_bytes"]


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes held at once, beyond those held before, while `work` runs on the CPU.

    The profiler of torch reports each block that its allocator gives out and takes back; their running sum is what is
    held. What `work` leaves behind counts, what it frees of before is taken off.
    """
    seen: Any = profiler.profile(use_cpu=True, profile_memory=True)  # torch does not say what its results hold
    with _quiet(), seen:
        work()
    every = seen.kineto_results.events()
    events = [(event.start_ns(), event.nbytes()) for event in every if event.name() == "[memory]"]
    held = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        held += change
        most = max(most, held)
    return most


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard error: some builds of torch write two lines there for every profile."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
