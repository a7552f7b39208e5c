"""Momentum: how the gradients of a bucket and what is remembered of them become the stack a direction is made from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import foreach
from .buckets import Bucket, Slot

__all__ = ["averaged", "folded"]

Buffer = Callable[[Slot], Tensor]


def averaged(bucket: Bucket, groups: Sequence[Mapping[str, Any]], buffer: Buffer) -> Tensor:
    """B <- mu B + (1 - mu) G; the stack of mu B + (1 - mu) G where the group says nesterov, of B where not.

    Args:
        bucket: whose gradients they are.
        groups: all parameter groups; momentum and nesterov are read.
        buffer: gives B of a slot's parameter, whole; changed in place.

    Returns:
        ``(b, m, n)`` in the bucket's dtype, in memory of its own.
    """
    stack = torch.empty(bucket.shape, dtype=bucket.dtype, device=bucket.device)
    for index, slots in bucket.by_group().items():
        momentum = float(groups[index]["momentum"])
        gathered = [slot.place(stack) for slot in slots]
        buffers = [slot.read(buffer(slot)) for slot in slots]
        foreach.copy_(gathered, [slot.gradient() for slot in slots])
        foreach.lerp_(buffers, gathered, 1 - momentum)
        if groups[index]["nesterov"]:
            foreach.lerp_(gathered, buffers, momentum)
        else:
            foreach.copy_(gathered, buffers)
    return stack


def folded(fresh: list[Tensor], buffers: list[Tensor], momentum: float, share: float) -> None:
    """B <- mu B + share F, and F <- B; both lists are changed in place.

    Args:
        fresh: F, what is new: gradients or directions.
        buffers: B.
        momentum: mu.
        share: 1 - mu for an average, 1 for the heavy ball.
    """
    if share == 1 - momentum:
        foreach.lerp_(buffers, fresh, share)
    else:
        foreach.mul_(buffers, momentum)
        foreach.add_(buffers, fresh, share)
    foreach.copy_(fresh, buffers)
