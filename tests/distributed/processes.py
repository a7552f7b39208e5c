"""Processes for tests of several ranks: they start once, run the functions sent to them, and end with the tests.

Importing torch takes seconds. So a server imports it once, and every process is a fork of the server (on Linux). All
tests of a pytest worker share the same processes. Each call makes a new process group and destroys it. After a death or
a hang, the next call starts new processes.
"""

import contextlib
import faulthandler
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

START = 180.0  # seconds for a process to start, also on a busy machine
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # gloo else looks up the host's name, which may not resolve


# What the server imports before it forks. None of these starts a thread, which a fork would lose.
IMPORTED = [
    *("torch", "torch._dynamo", "torch.distributed", "torch.distributed.checkpoint.state_dict"),
    *("torch.distributed.fsdp", "torch.distributed.tensor.parallel", "matfn.optim", "pytest"),
]


class RankError(Exception):
    """An exception of a rank that cannot be sent: its last line."""


class RankLostError(RankError):
    """A rank died or did not answer in time."""


class _Remote(Exception):
    """The traceback of a rank, shown as the cause of its exception."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass
class _Process:
    """A process, the connection to it, and the file into which it writes its stacks when asked."""

    process: Any
    link: Connection
    stacks: Path

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join(10)
        self.link.close()


class Processes:
    """Processes for any number of ranks, started when they are first needed."""

    def __init__(self) -> None:
        self._started: list[_Process] = []
        self._folder = tempfile.TemporaryDirectory(prefix="matfn-ranks-")
        self._calls = 0

    def run(self, ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 30.0, limit: float = 90.0):
        """The results of ``function(*args)`` on `ranks` processes of one process group, in the order of the ranks.

        Args:
            ranks: The number of processes.
            function: A function of a module, run on every rank.
            *args: Its arguments, which are pickled, as are the results.
            timeout: Seconds for one collective.
            limit: Seconds for all of it; after that the processes are killed.

        Raises:
            Exception: The first exception that a rank raised, with that rank's traceback as the cause.
            RankLostError: If a rank died or did not answer in time.
        """
        answers = self.outcomes(ranks, function, *args, timeout=timeout, limit=limit)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            raise min(failed, key=lambda error: error.moment)
        return answers

    def outcomes(
        self, ranks: int, function: Callable[..., Any], *args: Any, timeout: float = 30.0, limit: float = 90.0
    ):
        """As `run`, but a rank that failed has its exception as its result: `RankLostError` if it died."""
        self._start(ranks)
        crew = self._started[:ranks]
        self._calls += 1
        store = os.path.join(self._folder.name, f"store-{self._calls}")
        name = (function.__module__, function.__qualname__)
        for rank, one in enumerate(crew):
            one.link.send_bytes(pickle.dumps((sys.path, name, args, rank, ranks, store, timeout)))
        answers = self._collect(crew, timeout, time.monotonic() + limit)
        if any(isinstance(answer, RankLostError) for answer in answers):
            self.stop()
        return answers

    def stop(self) -> None:
        """Kill all processes; the next call starts new ones."""
        for one in self._started:
            one.kill()
        self._started = []

    def _start(self, ranks: int) -> None:
        if any(not one.process.is_alive() for one in self._started):
            self.stop()
        context, new = _context(), []
        for number in range(len(self._started), ranks):
            ours, theirs = context.Pipe()
            stacks = Path(self._folder.name) / f"stacks-{number}"
            process = context.Process(target=_serve, args=(theirs, str(stacks)), daemon=True, name=f"rank {number}")
            process.start()
            theirs.close()
            new.append(_Process(process, ours, stacks))
        self._started += new
        for one in new:
            if not one.link.poll(START):
                self.stop()
                raise RankLostError(f"a process did not start within {START:g} s")
            one.link.recv_bytes()  # raises EOFError if the process died

    def _collect(self, crew: list[_Process], timeout: float, end: float) -> list[Any]:
        """Every rank's answer, or the error for it. After a first failure the others get one more timeout."""
        answers: dict[int, Any] = {}
        while len(answers) < len(crew):
            links = {one.link: rank for rank, one in enumerate(crew) if rank not in answers}
            ready = wait(list(links), max(0.0, end - time.monotonic()))
            if not ready:
                for rank in links.values():
                    answers[rank] = RankLostError(
                        f"rank {rank} gave no answer in time; it stood at\n{_stacks(crew[rank])}"
                    )
                    answers[rank].moment = time.monotonic()
            for link in ready:
                rank = links[link]
                answers[rank] = _answer(rank, crew[rank])
                if isinstance(answers[rank], BaseException):
                    end = min(end, time.monotonic() + timeout + 5)
        return [answers[rank] for rank in range(len(crew))]


def _context() -> Any:
    """How processes start: on Linux as forks of a server with torch imported, elsewhere each imports torch itself."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def _answer(rank: int, one: _Process) -> Any:
    """The answer that has arrived from a rank."""
    try:
        value, error, text, moment = pickle.loads(one.link.recv_bytes())
    except (EOFError, ConnectionError):
        one.process.join(10)
        failure = RankLostError(f"rank {rank} died with exit code {one.process.exitcode}")
        failure.moment = -1.0  # the cause of all other failures
        return failure
    if text is None:
        return value
    failure = pickle.loads(error) if error else RankError(text.strip().splitlines()[-1])
    failure.moment = moment
    failure.__cause__ = _Remote(f"on rank {rank}:\n{text}")
    return failure


def _stacks(one: _Process) -> str:
    """The stacks of all threads of a process that hangs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(one.process.pid, signal.SIGUSR1)
        time.sleep(0.5)
    return one.stacks.read_text() or "(no stack was written)"


# What follows runs in the processes.


def _serve(link: Connection, stacks: str) -> None:
    """Run what is sent until the connection or the parent ends."""
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["GLOO_SOCKET_IFNAME"] = LOOPBACK
    import torch

    torch.set_num_threads(1)
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        link.send_bytes(b"ready")
        with contextlib.suppress(EOFError):
            while True:
                link.send_bytes(pickle.dumps(_called(link.recv_bytes())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _called(sent: bytes) -> tuple[Any, bytes | None, str | None, float]:
    """The result of one call; or None, the exception (if it can be sent), its traceback and when it was raised.

    The time is that of a clock that all processes share. It is read before the group is destroyed, which makes other
    ranks fail.
    """
    import torch
    from torch import distributed

    try:
        path, (module, name), args, rank, ranks, store, timeout = pickle.loads(sent)
        sys.path[:] = path
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        torch.manual_seed(0)
        distributed.init_process_group(
            "gloo",
            store=distributed.FileStore(store, ranks),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=timeout),
        )
        distributed.barrier()  # a rank that fails at once must not disturb how the others connect
        value = function(*args)
        pickle.dumps(value)
        return value, None, None, time.monotonic()
    except BaseException as error:
        moment, text = time.monotonic(), traceback.format_exc()
        try:
            sendable = pickle.dumps(error)
            pickle.loads(sendable)
        except Exception:
            sendable = None
        return None, sendable, text, moment
    finally:
        _end_group()
        _forget_meshes()


def _end_group() -> None:
    """Destroy the process group after every model that uses it, else torch 2.13 may hang.

    If DistributedDataParallel holds the last reference, the group's destructor waits for the threads of gloo and keeps
    the lock of the interpreter, for which such a thread may wait too. So cycles are collected first, and a Python
    reference outlives them.
    """
    from torch import distributed

    if distributed.is_initialized():
        group = distributed.group.WORLD
        gc.collect()
        distributed.destroy_process_group()
        del group
        gc.freeze()  # the modules of torch: the next collection need not visit them


def _forget_meshes() -> None:
    """Empty DTensor's caches: they hold meshes of the destroyed process group, equal to those of the next one."""
    from torch.distributed.tensor import debug

    debug._clear_sharding_prop_cache()
