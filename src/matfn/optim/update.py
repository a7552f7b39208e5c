"""The update of the weights: decay and move, in place, the same for every direction."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .matrices import foreach
from .matrices.buckets import Bucket
from .scale import Scale

__all__ = ["move", "moved"]


def move(bucket: Bucket, groups: Sequence[Mapping[str, Any]], scales: Mapping[str, Scale], direction: Tensor) -> None:
    """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale direction, rounded once.

    An lr that is a tensor on the parameters' device is not read back. One on the host is.

    Args:
        bucket: whose matrices they are.
        groups: all parameter groups; lr, weight_decay, cautious and scale are read.
        scales: by the name that a group gives.
        direction: ``(b, m, n)``, in the bucket's dtype; overwritten.
    """
    _, m, n = bucket.shape
    places = bucket.places(direction.contiguous())
    for index, slots in bucket.by_group().items():
        group = groups[index]
        lr, weight_decay = group["lr"], float(group["weight_decay"])
        lr = lr.reshape(()) if isinstance(lr, Tensor) and lr.device == bucket.device else float(lr)
        weights, updates = [slot.read(slot.param) for slot in slots], places[index]
        wide = [weight.dtype is bucket.dtype for weight in weights]
        for same in dict.fromkeys(wide):
            chosen = weights if all(wide) else [w for w, here in zip(weights, wide, strict=True) if here is same]
            their = updates if all(wide) else [u for u, here in zip(updates, wide, strict=True) if here is same]
            decay = lr * weight_decay if weight_decay else 0.0
            moved(chosen, their, lr * -scales[group["scale"]](m, n), decay, cautious=group["cautious"])


def moved(
    weights: list[Tensor], updates: list[Tensor], rate: float | Tensor, decay: float | Tensor, *, cautious: bool
) -> None:
    """Weights <- (1 - decay) weights + rate updates.

    Args:
        weights: all of one dtype; changed in place.
        updates: in the same dtype or a wider one; overwritten.
        rate: a number, or a tensor without axes that is not read back.
        decay: likewise; the number 0 decays nothing.
        cautious: decay only entries on which update and weight agree in sign.
    """
    held = weights
    if weights[0].dtype is not updates[0].dtype:
        # Half-precision weights are moved in float32: in bfloat16 1 - lr wd is 1, and decay would do nothing.
        weights = [weight.to(update.dtype) for weight, update in zip(weights, updates, strict=True)]
    decays = isinstance(decay, Tensor) or decay != 0
    if decays and cautious:
        for weight, update in zip(weights, updates, strict=True):
            weight.sub_(torch.where(weight * update >= 0, weight, 0.0).mul_(decay))
    for some, moves in foreach.in_cache(weights, updates):
        if decays and not cautious:
            foreach.mul_(some, 1 - decay)
        if isinstance(rate, Tensor):
            foreach.mul_(moves, rate)
        foreach.add_(some, moves, 1.0 if isinstance(rate, Tensor) else rate)
    if held is not weights:
        foreach.copy_(held, weights)
