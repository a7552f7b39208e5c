"""Workspace: the memory that the stacks of all buckets share, one after another, from step to step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .buckets import Bucket

__all__ = ["Workspace"]


class Workspace:
    """One buffer for each dtype, as large as the largest bucket needs, held from one step to the next on a CPU.

    There memory of the size of a stack comes from the system anew each time and goes back at once: the first pass over
    it takes several times as long as the ones after it. A GPU has torch's own cache of freed memory, and what is held
    there between steps is missing in the backward pass; so there a stack is allocated where it is needed, which is also
    what the capture of a CUDA graph and `torch.compile` want. Copies and checkpoints of an optimizer have no workspace.
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

    def stack(self, bucket: Bucket) -> Tensor:
        """Memory for ``(b, m, n)`` in the bucket's dtype, with whatever was in it; the next bucket gets the same."""
        size, held = math.prod(bucket.shape), self._held.get(bucket.dtype)
        if bucket.device.type != "cpu" or held is None or held.numel() < size or torch.compiler.is_compiling():
            return torch.empty(bucket.shape, dtype=bucket.dtype, device=bucket.device)
        return held[:size].view(bucket.shape)
