"""Times on a device: contenders in turns, by CUDA events, with medians and quartiles; captures of CUDA graphs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

__all__ = ["Place", "Times", "Work", "captured", "in_turns", "wait", "wrong_device"]

T = TypeVar("T")
Work = Callable[[], Any]
_SAMPLE = 2e-3  # seconds of a sample at least: the events of a shorter one would weigh in it
_MOST = 20  # calls of a sample


@dataclass(frozen=True)
class Place:
    """The device and the sizes; `quick` only tries the script, its times mean nothing."""

    device: str
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """The size for this run."""
        return quick if self.quick else full

    @property
    def cuda(self) -> bool:
        """Whether the device has events and graphs."""
        return self.device.startswith("cuda")


def wrong_device(name: str) -> str | None:
    """What is wrong with the name that --device gives, and what is wanted; None if it can be used."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    return None if kind in ("cpu", "cuda") else f"--device must be cpu, cuda or one GPU such as cuda:1, got {name!r}"


@dataclass(frozen=True)
class Times:
    """Samples of one contender, in seconds of one call, round by round."""

    samples: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.samples)

    def row(self, name: str) -> dict[str, Any]:
        """The entries `name`, with its quartiles, and the number of calls."""
        return {name: self.median, f"{name}_quartiles": _quartiles(self.samples), f"{name}_calls": self.calls}

    def ratio(self, other: Times) -> dict[str, Any]:
        """How many times as long `other` takes, round by round: median and quartiles."""
        found = [b / a for a, b in zip(self.samples, other.samples, strict=True)]
        return {"speed": statistics.median(found), "speed_quartiles": _quartiles(found)}


def _quartiles(samples: Sequence[float]) -> list[float]:
    if len(samples) < 2:
        return [samples[0], samples[0]]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return [low, high]


def wait(place: Place) -> None:
    """Wait for the device."""
    if place.cuda:
        torch.cuda.synchronize()


def in_turns(works: Mapping[str, Work], place: Place, *, seconds: float = 3.0, rounds: int = 15) -> dict[str, Times]:
    """Time contenders in turns: one sample of each in every round, each round starting with another one.

    The device is idle before each sample, so an eager call shows its launches and not the queue of the one before.
    Inputs are the same in every call, so what fits into the cache of the device is read from there.

    Args:
        works: Warmed up by the caller, at least once.
        place: Where.
        seconds: For all samples; fewer rounds are taken if they do not fit, but three at least.
        rounds: At most.

    Returns:
        In the order of `works`, which may be empty.
    """
    if not works:
        return {}
    once = {}
    for name, work in works.items():
        _sample(work, 1, place)
        once[name] = _sample(work, 1, place)
    calls = {name: place.pick(min(_MOST, math.ceil(_SAMPLE / max(t, 1e-7))), 1) for name, t in once.items()}
    total = sum(calls[name] * once[name] for name in works)
    count = place.pick(max(3, min(rounds, int(seconds / max(total, 1e-7)))), 2)
    names, samples = list(works), {name: [] for name in works}
    for turn in range(count):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            samples[name].append(_sample(works[name], calls[name], place))
    return {name: Times(tuple(found), calls[name] * count) for name, found in samples.items()}


def _sample(work: Work, calls: int, place: Place) -> float:
    """Seconds of one call, the mean over some in a row that start on an idle device."""
    if not place.cuda:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - start) / calls
    torch.cuda.synchronize()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / calls


def captured(work: Work) -> Work:
    """One call as a graph, captured on a stream of its own.

    torch's stream for captures is one for all graphs, and in newer versions a graph that is dropped frees cuBLAS's
    workspace of its stream, which the other graphs still use (pytorch issue 193402).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        work()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay
