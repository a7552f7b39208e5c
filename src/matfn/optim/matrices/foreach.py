"""Elementwise operations on lists of tensors, in place, by torch's foreach kernels (few launches on a GPU).

Torch's own optimizers use these kernels, but torch does not export their names. Only this file calls them.
"""
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["add_", "average_squares_", "copy_", "in_cache", "lerp_", "lerp_into", "moved", "mul_", "zero_"]

copy_ = torch._foreach_copy_  # (targets, sources): targets <- sources, converted to the targets' dtype
lerp_ = torch._foreach_lerp_  # (targets, ends, weight): targets <- targets + weight (ends - targets)
zero_ = torch._foreach_zero_
mul_ = torch._foreach_mul_  # (targets, factor): targets <- factor targets; a tensor has no axes and the same device

_LARGE = 2**18  # from this many entries on, the cost of a call is negligible


def in_cache(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The lists themselves; for large tensors on a CPU, lists of one tensor, which a second pass finds in the cache."""
    if lists[0] and lists[0][0].device.type == "cpu" and lists[0][0].numel() >= _LARGE:
        yield from (tuple([x] for x in each) for each in zip(*lists, strict=True))
    else:
        yield lists


def lerp_into(targets: list[Tensor], starts: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """``targets <- starts + weight (ends - starts)``; the targets may be the starts."""
    if targets and targets[0].device.type == "cpu":  # a foreach kernel is a loop there too, and would need a copy first
        for target, start, end in zip(targets, starts, ends, strict=True):
            torch.lerp(start, end, weight, out=target)
        return
    if targets is not starts:
        copy_(targets, starts)
    lerp_(targets, ends, weight)


def add_(targets: list[Tensor], others: list[Tensor], factor: float) -> None:
    """``targets <- targets + factor others``."""
    torch._foreach_add_(targets, others, alpha=factor)


def average_squares_(targets: list[Tensor], others: list[Tensor], decay: float) -> None:
    """``targets <- decay targets + (1 - decay) others^2``. Infinity stays infinite; lerp would make it NaN."""
    mul_(targets, decay)
    torch._foreach_addcmul_(targets, others, others, value=1 - decay)


def moved(
    weights: list[Tensor], updates: list[Tensor], rate: float | Tensor, decay: float | Tensor, *, cautious: bool
) -> None:
    """``weights <- (1 - decay) weights + rate updates``; see `cautious` in `Muon`.

    Args:
        weights: Tensors of one dtype, changed in place.
        updates: Tensors of the same dtype or a wider one, overwritten.
        rate: A number, or a tensor without axes, which stays on its device.
        decay: As `rate`.
        cautious: Whether decay is limited to entries on which update and weight agree in sign.
    """
    held = weights
    if weights[0].dtype is not updates[0].dtype:
        # Move half-precision weights in float32. In bfloat16 1 - lr wd is 1, so that decay would do nothing.
        weights = [weight.to(update.dtype) for weight, update in zip(weights, updates, strict=True)]
    decays = isinstance(decay, Tensor) or decay != 0
    if decays and cautious:
        for weight, update in zip(weights, updates, strict=True):
            weight.sub_(torch.where(weight * update >= 0, weight, 0.0).mul_(decay))
    for some, moves in in_cache(weights, updates):
        if decays and not cautious:
            mul_(some, 1 - decay)
        if isinstance(rate, Tensor):
            mul_(moves, rate)
        add_(some, moves, 1.0 if isinstance(rate, Tensor) else rate)
    if held is not weights:
        copy_(held, weights)
