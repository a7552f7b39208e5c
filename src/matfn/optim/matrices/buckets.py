"""Buckets: all matrix blocks of one shape, dtype and device, from any parameter and group, as one (b, m, n) stack.

A model has hundreds of small matrices of a handful of shapes. Orthogonalizing them one by one is bound by launches; one
batched call per shape is not. The plan is pure bookkeeping: it holds no data, only who sits where in which stack.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from . import foreach
from .layout import Layout

# 16 MB in float32: on a CPU larger stacks leave the cache between the passes over them (a step of GPT-2 small takes a
# third longer), on any device they only cost memory, because the products of such matrices fill it one at a time.
ENTRIES = 2**22

__all__ = ["ENTRIES", "Bucket", "Slot", "check_gradients", "fill_buckets", "working_dtype"]


@dataclass(frozen=True, eq=False)
class Slot:
    """One row block of one parameter, and its place in the stack of its bucket.

    Attributes:
        param: the parameter.
        group: index of its parameter group.
        layout: how the parameter is read as matrices.
        piece: which row block of the layout.
        start: first index in the stack.
        count: so many matrices.
        whole: whether the block is all of the parameter, axes in order, so that no view of it has to be made.
    """

    param: Tensor
    group: int
    layout: Layout
    piece: int
    start: int
    count: int
    whole: bool = field(init=False)

    def __post_init__(self) -> None:
        x = self.layout
        in_order = (*x.batch, x.rows, *x.columns) == tuple(range(len(x.shape)))
        object.__setattr__(self, "whole", x.split == x.shape and in_order and len(x.cuts) == 1)

    def read(self, x: Tensor) -> Tensor:
        """The block's view of `x`, a tensor of the parameter's shape (gradient, momentum, the parameter itself)."""
        return x if self.whole else self.layout.pieces(x)[self.piece]

    def gradient(self) -> Tensor:
        """The block's view of the gradient. To be read only.

        Raises:
            RuntimeError: the parameter has none (it had when the buckets were filled).
        """
        if self.param.grad is None:
            raise RuntimeError(f"a parameter of shape {tuple(self.param.shape)} lost its gradient during the step.")
        return self.read(self.param.grad)

    def place(self, stack: Tensor) -> Tensor:
        """The block's view of the stack ``(b, m, n)``, with the axes that `read` returns."""
        return self.layout.slot(stack[self.start : self.start + self.count], self.piece)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Blocks of equal shape.

    Attributes:
        slots: who sits where.
        shape: ``(b, m, n)`` of the stack.
        dtype: in which momentum and direction are computed: float32, or float64 for float64 parameters.
        device: of the parameters.
    """

    slots: tuple[Slot, ...]
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device

    def by_group(self) -> dict[int, list[Slot]]:
        """The slots of each parameter group, by group index: hyperparameters are constant within one list."""
        return self._by_group

    @cached_property
    def _by_group(self) -> dict[int, list[Slot]]:
        found: dict[int, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(slot.group, []).append(slot)
        return found

    @cached_property
    def _matrices(self) -> bool:
        """Whether every slot is one parameter with two axes."""
        return all(slot.whole and slot.count == 1 and len(slot.layout.shape) == 2 for slot in self.slots)

    def places(self, stack: Tensor) -> dict[int, list[Tensor]]:
        """The view that each slot has of the stack ``(b, m, n)``, as `Slot.place` gives it, in the order of `by_group`.

        Where the slots are plain matrices one call cuts the stack: a view of its own for each takes as long as a kernel
        on a small matrix.
        """
        views = list(stack.unbind()) if self._matrices else [slot.place(stack) for slot in self.slots]
        found, start = {}, 0
        for index, slots in self.by_group().items():
            found[index] = views[start : start + len(slots)]
            start += len(slots)
        return found

    @staticmethod
    def run(slots: Sequence[Slot]) -> slice:
        """Where the slots of one group lie in the stack: buckets are filled group by group, so they are neighbours."""
        return slice(slots[0].start, slots[-1].start + slots[-1].count)

    def gather(self, block: Callable[[Slot], Tensor], into: Tensor | None = None) -> Tensor:
        """The stack ``(b, m, n)`` in the bucket's dtype of ``block(slot)``, views as `Slot.read` gives them.

        ``bucket.gather(Slot.gradient)`` are the gradients.

        Args:
            block: gives what is gathered.
            into: the memory to write to; None takes new memory.
        """
        stack = torch.empty(self.shape, dtype=self.dtype, device=self.device) if into is None else into
        places = [place for group in self.places(stack).values() for place in group]
        foreach.copy_(places, [block(slot) for slot in self.slots])
        return stack


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of momentum and direction: float32, or the parameter's own where that is wider."""
    return torch.promote_types(param.dtype, torch.float32)


def fill_buckets(members: Iterable[tuple[int, Tensor, Layout]]) -> tuple[Bucket, ...]:
    """Sort the blocks of `members` into buckets.

    Args:
        members: (group index, parameter, layout), in a fixed order: it becomes the order inside the stacks.

    Returns:
        Buckets of at most `ENTRIES` entries, or of one block larger than that. Blocks without entries are left out.
    """
    open_: dict[tuple[int, int, torch.dtype, torch.device], Bucket] = {}
    filled: dict[Bucket, None] = {}  # in order of first appearance
    for group, param, layout in members:
        for piece, (b, m, n) in enumerate(layout.matrices):
            if b * m * n == 0:
                continue
            key = (m, n, working_dtype(param), param.device)
            bucket = open_.get(key)
            if bucket is None or (bucket.shape[0] + b) * m * n > ENTRIES:
                bucket = Bucket((), (0, *key[:2]), *key[2:])
            else:
                del filled[bucket]
            slot = Slot(param, group, layout, piece, bucket.shape[0], b)
            bucket = Bucket((*bucket.slots, slot), (bucket.shape[0] + b, m, n), *key[2:])
            open_[key] = bucket
            filled[bucket] = None
    return tuple(filled)


def check_gradients(members: Iterable[tuple[int, Tensor]], name: Callable[[int, Tensor], str]) -> None:
    """Refuse gradients that are no dense real matrices.

    Args:
        members: (group index, parameter), each with a gradient.
        name: gives a parameter's name, for the message.

    Raises:
        RuntimeError: naming the parameter.
    """
    for index, param in members:
        if param.grad is not None and (param.grad.is_sparse or param.grad.is_complex()):
            kind = "sparse" if param.grad.is_sparse else "complex"
            raise RuntimeError(
                f"parameter {name(index, param)!r} has a {kind} gradient; the matrix rule needs a dense real "
                'one. Give it the rule "adamw" in a group of its own, or make the gradient dense.'
            )
