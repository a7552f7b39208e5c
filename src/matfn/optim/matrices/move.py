"""The update of the weights: decay and move, in place, the same for every direction."""

from collections.abc import Callable

from torch import Tensor

from ..scale import Scale
from . import foreach
from .buckets import Bucket

__all__ = ["move", "moved"]


def move(bucket: Bucket, scale_of: Callable[[str, str], Scale], updates: list[Tensor]) -> None:
    """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale update, rounded once.

    An lr that is a tensor on the parameters' device is not read back. One on the host is.

    Args:
        bucket: whose matrices they are; lr, weight_decay, cautious and scale are read from its runs.
        scale_of: the scale of a rule under the name that a group gives.
        updates: of each slot, with the axes of its weights' view, in the bucket's dtype; overwritten.
    """
    start = 0
    for run in bucket.runs:
        group, their = run.options, updates[start : start + len(run.slots)]
        start += len(run.slots)
        lr, weight_decay = group["lr"], float(group["weight_decay"])
        lr = lr.reshape(()) if isinstance(lr, Tensor) and lr.device == bucket.device else float(lr)
        decay = lr * weight_decay if weight_decay else 0.0
        name = group["scale"]
        if name not in bucket.factors:
            bucket.factors[name] = scale_of(group["rule"], name)(*bucket.shape[1:])
        weights = [slot.read(slot.param) for slot in run.slots]
        wide = [weight.dtype is bucket.dtype for weight in weights]
        for same in dict.fromkeys(wide):
            chosen = weights if all(wide) else [w for w, here in zip(weights, wide, strict=True) if here is same]
            moves = their if all(wide) else [u for u, here in zip(their, wide, strict=True) if here is same]
            moved(chosen, moves, lr * -bucket.factors[name], decay, cautious=group["cautious"])


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
