"""Timing on one device: events on CUDA, eager and as a replayed graph; a clock on a CPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """Where, and how large: `quick` is for trying the script, its times say nothing."""

    device: str
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """The size for this run."""
        return quick if self.quick else full

    @property
    def cuda(self) -> bool:
        """Whether there are events and graphs."""
        return self.device.startswith("cuda")


def wait(place: Place) -> None:
    if place.cuda:
        torch.cuda.synchronize()


def timed(work: Work, place: Place, *, graph: bool = True) -> dict[str, Any]:
    """Median and quartiles in seconds: of eager calls, and of replays of a CUDA graph of one call.

    Inputs are the same in every call, so what fits into the cache of the device is read from there. `graph` False is
    for work that waits for the host.
    """
    for _ in range(place.pick(3, 1)):
        work()
    row = _spread(_calls(work, place), "seconds")
    if not place.cuda or not graph:
        return row
    try:
        replay = captured(work)
    except Exception as error:  # what cannot be captured says why, and the eager time stands
        torch.cuda.synchronize()
        return row | {"graph_seconds": None, "graph_note": " ".join(str(error).split())[:200]}
    return row | _spread(_calls(replay, place), "graph_seconds")


def captured(work: Work) -> Work:
    """One call as a graph; warmed up on the stream it is captured on, as torch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _calls(work: Work, place: Place) -> list[float]:
    """Seconds of single calls: at least 5 and as many as fit into a tenth of a second, at most 50."""
    start = time.perf_counter()
    work()
    wait(place)
    once = time.perf_counter() - start
    count = place.pick(min(50, max(5, int(0.1 / max(once, 1e-6)))), 2)
    if not place.cuda:
        times = []
        for _ in range(count):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return times
    pairs = []
    for _ in range(count):  # read at the end: a wait between two calls would empty the queue
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        pairs.append((first, last))
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


def _spread(times: list[float], name: str) -> dict[str, Any]:
    ordered = sorted(times)
    at = [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.25, 0.5, 0.75)]
    return {name: at[1], f"{name}_quartiles": [at[0], at[2]], f"{name}_calls": len(times)}
