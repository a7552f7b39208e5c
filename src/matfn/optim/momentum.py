"""Momentum: how the gradients of a bucket and what is remembered of them become the stack a direction is made from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .matrices import foreach
from .matrices.buckets import Bucket, Slot

__all__ = ["average", "averaged", "folded"]

Buffer = Callable[[Slot], Tensor]


def averaged(bucket: Bucket, groups: Sequence[Mapping[str, Any]], buffer: Buffer, stack: Tensor) -> Tensor:
    """B <- mu B + (1 - mu) G; the stack of mu B + (1 - mu) G where the group says nesterov, of B where not.

    Args:
        bucket: whose gradients they are.
        groups: all parameter groups; momentum and nesterov are read.
        buffer: gives B of a slot's parameter, whole; changed in place.
        stack: ``(b, m, n)`` in the bucket's dtype, written to.

    Returns:
        `stack`.
    """
    places = bucket.places(stack)
    for index, slots in bucket.by_group().items():
        gradients = [slot.gradient() for slot in slots]
        buffers = [slot.read(buffer(slot)) for slot in slots]
        average(places[index], gradients, buffers, float(groups[index]["momentum"]), groups[index]["nesterov"])
    return stack


def average(into: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], momentum: float, ahead: bool) -> None:
    """B <- mu B + (1 - mu) G, and mu B + (1 - mu) G if `ahead`, else B, into other memory.

    Six passes where all have one dtype, the gradient being read twice; it is copied where it is narrower. Matrix after
    matrix where they are large and on a CPU, so that what is read again is still in the cache.

    Args:
        into: written to.
        gradients: G, read only.
        buffers: B, changed in place.
        momentum: mu.
        ahead: whether Nesterov's step is added.
    """
    if any(G.dtype is not B.dtype for G, B in zip(gradients, buffers, strict=True)):
        foreach.copy_(into, gradients)
        gradients = into
    for targets, fresh, held in foreach.in_cache(into, gradients, buffers):
        foreach.lerp_(held, fresh, 1 - momentum)
        if ahead:
            foreach.lerp_into(targets, fresh, held, momentum)
        else:
            foreach.copy_(targets, held)


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
