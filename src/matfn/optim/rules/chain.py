"""Chain: the rules of an optimizer, applied to buckets one after the other."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..matrices.buckets import Bucket, Run
from ..matrices.memory import Memory
from ..matrices.padding import directions as padded
from .rule import Elementwise, Rule

__all__ = ["directions"]


def directions(
    first: Elementwise, rules: Sequence[Rule], together: Sequence[Bucket], memory: Memory
) -> Iterator[tuple[Bucket, Tensor]]:
    """The direction of each bucket, in its shape and dtype. The next direction may use the same memory.

    Args:
        first: Writes the input of the matrix rules.
        rules: The matrix rules, in order.
        together: Buckets that share a stack.
        memory: Has the memory of the stacks.
    """

    def collect(bucket: Bucket) -> Tensor:
        return memory.matrices(bucket, first)

    def direction(stack: Tensor, runs: Sequence[Run] = ()) -> Tensor:
        for rule in rules:
            found = rule.update(stack, runs)
            if not isinstance(found, Tensor) or found.shape != stack.shape or not found.is_floating_point():
                got = f"{tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
                raise TypeError(f"{type(rule).__name__}.update must return {tuple(stack.shape)}, got {got}.")
            stack = found
        return stack

    if len(together) > 1:
        yield from padded(together, collect, direction, memory.stack)
        return
    [bucket] = together
    stack = collect(bucket)
    found = direction(stack, bucket.runs)
    yield bucket, found if found.dtype is bucket.dtype else stack.copy_(found)  # reuse the stack to widen it
