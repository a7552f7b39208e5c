"""What a failed capture leaves behind: the order of calls to torch, with stand-ins for a device."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch

from matfn.optim.cuda_graphs import CudaGraphs


class Card:
    """torch.cuda as far as `CudaGraphs` uses it. `broken` names what raises: "begin" or "end" of a capture."""

    def __init__(self):
        self.mode, self.broken, self.capturing, self.log = 0, "", False, []
        self.stream = "main"
        state = SimpleNamespace(clone_state=lambda: "clone", graphsafe_set_state=lambda x: self.log.append(x))
        self.default_generators = [state]

    def set_sync_debug_mode(self, mode):
        self.mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    def reads(self):
        """A call that waits for the device."""
        if self.mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.mode == 1:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    @contextlib.contextmanager
    def on(self, stream):
        self.stream, before = stream, self.stream
        yield
        self.stream = before

    @contextlib.contextmanager
    def graph(self, graph, **_):
        if self.broken == "begin":
            raise RuntimeError("the stream is capturing already")
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False
            if self.broken == "end":
                raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def card(monkeypatch):
    found = Card()
    names = {
        "Stream": lambda _: "side",
        "stream": found.on,
        "device": lambda _: contextlib.nullcontext(),
        "graph_pool_handle": lambda: (0, len(found.log)),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: found.log.append("replay")),
        "is_current_stream_capturing": lambda: found.capturing,
        "get_sync_debug_mode": lambda: found.mode,
        "set_sync_debug_mode": found.set_sync_debug_mode,
        "graph": found.graph,
        "default_generators": found.default_generators,
    }
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    ended = lambda index, pool: found.log.append(("ended", index, pool))  # noqa: E731
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
    return found


@pytest.fixture
def graphs(card):
    return CudaGraphs(torch.device("cuda", 0))


def test_a_capture_returns_its_replay(card, graphs):
    seen = []
    graphs.capture(lambda: seen.append(card.mode))()
    assert seen == [2], "calls that wait must raise before CUDA sees them"
    assert (card.mode, card.log) == (0, ["replay"])


def test_an_error_of_the_step_ends_the_capture_in_order(card, graphs):
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        graphs.capture(card.reads)
    assert (card.mode, card.capturing, card.log) == (0, False, [])


@pytest.mark.parametrize(("broken", "said"), [("begin", "capturing already"), ("end", "previous error during capture")])
def test_an_error_of_torch_puts_generator_and_allocator_back(card, graphs, monkeypatch, broken, said):
    card.broken = broken
    kept = []
    monkeypatch.setattr("matfn.optim.cuda_graphs._FAILED", kept)
    with pytest.raises(RuntimeError, match=said):
        graphs.capture(lambda: None)
    assert card.mode == 0
    assert card.log == ["clone", ("ended", 0, (0, 0))]
    assert len(kept) == 1, "torch still has the address of the graph"


def test_the_first_cause_is_told(card, graphs):
    card.broken = "end"
    with pytest.raises(ValueError, match="wrong shape"):
        graphs.capture(lambda: (_ for _ in ()).throw(ValueError("wrong shape")))
    assert card.log == ["clone", ("ended", 0, (0, 0))]


def test_a_warm_up_tells_where_the_host_waits_and_passes_other_warnings_on(card, graphs):
    def step():
        card.reads()
        warnings.warn("the model froze", stacklevel=1)

    with pytest.warns(UserWarning, match="the model froze") as seen:
        waited = graphs.warm_up(step)
    assert len(seen) == 1
    assert "the host waits for the device at" in waited
    assert "test_cuda_graphs.py" in waited
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert graphs.warm_up(lambda: None) == ""
    assert (card.mode, card.log) == (0, [])


def test_only_captures_run_on_their_stream(card, graphs):
    seen = []
    graphs.warm_up(lambda: seen.append(card.stream))
    graphs.capture(lambda: seen.append(card.stream))
    assert seen == ["main", "side"], "cuBLAS's workspace would be allocated outside the pool of the graphs"


def test_a_mode_of_the_caller_is_restored(card, graphs):
    card.mode = 2
    with pytest.raises(ZeroDivisionError):
        graphs.warm_up(lambda: 1 / 0)
    assert card.mode == 2


def test_steps_inside_another_capture_are_refused(card, graphs):
    replay = graphs.capture(lambda: None)
    card.capturing = True
    for step in (replay, lambda: graphs.warm_up(lambda: None)):
        with pytest.raises(RuntimeError, match="make it with graph=False"):
            step()
    assert card.log == []
