"""Elementwise operations on lists of tensors, in place, by torch's foreach kernels (few launches on a GPU).

Torch's own optimizers use these kernels, but torch does not export their names. Only this file calls them.
"""
# pyright: reportPrivateImportUsage=false

from collections.abc import Iterator

import torch
from torch import Tensor

from .dials import Dial

__all__ = ["add_", "average_squares_", "copy_", "in_cache", "lerp_", "lerp_into", "moved", "mul_", "zero_"]

copy_ = torch._foreach_copy_  # (targets, sources): targets <- sources, converted to the targets' dtype
zero_ = torch._foreach_zero_

_LARGE = 2**18  # from this many entries on, the cost of a call is negligible


def in_cache(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The lists themselves; for large tensors on a CPU, lists of one tensor, which a second pass finds in the cache."""
    if lists[0] and lists[0][0].device.type == "cpu" and lists[0][0].numel() >= _LARGE:
        yield from (tuple([x] for x in each) for each in zip(*lists, strict=True))
    else:
        yield lists


def mul_(targets: list[Tensor], factor: float | Tensor | Dial) -> None:
    """``targets <- factor targets``; a tensor has no axes and lies on the same device."""
    torch._foreach_mul_(targets, factor.tensor(targets[0].dtype) if isinstance(factor, Dial) else factor)


def lerp_(targets: list[Tensor], ends: list[Tensor], weight: float | Dial) -> None:
    """``targets <- targets + weight (ends - targets)``."""
    if isinstance(weight, Dial):
        _lerp_by_dial(targets, targets, ends, weight)
    else:
        torch._foreach_lerp_(targets, ends, weight)


def lerp_into(targets: list[Tensor], starts: list[Tensor], ends: list[Tensor], weight: float | Dial) -> None:
    """``targets <- starts + weight (ends - starts)``; the targets may be the starts."""
    if isinstance(weight, Dial):
        _lerp_by_dial(targets, starts, ends, weight)
        return
    if targets and targets[0].device.type == "cpu":  # a foreach kernel is a loop there too, and would need a copy first
        for target, start, end in zip(targets, starts, ends, strict=True):
            torch.lerp(start, end, weight, out=target)
        return
    if targets is not starts:
        copy_(targets, starts)
    torch._foreach_lerp_(targets, ends, weight)


def _lerp_by_dial(targets: list[Tensor], starts: list[Tensor], ends: list[Tensor], weight: Dial) -> None:
    """`lerp_into` for a weight on the device, which torch's foreach kernel cannot take.

    Small tensors are copied side by side, so that the number of launches does not depend on theirs.
    """
    share = weight.tensor(targets[0].dtype)
    if len(targets) > 1 and targets[0].numel() < _LARGE:
        mixed, first = side_by_side(starts)
        other, _ = side_by_side(ends)
        torch.lerp(mixed, other, share, out=mixed)
        copy_(targets, first)
        return
    for target, start, end in zip(targets, starts, ends, strict=True):
        torch.lerp(start, end, share, out=target)


def side_by_side(tensors: list[Tensor], dtype: torch.dtype | None = None) -> tuple[Tensor, list[Tensor]]:
    """A copy of tensors in one piece of memory, and a view of each tensor's copy."""
    whole = torch.empty(sum(x.numel() for x in tensors), dtype=dtype or tensors[0].dtype, device=tensors[0].device)
    parts = [part.view(x.shape) for part, x in zip(whole.split([x.numel() for x in tensors]), tensors, strict=True)]
    copy_(parts, tensors)
    return whole, parts


def add_(targets: list[Tensor], others: list[Tensor], factor: float) -> None:
    """``targets <- targets + factor others``."""
    torch._foreach_add_(targets, others, alpha=factor)


def average_squares_(targets: list[Tensor], others: list[Tensor], decay: float) -> None:
    """``targets <- decay targets + (1 - decay) others^2``. Infinity stays infinite; lerp would make it NaN."""
    mul_(targets, decay)
    torch._foreach_addcmul_(targets, others, others, value=1 - decay)


def moved(
    weights: list[Tensor],
    updates: list[Tensor],
    rate: float | Tensor | Dial,
    decay: float | Tensor | Dial,
    *,
    cautious: bool,
) -> None:
    """``weights <- (1 - decay) weights + rate updates``; see `cautious` in `Muon`.

    Args:
        weights: Tensors of one dtype, changed in place.
        updates: Tensors of the same dtype or a wider one, overwritten.
        rate: A number, or a tensor without axes, which stays on its device.
        decay: As `rate`.
        cautious: Whether decay is limited to entries on which update and weight agree in sign.
    """
    held, dtype = weights, updates[0].dtype
    on_cpu = weights[0].device.type == "cpu"
    if weights[0].dtype is not dtype:
        # Move half-precision weights in float32. In bfloat16 1 - lr wd is 1, so that decay would do nothing.
        weights = [weight.to(dtype) for weight in weights] if on_cpu else side_by_side(weights, dtype)[1]
    decays = bool(decay) if isinstance(decay, Dial) else isinstance(decay, Tensor) or decay != 0
    if decays and cautious:
        share = decay.tensor(dtype) if isinstance(decay, Dial) else decay
        if on_cpu:
            for weight, update in zip(weights, updates, strict=True):
                weight.sub_(_agreeing(weight, update).mul_(share))
        else:
            whole, _ = side_by_side(weights)
            parts = _agreeing(whole, side_by_side(updates)[0]).mul_(share).split([x.numel() for x in weights])
            add_(weights, [part.view(x.shape) for part, x in zip(parts, weights, strict=True)], -1.0)
    for some, moves in in_cache(weights, updates):
        if decays and not cautious:
            mul_(some, 1 - decay)
        if not isinstance(rate, float):
            mul_(moves, rate)
        add_(some, moves, rate if isinstance(rate, float) else 1.0)
    if held is not weights:
        copy_(held, weights)


def _agreeing(weight: Tensor, update: Tensor) -> Tensor:
    """The weights where the update has the same sign or one of both is zero, else 0."""
    return torch.where(weight * update >= 0, weight, 0.0)
