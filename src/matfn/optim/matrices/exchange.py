"""Exchange: the way from each parameter's shard to whole matrices and back, the only file where a collective may be.

Elementwise rules need no whole matrix, so they write what is to travel, straight to where it is wanted; matrix rules
get whole matrices; the weights get their own part of the result. Here every process holds every parameter whole, so
nothing travels: the shard is the matrix, in the memory that all stacks share.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..rules.rule import Elementwise
from .buckets import Bucket

__all__ = ["Exchange"]


class Exchange:
    """Stacks, and one buffer for each dtype to hold them on a CPU, as large as the largest bucket needs.

    There memory of the size of a stack comes from the system anew each time and goes back at once: the first pass over
    it takes several times as long as the ones after it. A GPU has torch's own cache of freed memory, and what is held
    there between steps is missing in the backward pass; so there a stack is allocated where it is needed, which is also
    what the capture of a CUDA graph and `torch.compile` want. Copies and checkpoints of an optimizer hold no buffer.
    """

    def __init__(self) -> None:
        self._held: dict[torch.dtype, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """What is held."""
        return sum(buffer.nbytes for buffer in self._held.values())

    def reserve(self, buckets: Iterable[Bucket]) -> None:
        """Hold what these buckets need, no more; called when they are others than before."""
        wanted: dict[torch.dtype, int] = {}
        for bucket in buckets:
            if bucket.device.type == "cpu":
                wanted[bucket.dtype] = max(wanted.get(bucket.dtype, 0), math.prod(bucket.shape))
        kept = {dtype: buffer for dtype, buffer in self._held.items() if buffer.numel() == wanted.get(dtype)}
        self._held = {}  # what does not fit goes before its successor comes
        for dtype, size in wanted.items():
            self._held[dtype] = kept[dtype] if dtype in kept else torch.empty(size, dtype=dtype, device="cpu")

    def memory(self, bucket: Bucket) -> Tensor:
        """Memory for ``(b, m, n)`` in the bucket's dtype, with whatever was in it; the next bucket gets the same."""
        size, held = math.prod(bucket.shape), self._held.get(bucket.dtype)
        if bucket.device.type != "cpu" or held is None or held.numel() < size or torch.compiler.is_compiling():
            return torch.empty(bucket.shape, dtype=bucket.dtype, device=bucket.device)
        return held[:size].view(bucket.shape)

    def matrices(self, bucket: Bucket, rule: Elementwise) -> Tensor:
        """Run the elementwise rule on every shard of a bucket, and bring together whole matrices.

        Returns:
            ``(b, m, n)`` in the bucket's dtype, the caller's until the next bucket.
        """
        stack, start = self.memory(bucket), 0
        places = bucket.places(stack)
        for run in bucket.runs:
            into = places[start : start + len(run.slots)]
            rule.update([slot.gradient() for slot in run.slots], into, run)
            start += len(run.slots)
        return stack

    def updates(self, bucket: Bucket, direction: Tensor) -> list[Tensor]:
        """Give each slot its part of the directions ``(b, m, n)``, with the axes of the view of its weights."""
        return bucket.places(direction.contiguous())
