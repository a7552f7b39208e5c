"""Crowds: small buckets of nearly equal shapes, whose directions are computed in one padded stack.

    [G 0]                      [polar(G) 0]
    [0 0]  has the polar factor [   0     0],  and so has every odd polynomial of singular values

so rows and columns of zeros change nothing but the order in which sums are rounded. What they cost is the multiply-adds
spent on them; what they save is the launches of a whole iteration, for each bucket that needs none of its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .buckets import ENTRIES, Bucket

__all__ = ["SAVED", "Crowd", "directions", "form_crowds"]

# Multiply-adds in the time of the launches of one iteration: .2 ms at 1e11 a second (AMD EPYC with AVX512-BF16, one
# thread). Measured there, 8 shapes of n x n - 7 .. n x n, one matrix each, padded against apart: n = 16 3.3 times as
# fast, 32 6.5, 64 9.9, 128 1.7; with four matrices each 5.3, 9.6, 2.9, 1.4, and at 256, where the rule refuses, 0.92.
SAVED = 2e7
_STEPS = 15  # products of the short side by five quintic steps


@dataclass(frozen=True, eq=False)
class Crowd:
    """Buckets whose directions are computed together.

    Attributes:
        buckets: one, or several of one dtype and device.
        whole: the padded stack, without slots, because the matrices in it are larger than those of any parameter.
    """

    buckets: tuple[Bucket, ...]
    whole: Bucket

    def parts(self, stack: Tensor) -> Iterator[tuple[Bucket, Tensor]]:
        """The view of each bucket ``(b, m, n)`` of the padded stack."""
        start = 0
        for bucket in self.buckets:
            b, m, n = bucket.shape
            yield bucket, stack[start : start + b, :m, :n]
            start += b


def form_crowds(buckets: Iterable[Bucket], padded_below: int) -> tuple[Crowd, ...]:
    """Each bucket for itself, or, where zeros are borne, with others while what they cost is less than `SAVED`.

    Args:
        buckets: all.
        padded_below: the short side of a padded stack below which the direction bears rows and columns of zeros:
            nothing in it depends on shapes, on sketches or on the number of singular values. 0 for never.
    """
    if padded_below <= 0:
        return tuple(Crowd((bucket,), bucket) for bucket in buckets)
    crowds: list[Crowd] = []
    for bucket in sorted(buckets, key=lambda bucket: bucket.shape[1:], reverse=True):
        joined = [(found, i) for i, crowd in enumerate(crowds) if (found := _joined(crowd, bucket, padded_below))]
        if joined:
            crowd, i = min(joined, key=lambda pair: math.prod(pair[0].whole.shape))
            crowds[i] = crowd
        else:
            crowds.append(Crowd((bucket,), bucket))
    return tuple(crowds)


def _joined(crowd: Crowd, bucket: Bucket, padded_below: int) -> Crowd | None:
    """The crowd with the bucket in it, None if it costs more than it saves or makes matrices or a stack too large."""
    if (crowd.whole.dtype, crowd.whole.device) != (bucket.dtype, bucket.device):
        return None
    members = (*crowd.buckets, bucket)
    m, n = (max(member.shape[axis] for member in members) for axis in (1, 2))
    number = sum(member.shape[0] for member in members)
    zeros = number * _work(m, n) - sum(member.shape[0] * _work(*member.shape[1:]) for member in members)
    if min(m, n) >= padded_below or zeros > SAVED * (len(members) - 1) or number * m * n > ENTRIES:
        return None
    return Crowd(members, Bucket((), (number, m, n), bucket.dtype, bucket.device))


def _work(m: int, n: int) -> int:
    return _STEPS * min(m, n) ** 2 * max(m, n)


def directions(
    crowd: Crowd,
    collect: Callable[[Bucket], Tensor],
    direction: Callable[[Bucket, Tensor], Tensor],
    memory: Callable[[Bucket], Tensor],
) -> Iterator[tuple[Bucket, Tensor]]:
    """The direction of each bucket in turn, in its own shape and dtype; the next may use the memory of the last.

    Args:
        crowd: whose.
        collect: fills the stack of a bucket.
        direction: of a bucket and its stack.
        memory: gives room for a stack, what `collect` fills too.
    """
    if len(crowd.buckets) == 1:
        [bucket] = crowd.buckets
        stack = collect(bucket)
        found = direction(bucket, stack)
        # A stack that has had its use takes a direction in a narrower dtype, so this needs no more memory.
        yield bucket, found if found.dtype is bucket.dtype else stack.copy_(found)
        return
    padded = torch.zeros(crowd.whole.shape, dtype=crowd.whole.dtype, device=crowd.whole.device)
    for bucket, part in crowd.parts(padded):
        part.copy_(collect(bucket))
    found = direction(crowd.whole, padded)
    for bucket, part in crowd.parts(found):
        yield bucket, memory(bucket).copy_(part)
