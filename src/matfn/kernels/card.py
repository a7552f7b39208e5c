"""Card: what the choice of a kernel asks a device: its name, the kernels that run on it, and the time of a call."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .products import EAGER, Products
from .quack import QUACK_DTYPES, QuackSymmetric
from .trial import Kind, Seconds

__all__ = ["CUDA", "Card", "Cuda", "has_triton", "installed"]

_CYCLES = 4e9  # of sleep for each second of calls. A GPU has at most half as many, so the calls end before the sleep
_RUNS = 10  # calls between two events. The resolution of an event is about a microsecond
_TILE = 256  # columns of quack's tile on sm_90 and newer: nothing is mirrored in a matrix of one tile


class Card(Protocol):
    """A kind of device."""

    def holds(self, x: Tensor) -> bool:
        """Tell whether a tensor lies on a device of this kind."""
        ...

    def name(self, device: torch.device) -> str | None:
        """Return what the times depend on, as one line: hardware, driver, versions. None if there is no device."""
        ...

    def candidates(self, kind: Kind, device: torch.device) -> tuple[Products, ...]:
        """Return the kernels that compute products of a kind, `EAGER` first."""
        ...

    def capturing(self) -> bool:
        """Tell whether a CUDA graph is being captured, in which no time can be measured."""
        ...

    def wait(self) -> None:
        """Wait for all work of the current stream."""
        ...

    def seconds(self, work: Callable[[], object]) -> Seconds:
        """Return the time of one run of a function, called from Python and replayed in a graph."""
        ...


@dataclass(frozen=True)
class Cuda:
    """NVIDIA GPUs."""

    def holds(self, x: Tensor) -> bool:
        """See `Card.holds`."""
        # Not a subclass, such as a tensor without memory that counts launches.
        return x.is_cuda and type(x) in (Tensor, torch.nn.Parameter) and torch.version.hip is None

    def name(self, device: torch.device) -> str | None:
        """See `Card.name`."""
        if not torch.cuda.is_available() or torch.version.hip is not None:
            return None
        return _name(torch.cuda.current_device() if device.index is None else device.index)

    def candidates(self, kind: Kind, device: torch.device) -> tuple[Products, ...]:
        """See `Card.candidates`."""
        capability = torch.cuda.get_device_capability(device)
        dtype = getattr(torch, kind.dtype)
        found: list[Products] = [EAGER]
        if capability >= (8, 0) and installed("triton") and dtype in (torch.float16, torch.bfloat16, torch.float32):
            from .triton_symm import candidates  # late, because it imports triton

            found += candidates(capability, dtype, kind.rows)
        fits = dtype in QUACK_DTYPES and kind.layout.endswith(" whole") and kind.rows > _TILE
        if capability >= (9, 0) and installed("quack-kernels") and fits and "tensor" not in kind.weights:
            found.append(QuackSymmetric())
        return tuple(found)

    def capturing(self) -> bool:
        """See `Card.capturing`."""
        return torch.cuda.is_current_stream_capturing()

    def wait(self) -> None:
        """See `Card.wait`."""
        torch.cuda.current_stream().synchronize()

    def seconds(self, work: Callable[[], object]) -> Seconds:
        """See `Card.seconds`. A capture could fail, so calls that wait in the device's queue stand for a replay."""
        called, host = _between_events(work, 0)
        replayed, _ = _between_events(work, int(host * _CYCLES))
        return Seconds(called, replayed)


CUDA = Cuda()


def installed(package: str) -> str:
    """Return the version of a package that is installed, else an empty text. Imports nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version" if package == "triton" and has_triton() else ""


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Tell whether triton can be imported, without importing it."""
    return find_spec("triton") is not None


def _between_events(work: Callable[[], object], cycles: int) -> tuple[float, float]:
    """Return the seconds of one run on the device, which sleeps some cycles before, and the seconds of all calls."""
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if cycles:
        torch.cuda._sleep(cycles)
    begun = time.perf_counter()
    first.record()
    for _ in range(_RUNS):
        work()
    last.record()
    host = time.perf_counter() - begun
    last.synchronize()
    return first.elapsed_time(last) / 1e3 / _RUNS, host


@lru_cache(maxsize=64)
def _name(index: int) -> str:
    facts = torch.cuda.get_device_properties(index)
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "unknown")()
    # Times depend on the kernels of this folder too. After a change of any file they are measured again.
    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    versions = [f"torch {torch.__version__}"]
    versions += [f"{package} {installed(package) or 'absent'}" for package in ("triton", "quack-kernels")]
    hardware = f"{facts.name}, sm_{facts.major}{facts.minor}, {facts.multi_processor_count} multiprocessors"
    return ", ".join([hardware, f"driver {driver}", *versions, f"kernels {sources.hexdigest()[:16]}"])
