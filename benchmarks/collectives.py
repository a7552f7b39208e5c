"""The bytes that a process sends to others, whoever calls the collectives: torch dispatches them as operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Collectives"]

_SPACES = ("c10d", "_c10d_functional", "c10d_functional")
_SILENT = ("wait_tensor", "wrap_tensor_autograd", "barrier")


class Collectives(TorchDispatchMode):
    """Counts the collectives of one process group of all ranks, as the direct algorithm sends them.

    The direct algorithm sends each part once from the process that has it to each process that needs it. A sum over all
    ranks is counted as 2 (P - 1) / P of its size, which is the least that any algorithm sends.

    Attributes:
        calls: Number of calls by name.
        sent: Bytes to other ranks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.sent = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a collective and call it."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor calls again with its local parts
        if func.namespace in _SPACES:
            name = func._schema.name.split("::")[1].strip("_")
            if name not in _SILENT:
                self.calls[name] += 1
                self.sent += _sent(name, args)
        return func(*args, **(kwargs or {}))


def _sent(name: str, args: Any) -> float:
    """Bytes that this rank sends in one collective.

    Raises:
        NotImplementedError: If nobody has counted this collective.
    """
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    if name == "alltoall_base":
        sent, sizes = args[1], args[4]
        own = sizes[rank] if sizes else sent.shape[0] // ranks
        return (sent.shape[0] - own) * _bytes(sent) / max(sent.shape[0], 1)
    if name in ("all_gather_into_tensor", "all_gather_into_tensor_out"):
        return (ranks - 1) * _bytes(args[0])
    if name in ("allgather_base", "allgather", "allgather_into_tensor_coalesced"):
        return (ranks - 1) * _bytes(args[1])
    if name in ("allreduce", "all_reduce"):
        return 2 * (ranks - 1) / ranks * _bytes(args[0])
    if name == "reduce_scatter_tensor":
        return (ranks - 1) / ranks * _bytes(args[0])
    if name == "alltoall":
        return sum(_bytes(part) for to, part in enumerate(args[1]) if to != rank)
    if name == "gather":
        return 0 if args[3] == rank else _bytes(args[1])
    if name == "scatter":
        return (ranks - 1) * _bytes(args[0]) if args[3] == rank else 0
    if name == "broadcast":
        return (ranks - 1) * _bytes(args[0]) if args[2] == rank else 0
    raise NotImplementedError(f"the bytes of the collective {name!r} are not counted: add it to {__name__}")


def _bytes(what: Tensor | list[Any]) -> int:
    return what.nbytes if isinstance(what, torch.Tensor) else sum(map(_bytes, what))
