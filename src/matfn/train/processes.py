"""Processes: the ones of a run under torchrun. The first one reads and writes files; all stop at the same step."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from matfn.train import TrainError

__all__ = [
    "agreed",
    "broken",
    "count",
    "end",
    "first",
    "first_holds",
    "from_first",
    "join",
    "joined",
    "leave",
    "line",
    "mean",
    "speaker",
]

T = TypeVar("T")
_TOLD, _SHOWN = "matfn/told", "matfn/shown"
_store: Any = None  # of torchrun: it outlives the process group, so that one process can tell an error


def join() -> None:
    """Join the processes that torchrun has started. Without torchrun this does nothing.

    Raises:
        TrainError: Another process is not there.
    """
    global _store
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ) or joined():
        return
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # one machine: its name need not be an address
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if platform.system() == "Darwin" else "lo")
    # torch warns on every rank that a checkpoint's tensors are gathered one mesh axis after the other.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    cuda = torch.cuda.is_available()
    if cuda:  # more processes than GPUs are refused later, if the recipe asks for a GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        _store, rank, size = next(iter(rendezvous("env://")))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=_store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        raise TrainError(f"the processes of torchrun did not find each other: {error}") from None


def leave() -> None:
    """Leave the processes that `join` joined, after all of them have come here."""
    if dist.is_initialized() and _store is not None:
        # torch 2.13 may hang if a DDP model is freed after the group: the group's destructor then keeps Python's lock
        # and waits for a thread of gloo, which may need the lock. So models in cycles go first, and a reference stays.
        group = dist.group.WORLD
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
        del group


def end(status: int) -> None:
    """End this process at once if `join` joined others. After an error, leaving them in order could wait for ever."""
    if _store is not None:
        with contextlib.suppress(OSError, ValueError):  # a closed pipe
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def joined() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_available() and dist.is_initialized()


def count() -> int:
    """The number of processes of this run; 1 without torchrun."""
    return dist.get_world_size() if joined() else 1


def first() -> bool:
    """Whether this is the process that reads and writes the files of the run."""
    return count() == 1 or dist.get_rank() == 0


def line(arguments: str, processes: int | None = None) -> str:
    """The command that starts matfn with these arguments; `processes` is the present number by default."""
    processes = count() if processes is None else processes
    if processes == 1:
        return f"matfn {arguments}"
    return f"torchrun --standalone --nproc-per-node {processes} -m matfn_main {arguments}"


def from_first(compute: Callable[[], T]) -> T:
    """The result of `compute` in the first process, for every process. Its error is raised in every process."""
    if count() == 1:
        return compute()
    held: list[Any] = [None]
    if first():
        try:
            held = [(compute(), None)]
        except Exception as error:
            held = [(None, error)]
    dist.broadcast_object_list(held, src=0)
    value, error = held[0]
    if error is not None:
        raise error
    return value


@contextlib.contextmanager
def first_holds(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """Enter a context, such as a lock, in the first process; every process gets its value."""
    with ExitStack() as stack:
        yield from_first(lambda: stack.enter_context(make()))


def mean(value: Tensor) -> Tensor:
    """The mean of `value` over the processes, the same number in each."""
    if count() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / count()


def agreed(number: int) -> int:
    """The largest of the numbers of all processes, such as 1 for yes and 0 for no."""
    if count() == 1:
        return number
    held = torch.tensor(number)
    dist.all_reduce(held, dist.ReduceOp.MAX)
    return int(held)


@contextlib.contextmanager
def speaker() -> Iterator[bool]:
    """Whether this process is the one that shows an error: the first process that asks. The others wait until it has.

    An error that all processes make is shown once, and so is an error of one process, from which the others only learn
    that a connection was closed.
    """
    try:
        chosen = _store is None or _store.add(_TOLD, 1) == 1
    except RuntimeError:  # the store is gone with its process
        chosen = True
    try:
        yield chosen
    finally:
        with contextlib.suppress(RuntimeError):
            if _store is not None and chosen:
                _store.set(_SHOWN, "")
            elif _store is not None:
                _store.wait([_SHOWN], timedelta(seconds=5))


def broken(error: Exception) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    return count() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())
