"""Stacks: the matrices of a bucket between the rules of a step, in one buffer where new memory is slow."""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..rules.rule import Elementwise, Rule
from .buckets import Bucket, Run
from .padding import directions as padded

__all__ = ["Stacks"]


class Stacks:
    """Memory for stacks: on a CPU one buffer for each dtype, of the size of the largest bucket.

    On a CPU, memory of this size is requested from the system each time, and its first pass takes several times as
    long. On a GPU, torch caches freed memory, and a buffer would be missing in the backward pass. So stacks are
    allocated there when needed, as CUDA graphs and `torch.compile` require. Copies of an optimizer hold no buffer.
    """

    def __init__(self) -> None:
        self._held: dict[torch.dtype, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Size of the buffers."""
        return sum(buffer.nbytes for buffer in self._held.values())

    def reserve(self, buckets: Iterable[Bucket]) -> None:
        """Hold the memory that these buckets need. Called when the buckets have changed."""
        wanted: dict[torch.dtype, int] = {}
        for bucket in buckets:
            if bucket.device.type == "cpu":
                wanted[bucket.dtype] = max(wanted.get(bucket.dtype, 0), math.prod(bucket.shape))
        kept = {dtype: buffer for dtype, buffer in self._held.items() if buffer.numel() == wanted.get(dtype)}
        self._held = {}  # free the old buffers before new ones are allocated
        for dtype, size in wanted.items():
            self._held[dtype] = kept[dtype] if dtype in kept else torch.empty(size, dtype=dtype, device="cpu")

    def stack(self, bucket: Bucket) -> Tensor:
        """Uninitialised memory for ``(b, m, n)`` in the bucket's dtype. The next bucket gets the same memory."""
        size, held = math.prod(bucket.shape), self._held.get(bucket.dtype)
        if bucket.device.type != "cpu" or held is None or held.numel() < size or torch.compiler.is_compiling():
            return torch.empty(bucket.shape, dtype=bucket.dtype, device=bucket.device)
        return held[:size].view(bucket.shape)

    def matrices(self, bucket: Bucket, rule: Elementwise) -> Tensor:
        """The whole matrices ``(b, m, n)`` that the elementwise rule gives, valid until the next bucket."""
        stack, start = self.stack(bucket), 0
        places = bucket.places(stack)
        for run in bucket.runs:
            into = places[start : start + len(run.slots)]
            rule.update([slot.gradient() for slot in run.slots], into, run)
            start += len(run.slots)
        return stack

    def updates(self, bucket: Bucket, direction: Tensor) -> list[Tensor]:
        """Each slot's part of the directions ``(b, m, n)``, with the axes of the view of its weights."""
        return bucket.places(direction.contiguous())

    def directions(
        self, first: Elementwise, rules: Sequence[Rule], together: Sequence[Bucket]
    ) -> Iterator[tuple[Bucket, Tensor]]:
        """The direction of each bucket, in its shape and dtype. The next direction may use the same memory.

        Args:
            first: Writes the input of the matrix rules.
            rules: The matrix rules, in order.
            together: Buckets that share a stack.
        """

        def collect(bucket: Bucket) -> Tensor:
            return self.matrices(bucket, first)

        def direction(stack: Tensor, runs: Sequence[Run] = ()) -> Tensor:
            for rule in rules:
                found = rule.update(stack, runs)
                if not isinstance(found, Tensor) or found.shape != stack.shape or not found.is_floating_point():
                    got = f"{tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
                    raise TypeError(f"{type(rule).__name__}.update must return {tuple(stack.shape)}, got {got}.")
                stack = found
            return stack

        if len(together) > 1:
            yield from padded(together, collect, direction, self.stack)
            return
        [bucket] = together
        stack = collect(bucket)
        found = direction(stack, bucket.runs)
        yield bucket, found if found.dtype is bucket.dtype else stack.copy_(found)  # reuse the stack to widen it
