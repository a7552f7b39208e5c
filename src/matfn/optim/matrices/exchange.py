"""Exchange: the messages between the processes that share parameters. Collectives of a step are in this file alone.

Every message is a part of one all-to-all, with the sizes of the plan (`exchange_plan`). Messages are bytes, so one
all-to-all carries numbers of any dtypes. Before a step the processes agree on the parameters that have a gradient, and
compare their plans. This goes over a gloo group of its own, so it does not wait for a GPU.
"""

import contextlib
import hashlib
import itertools
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .exchange_plan import Box, aligned

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Arrival", "Message", "Team", "group_of_mesh", "part_of"]

_SHOWN = 6
_CONTROLS: MutableMapping["ProcessGroup", "ProcessGroup"] = WeakKeyDictionary()  # see `_control_of`


class Message:
    """The bytes to, or from, every rank of a team. Pieces are taken one after the other, as views.

    Args:
        sizes: Bytes for each rank.
        device: Where the bytes are.
        order: The ranks in the order in which their bytes lie in the buffer.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device, order: Sequence[int]) -> None:
        self.sizes = [sizes[rank] for rank in order]
        self.buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self._next = dict(zip(order, itertools.accumulate(self.sizes, initial=0), strict=False))

    def piece(self, rank: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The next piece for, or from, a rank: a view of the buffer in a shape and dtype."""
        number = torch.Size(shape).numel()
        start = self._next[rank]
        self._next[rank] += aligned(number * dtype.itemsize)
        return self.buffer[start : start + number * dtype.itemsize].view(dtype).view(tuple(shape))


@dataclass(eq=False)
class Arrival:
    """Messages on their way."""

    received: Message
    sent: Message  # held until the bytes have left
    work: Any
    what: str

    def wait(self) -> Message:
        """The messages from all ranks.

        Raises:
            RuntimeError: If another process ended, made no step, or did not answer within the timeout of the group.
        """
        if self.work is not None:
            try:
                self.work.wait()
            except RuntimeError as error:
                raise _lost(self.what, error) from error
        return self.received


class Team:
    """The processes that share parameters.

    Args:
        mesh: The sizes of the mesh axes.
        ranks: The ranks of the processes in the default group, in the order of the mesh.
        device: Where messages are: the device of the mesh.
        group: The process group of exactly these ranks.
        name: The optimizer, for messages of errors.
    """

    def __init__(
        self, mesh: tuple[int, ...], ranks: Sequence[int], device: torch.device, group: "ProcessGroup", name: str
    ) -> None:
        from torch import distributed

        self.mesh, self.ranks, self.device, self.name = mesh, tuple(ranks), device, name
        self.rank = self.ranks.index(distributed.get_rank())
        self.group = group
        members = distributed.get_process_group_ranks(self.group)
        self.order = tuple(self.ranks.index(rank) for rank in members)  # torch sorts the ranks of a group
        self.control = self.group if len(self.ranks) == 1 else _control_of(self.group, self.ranks, name)

    @classmethod
    def of_mesh(cls, mesh: Any, name: str) -> "Team":
        """The processes of a DeviceMesh. The first call for a mesh of several axes is collective.

        Raises:
            ValueError: If the ranks along an axis do not ascend.
        """
        if any((mesh.mesh.diff(dim=axis) < 0).any() for axis in range(mesh.ndim)):
            raise ValueError(
                f"{name}: in {mesh} the ranks along an axis do not ascend. torch cuts parameters by the place of a "
                "rank in its process group, which is sorted, so it is unclear which part a rank has. Make a mesh with "
                "ascending ranks."
            )
        device = torch.device(mesh.device_type)
        if mesh.device_type != "cpu":
            device = torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())
        return cls(tuple(mesh.shape), mesh.mesh.flatten().tolist(), device, group_of_mesh(mesh), name)

    @classmethod
    def of_group(cls, group: "ProcessGroup", device: torch.device, name: str) -> "Team":
        """The processes of a process group."""
        from torch import distributed

        ranks = distributed.get_process_group_ranks(group)
        return cls((len(ranks),), ranks, device, group, name)

    @property
    def size(self) -> int:
        """The number of processes."""
        return len(self.ranks)

    def agree(self, digest: str, described: Sequence[str], flags: Sequence[bool]) -> list[int]:
        """The flags that are set on some ranks and not on others, by index. First the ranks compare their plans.

        Args:
            digest: A hash of this rank's plan.
            described: One line for each parameter of the plan, for the message if plans differ.
            flags: One for each parameter.

        Raises:
            RuntimeError: If plans differ, or another process does not answer. All ranks raise it.
        """
        if self.size == 1:
            return []
        told = [*_numbers(digest), *_numbers("".join("01"[flag] for flag in flags))]
        both = torch.tensor([*told, *(-number for number in told)], dtype=torch.int64)
        highest, lowest = self._reduced(both).view(2, -1)
        equal = (highest == -lowest).view(2, -1).all(-1)
        if not equal[0]:
            self._refuse(described)
        if equal[1]:
            return []
        both = torch.tensor([*flags, *(not flag for flag in flags)], dtype=torch.int64)
        return self._reduced(both).view(2, -1).all(0).nonzero().flatten().tolist()

    def flags(self, own: Sequence[bool]) -> list[list[bool]]:
        """The flags of every rank."""
        from torch import distributed

        found = [torch.empty(len(own), dtype=torch.bool) for _ in range(self.size)]
        try:
            distributed.all_gather(found, torch.tensor(own), group=self.control)
        except RuntimeError as error:
            raise _lost(f"{self.name}: comparing the gradients of a step", error) from error
        return [found[self.order.index(rank)].tolist() for rank in range(self.size)]

    def _reduced(self, values: Tensor) -> Tensor:
        """The greatest of each value over the ranks.

        In the k-th exchange a rank hears from the rank 2^k before it, which knows the 2^k ranks up to itself. gloo's
        all-reduce sends around a ring, which takes thousands of messages, one after the other, on thousands of ranks.
        """
        from torch import distributed

        step, rank = 1, distributed.get_rank(self.control)
        try:
            while step < self.size:
                heard = torch.empty_like(values)
                after, before = (rank + step) % self.size, (rank - step) % self.size
                sending = distributed.isend(values, group=self.control, group_dst=after)
                hearing = distributed.irecv(heard, group=self.control, group_src=before)
                for work in (hearing, sending):
                    assert work is not None
                    work.wait()
                values, step = torch.maximum(values, heard), 2 * step
        except RuntimeError as error:
            raise _lost(f"{self.name}: comparing the plans of a step", error) from error
        return values

    def _refuse(self, described: Sequence[str]) -> None:
        """Raise RuntimeError with the first differences between the plans of the ranks."""
        from torch import distributed

        plans: list[Any] = [None] * self.size
        distributed.all_gather_object(plans, list(described), group=self.control)
        plans = [plans[self.order.index(rank)] for rank in range(self.size)]
        other = next(rank for rank in range(self.size) if plans[rank] != plans[0])
        only = [[line for line in plans[a] if line not in set(plans[b])] for a, b in ((0, other), (other, 0))]
        if not any(only):
            only = [["the same parameters in another order"], ["the same parameters in another order"]]
        shown = [
            f"  rank {self.ranks[rank]} has {line}"
            for rank, lines in zip((0, other), only, strict=True)
            for line in lines[:_SHOWN]
        ]
        raise RuntimeError(
            f"{self.name}: the plans of ranks {self.ranks[0]} and {self.ranks[other]} differ, so their exchange would "
            "hang. All processes need the same model, options and parameter groups.\n" + "\n".join(shown)
        )

    def message(self, sizes: Sequence[int]) -> Message:
        """An empty message with so many bytes to, or from, each rank."""
        return Message(sizes, self.device, self.order)

    def send(self, message: Message, sizes: Sequence[int], what: str) -> Arrival:
        """Begin an all-to-all.

        Args:
            message: The bytes to every rank.
            sizes: The bytes that arrive from each rank.
            what: Its name in the message of an error.
        """
        from torch import distributed

        received = self.message(sizes)
        what = f"{self.name}: {what}"
        try:
            work = distributed.all_to_all_single(
                received.buffer, message.buffer, received.sizes, message.sizes, group=self.group, async_op=True
            )
        except RuntimeError as error:
            raise _lost(what, error) from error
        return Arrival(received, message, work, what)

    def gathered(
        self, part: Tensor, held: Sequence[Box], shape: Sequence[int], owner: int, senders: Sequence[int]
    ) -> Tensor | None:
        """A whole tensor at its owner, from the boxes of the `senders`; None on other ranks.

        Args:
            part: This rank's box.
            held: The box of each rank.
            shape: The shape of the whole tensor.
            owner: The rank that gets it.
            senders: The ranks whose boxes make up the whole.
        """
        size = [aligned(part.dtype.itemsize * torch.Size(extent(box)).numel()) for box in held]
        sends = self.rank in senders and self.rank != owner
        message = self.message([size[self.rank] if sends and r == owner else 0 for r in range(self.size)])
        if sends:
            message.piece(owner, part.shape, part.dtype).copy_(part)
        gets = [size[r] if self.rank == owner and r in senders and r != owner else 0 for r in range(self.size)]
        arrived = self.send(message, gets, "collecting state").wait()
        if self.rank != owner:
            return None
        whole = torch.empty(tuple(shape), dtype=part.dtype, device=self.device)
        for rank in senders:
            box = arrived.piece(rank, extent(held[rank]), part.dtype) if rank != owner else part
            part_of(whole, held[rank]).copy_(box)
        return whole

    def scattered(self, whole: Tensor | None, held: Sequence[Box], owner: int, dtype: torch.dtype) -> Tensor:
        """This rank's box of a tensor that its owner holds whole."""
        size = [aligned(dtype.itemsize * torch.Size(extent(box)).numel()) for box in held]
        own = self.rank == owner
        message = self.message([size[r] if own and r != owner else 0 for r in range(self.size)])
        for rank in range(self.size) if own else ():
            if rank != owner:
                assert whole is not None
                message.piece(rank, extent(held[rank]), dtype).copy_(part_of(whole, held[rank]))
        gets = [size[self.rank] if r == owner and not own else 0 for r in range(self.size)]
        arrived = self.send(message, gets, "spreading state").wait()
        if own:
            assert whole is not None
            return part_of(whole, held[owner]).clone()
        return arrived.piece(owner, extent(held[self.rank]), dtype).clone()


def extent(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(stop - start for start, stop in box)


def part_of(whole: Tensor, box: Box) -> Tensor:
    """The view of a box of a whole tensor."""
    return whole[tuple(slice(start, stop) for start, stop in box)]


def _numbers(text: str) -> list[int]:
    """Four numbers that are equal on two ranks only if their texts are."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 7], "big") for i in range(0, 28, 7)]


def group_of_mesh(mesh: "DeviceMesh") -> "ProcessGroup":
    """A process group of all ranks of a mesh, in their order. All of them must call it.

    Raises:
        ValueError: If this process is none of them.
    """
    if mesh.get_coordinate() is None:
        from torch import distributed

        raise ValueError(
            f"plan: mesh has the ranks {mesh.mesh.flatten().tolist()}, but this process is rank "
            f"{distributed.get_rank()}. Give each process a mesh that it belongs to."
        )
    return mesh.get_group() if mesh.ndim == 1 else _group_of(tuple(mesh.mesh.flatten().tolist()))


def _group_of(ranks: tuple[int, ...]) -> "ProcessGroup":
    """A process group of these ranks: the default group if it has the same ranks in the same order."""
    from torch import distributed

    if ranks == tuple(range(distributed.get_world_size())):
        assert distributed.group.WORLD is not None
        return distributed.group.WORLD
    made: Any = distributed.new_group(list(ranks), use_local_synchronization=True, timeout=_timeout(None))
    return made


def _control_of(group: "ProcessGroup", ranks: tuple[int, ...], name: str) -> "ProcessGroup":
    """A gloo group of the same ranks, which carries nothing but what a step agrees on.

    In a group that others use, their messages could meet ours if a rank makes a step less, or while a checkpoint is
    saved in the background. gloo then ends the process without an exception.
    """
    from torch import distributed

    if group not in _CONTROLS:
        try:
            made: Any = distributed.new_group(
                list(ranks), backend="gloo", use_local_synchronization=True, timeout=_timeout(group)
            )
        except RuntimeError as error:
            raise _lost(f"{name}: making a process group at the first step", error) from error
        _CONTROLS[group] = made
    return _CONTROLS[group]


def _timeout(group: "ProcessGroup | None") -> timedelta | None:
    """The timeout of a process group, by default the default group. `new_group` would take the default of torch."""
    from torch import distributed

    group = distributed.group.WORLD if group is None else group
    for device in getattr(group, "_device_types", ()):
        with contextlib.suppress(RuntimeError, AttributeError):
            return group._get_backend(device).options._timeout  # pyright: ignore
    return None


def _lost(what: str, error: RuntimeError) -> RuntimeError:
    return RuntimeError(
        f"{what} failed: another process ended, raised an error, made no step or did not answer within the "
        f"timeout. Look at the first error of the other processes. torch says: {error}"
    )
