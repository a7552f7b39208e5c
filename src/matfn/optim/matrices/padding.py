"""Padding: small buckets of nearly equal shapes, whose directions are computed in one padded stack.

    [G 0]                      [polar(G) 0]
    [0 0]  has the polar factor [   0     0],  and so has every odd polynomial of singular values

so rows and columns of zeros change nothing but the order in which sums are rounded. What they cost is the multiply-adds
spent on them; what they save is the launches of a whole iteration, for each bucket that needs none of its own.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .buckets import ENTRIES, Bucket

__all__ = ["SAVED", "directions", "joined", "padded_shape", "parts"]

# Multiply-adds in the time of the launches of one iteration: .2 ms at 1e11 a second (AMD EPYC with AVX512-BF16, one
# thread). Measured there, 8 shapes of n x n - 7 .. n x n, one matrix each, padded against apart: n = 16 3.3 times as
# fast, 32 6.5, 64 9.9, 128 1.7; with four matrices each 5.3, 9.6, 2.9, 1.4, and at 256, where the rule refuses, 0.92.
SAVED = 2e7
_STEPS = 15  # products of the short side by five quintic steps


def joined(buckets: Iterable[Bucket], padded_below: int) -> tuple[tuple[Bucket, ...], ...]:
    """Each bucket for itself, or with others while the zeros cost less than `SAVED`.

    Args:
        buckets: all of one rule.
        padded_below: the short side of a padded stack below which the rule bears rows and columns of zeros; see `Rule`.
            0 for never.
    """
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
    """The shape of the stack that holds them all."""
    m, n = (max(bucket.shape[axis] for bucket in buckets) for axis in (1, 2))
    return sum(bucket.shape[0] for bucket in buckets), m, n


def _fits(buckets: Sequence[Bucket], padded_below: int) -> bool:
    """Whether padding them costs less than it saves and makes neither matrices nor stack too large."""
    if len({(bucket.dtype, bucket.device) for bucket in buckets}) > 1:
        return False
    number, m, n = padded_shape(buckets)
    zeros = number * _work(m, n) - sum(bucket.shape[0] * _work(*bucket.shape[1:]) for bucket in buckets)
    return min(m, n) < padded_below and zeros <= SAVED * (len(buckets) - 1) and number * m * n <= ENTRIES


def _work(m: int, n: int) -> int:
    return _STEPS * min(m, n) ** 2 * max(m, n)


def parts(buckets: Sequence[Bucket], stack: Tensor) -> Iterator[tuple[Bucket, Tensor]]:
    """The view ``(b, m, n)`` that each bucket has of the padded stack."""
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
    """The direction of each of several buckets, computed in one padded stack; the next may use the memory of the last.

    Args:
        buckets: whose.
        collect: fills the stack of a bucket.
        direction: of the padded stack.
        memory: gives room for a stack of a bucket, the same that `collect` fills.
    """
    first = buckets[0]
    padded = torch.zeros(padded_shape(buckets), dtype=first.dtype, device=first.device)
    for bucket, part in parts(buckets, padded):
        part.copy_(collect(bucket))
    found = direction(padded)
    for bucket, part in parts(buckets, found):
        yield bucket, memory(bucket).copy_(part)
