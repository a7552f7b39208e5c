"""Elementwise operations on lists of tensors, in place, by torch's foreach kernels (few launches on a GPU).

They are what torch's own optimizers run on, but torch does not export them by name; this file is the one place that
reaches for them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["add_", "average_squares_", "copy_", "in_cache", "lerp_", "lerp_into", "moved", "mul_", "shift_"]

_LARGE = 2**18  # entries: from here on a call by itself costs nothing beside what it does


def in_cache(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The lists whole; on a CPU, where tensors are large, one tensor of each at a time.

    A foreach kernel is a loop there. Two after each other on one tensor find it in the cache, on all of a bucket they
    do not.
    """
    if lists[0] and lists[0][0].device.type == "cpu" and lists[0][0].numel() >= _LARGE:
        yield from (tuple([x] for x in each) for each in zip(*lists, strict=True))
    else:
        yield lists


def copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """``targets <- sources``, converted to the targets' dtype."""
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]


def lerp_(targets: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """``targets <- targets + weight (ends - targets)``."""
    torch._foreach_lerp_(targets, ends, weight)  # pyright: ignore[reportPrivateImportUsage]


def lerp_into(targets: list[Tensor], starts: list[Tensor], ends: list[Tensor], weight: float) -> None:
    """``targets <- starts + weight (ends - starts)``; the targets may be the starts."""
    if targets and targets[0].device.type == "cpu":
        # There a foreach kernel is a loop too, and this one does not copy first.
        for target, start, end in zip(targets, starts, ends, strict=True):
            torch.lerp(start, end, weight, out=target)
        return
    if targets is not starts:
        copy_(targets, starts)
    lerp_(targets, ends, weight)


def mul_(targets: list[Tensor], factor: float | Tensor) -> None:
    """``targets <- factor targets``; a factor that is a tensor has no axes and lies where the targets are."""
    torch._foreach_mul_(targets, factor)  # pyright: ignore[reportPrivateImportUsage]


def add_(targets: list[Tensor], others: list[Tensor], factor: float) -> None:
    """``targets <- targets + factor others``."""
    torch._foreach_add_(targets, others, alpha=factor)  # pyright: ignore[reportPrivateImportUsage]


def average_squares_(targets: list[Tensor], others: list[Tensor], decay: float) -> None:
    """``targets <- decay targets + (1 - decay) others^2``; what is infinite stays so, where lerp makes it NaN."""
    mul_(targets, decay)
    torch._foreach_addcmul_(targets, others, others, value=1 - decay)  # pyright: ignore[reportPrivateImportUsage]


def shift_(targets: list[Tensor], by: float) -> None:
    """``targets <- targets + by``."""
    torch._foreach_add_(targets, by)  # pyright: ignore[reportPrivateImportUsage]


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
    for some, moves in in_cache(weights, updates):
        if decays and not cautious:
            mul_(some, 1 - decay)
        if isinstance(rate, Tensor):
            mul_(moves, rate)
        add_(some, moves, 1.0 if isinstance(rate, Tensor) else rate)
    if held is not weights:
        copy_(held, weights)
