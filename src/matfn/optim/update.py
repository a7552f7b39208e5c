"""The update of the weights: decay and move, in place, the same for every direction."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from . import foreach
from .buckets import Bucket
from .scale import Scale

__all__ = ["move"]


def move(bucket: Bucket, groups: Sequence[Mapping[str, Any]], scales: Mapping[str, Scale], direction: Tensor) -> None:
    """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale direction, rounded once.

    Args:
        bucket: whose matrices they are.
        groups: all parameter groups; lr, weight_decay, cautious and scale are read.
        scales: by the name that a group gives.
        direction: ``(b, m, n)``, in the bucket's dtype.
    """
    _, m, n = bucket.shape
    direction = direction.contiguous()
    for index, slots in bucket.by_group().items():
        group = groups[index]
        lr, decay = float(group["lr"]), float(group["lr"]) * float(group["weight_decay"])
        updates = [slot.place(direction) for slot in slots]
        weights = [slot.read(slot.param) for slot in slots]
        # Half-precision weights are moved in float32: in bfloat16 1 - lr wd is 1, and decay would do nothing.
        moved = [weight.to(bucket.dtype) for weight in weights]
        if decay and group["cautious"]:
            for weight, update in zip(moved, updates, strict=True):
                weight.addcmul_(weight, (weight * update >= 0).to(weight.dtype), value=-decay)
        elif decay:
            foreach.mul_(moved, 1 - decay)
        foreach.add_(moved, updates, -lr * scales[group["scale"]](m, n))
        rounded = [(weight, move) for weight, move in zip(weights, moved, strict=True) if weight is not move]
        if rounded:
            foreach.copy_([weight for weight, _ in rounded], [move for _, move in rounded])
