"""CUDA graphs: record the launches of a function on a device, and repeat them by one call.

A failed capture must not harm the process. Two things make one fail. First, an error of Python inside the function: the
capture then ends in order, and its graph is dropped. Second, a call that CUDA forbids while it records, such as reading
a value: CUDA then invalidates the capture, and torch's `capture_end` raises before it has told the caching allocator
and the default generator of the device that the capture is over. Every later `torch.randn` on the device would raise
"Offset increment outside graph capture". So the second kind is made one of the first: torch's check for synchronizing
calls raises an error of Python before the call is made. If torch raises nevertheless, at the begin or at the end
of a capture, allocator and generator are put back by hand.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch

__all__ = ["RECORDERS", "CudaGraphs", "Recorder"]

_SYNCHRONIZES = "called a synchronizing CUDA operation"
_PROTOTYPE = "Synchronization debug mode"
# torch's allocator of pinned memory keeps the address of a graph whose capture failed, and reads there during later
# captures. Nothing in Python removes the address, so these graphs are never freed.
_FAILED: list[torch.cuda.CUDAGraph] = []


class Recorder(Protocol):
    """Runs, records and repeats a function that works on a device and returns nothing."""

    def warm_up(self, function: Callable[[], None]) -> str:
        """Run the function as the recording will run it. Returns what made the host wait for the device, or ""."""
        ...

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record the function without running its operations. Returns a function that runs them on the same memory.

        Raises:
            Exception: If the function cannot be recorded. The process is as it was before.
        """
        ...


class CudaGraphs(Recorder):
    """Recorder of CUDA graphs. All graphs share one pool of memory, because none has a result in it.

    torch's mode for synchronizing calls is changed during a call, and restored. It belongs to the process: a thread
    that waits for the device at that time gets a warning (`warm_up`) or an error (`capture`).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = torch.device("cuda", torch.cuda.current_device()) if device.index is None else device
        # Only captures run on this stream. torch keeps cuBLAS's workspace for each stream, allocates it at the first
        # product there, and frees it when any graph of the stream is dropped (newer versions, pytorch issue 193402) or
        # when torch.compile makes CUDA graphs. A graph still writes to it. So the first product on the stream has to be
        # a captured one: then the workspace lies in the pool of the graphs, and no other tensor gets its memory.
        self._stream = torch.cuda.Stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], None]) -> str:
        """Run on the current stream, whose memory other work can use again; see `Recorder`."""
        _refuse_capture()
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _set_mode("warn")
            try:
                function()
            finally:
                _set_mode(mode)
        waits = [str(each.filename) + f":{each.lineno}" for each in caught if _SYNCHRONIZES in str(each.message)]
        for each in caught:
            if _SYNCHRONIZES not in str(each.message):
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        return f"the host waits for the device at {', '.join(dict.fromkeys(waits))}" if waits else ""

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`. A replay inside another capture is refused, like a warm-up."""
        graph, mode = torch.cuda.CUDAGraph(), torch.cuda.get_sync_debug_mode()
        generator = torch.cuda.default_generators[self._device.index]
        before = generator.clone_state()
        failure = None
        try:
            # The stream is entered here too: torch does not leave it if the capture cannot begin.
            with (
                torch.cuda.device(self._device),
                torch.cuda.stream(self._stream),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                try:
                    _set_mode("error")
                    function()
                except Exception as error:
                    failure = error
                    raise
                finally:
                    _set_mode(mode)
        except Exception as error:
            if error is not failure:  # torch raised at the begin or at the end
                _FAILED.append(graph)
                self._restore(generator, before)
            raise failure or error from None

        def replay() -> None:
            _refuse_capture()
            graph.replay()

        return replay

    def _restore(self, generator: torch.Generator, before: torch.Generator) -> None:
        """Do what torch leaves undone when the begin or the end of a capture raises."""
        generator.graphsafe_set_state(before)
        with suppress(AttributeError, RuntimeError):  # the function is private, and the allocator may know it already
            torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()


def _refuse_capture() -> None:
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "an optimizer with graph=True captures its own steps, so its step cannot be part of another CUDA graph: "
            "make it with graph=False"
        )


def _set_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _PROTOTYPE)
        torch.cuda.set_sync_debug_mode(mode)


# {type of device: recorder for a device}
RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaGraphs}
