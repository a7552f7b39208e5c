"""Padding: small buckets of nearly equal shapes, whose directions are computed in one padded stack.

    [G 0]                       [polar(G) 0]
    [0 0]  has the polar factor [   0     0],  and likewise for every odd polynomial of singular values

so rows and columns of zeros only change the order in which sums are rounded. They cost multiply-adds, and save the
launches of a whole iteration for each bucket without a stack of its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .buckets import Bucket, entries

__all__ = ["SAVED", "directions", "joined", "padded_shape", "parts", "work"]

# Multiply-adds in the time of the launches of one iteration: .2 ms at 1e11 a second (AMD EPYC with AVX512-BF16, one
# thread). docs/optimizers.md has measurements.
SAVED = 2e7
_STEPS = 15  # products of the short side by five quintic steps


def joined(buckets: Iterable[Bucket], padded_below: int) -> tuple[tuple[Bucket, ...], ...]:
    """The buckets of one rule in tuples to be padded, while zeros cost less than `SAVED`; see `Rule.padded_below`."""
    if padded_below <= 0:
        return tuple((bucket,) for bucket in buckets)
    found: list[tuple[Bucket, ...]] = []
    for bucket in sorted(buckets, key=lambda bucket: bucket.shape[1:], reverse=True):
        fits = [i for i, others in enumerate(found) if _fits((*others, bucket), padded_below)]
        if fits:
            best = min(fits, key=lambda i: math.prod(padded_shape((*found[i], bucket))))
            found[best] = (*found[best], bucket)
        else:
            found.append((bucket,))
    return tuple(found)


def padded_shape(buckets: Sequence[Bucket]) -> tuple[int, int, int]:
    """The shape of the stack that holds all the buckets."""
    m, n = (max(bucket.shape[axis] for bucket in buckets) for axis in (1, 2))
    return sum(bucket.shape[0] for bucket in buckets), m, n


def _fits(buckets: Sequence[Bucket], padded_below: int) -> bool:
    """Whether padding costs less than it saves, and neither matrices nor stack become too large."""
    if len({(bucket.dtype, bucket.device) for bucket in buckets}) > 1:
        return False
    number, m, n = padded_shape(buckets)
    zeros = number * work(m, n) - sum(bucket.shape[0] * work(*bucket.shape[1:]) for bucket in buckets)
    return (
        min(m, n) < padded_below
        and zeros <= SAVED * (len(buckets) - 1)
        and number * m * n <= entries(buckets[0].device)
    )


def work(m: int, n: int) -> int:
    """Multiply-adds of five quintic steps on an (m, n) matrix, in round numbers."""
    return _STEPS * min(m, n) ** 2 * max(m, n)


def parts(buckets: Sequence[Bucket], stack: Tensor) -> Iterator[tuple[Bucket, Tensor]]:
    """Each bucket with its view ``(b, m, n)`` of the padded stack."""
    start = 0
    for bucket in buckets:
        b, m, n = bucket.shape
        yield bucket, stack[start : start + b, :m, :n]
        start += b


def directions(
    buckets: Sequence[Bucket],
    collect: Callable[[Bucket], Tensor],
    direction: Callable[[Tensor], Tensor],
    memory: Callable[[Bucket], Tensor],
) -> Iterator[tuple[Bucket, Tensor]]:
    """The direction of each bucket, computed in one padded stack. The next direction may use the same memory.

    Args:
        buckets: The buckets of the padded stack.
        collect: Fills and returns the stack of a bucket.
        direction: Computes the directions of the padded stack.
        memory: Memory for the stack of a bucket, the same that `collect` fills.
    """
    first = buckets[0]
    padded = torch.zeros(padded_shape(buckets), dtype=first.dtype, device=first.device)
    for bucket, part in parts(buckets, padded):
        part.copy_(collect(bucket))
    found = direction(padded)
    for bucket, part in parts(buckets, found):
        yield bucket, memory(bucket).copy_(part)
