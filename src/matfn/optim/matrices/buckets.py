"""Buckets: all matrix blocks of one shape, dtype and device, from any parameter and group, as one (b, m, n) stack.

A model has hundreds of small matrices of a handful of shapes. Orthogonalizing them one by one is bound by launches; one
batched call per shape is not. A `Slot` is one parameter's place in a stack, a `Run` is what a rule sees of
neighbouring slots with equal options, a `Bucket` is a stack. None of them holds data: gradients, weights and state are
looked up when they are needed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..scale import Scale
from . import foreach
from .layout import Layout

# 16 MB in float32: on a CPU larger stacks leave the cache between the passes over them (a step of GPT-2 small takes a
# third longer), on any device they only cost memory, because the products of such matrices fill it one at a time.
ENTRIES = 2**22

__all__ = ["ENTRIES", "Bucket", "Kind", "Run", "Slot", "check_gradients", "fill_buckets", "move", "working_dtype"]

# What there is one number of (or, for a tuple (r, d, d), r square tensors for each matrix); see `Rule.state`.
Kind = Literal["element", "row", "matrix", "counter"] | tuple[int, int, int]


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
        name: of the parameter.
        shape: rows of one matrix, then the axes of its columns.
        whole: whether the block is all of the parameter, axes in order, so that no view of it has to be made.
    """

    param: Tensor
    group: int
    layout: Layout
    piece: int
    start: int
    count: int
    name: str = ""
    shape: tuple[int, ...] = field(init=False)
    whole: bool = field(init=False)

    def __post_init__(self) -> None:
        x = self.layout
        in_order = (*x.batch, x.rows, *x.columns) == tuple(range(len(x.shape)))
        object.__setattr__(self, "shape", x.shapes[self.piece])
        object.__setattr__(self, "whole", x.split == x.shape and in_order and len(x.cuts) == 1)

    @property
    def where(self) -> slice:
        """Its matrices in the stack."""
        return slice(self.start, self.start + self.count)

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
        return self.layout.slot(stack[self.where], self.piece)

    def describe(self, i: int) -> str:
        """The i-th of its matrices, for messages."""
        cut = f", row block {self.piece}" if len(self.layout.cuts) > 1 else ""
        matrix = f", matrix {i}" if self.count > 1 else ""
        return f"parameter {self.name!r}{cut}{matrix}"


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring matrices of a stack that have the same options and, where steps are counted, the same age.

    ``run[key]`` is a copy of state, one entry for each matrix: ``(k, m, n)`` of the kind "element", ``(k, m)`` of
    "row", ``(k,)`` of "matrix", ``(k, r, d, d)`` of square tensors. ``run[key] = changed`` writes it back.

    Attributes:
        slots: the parameters' parts of it.
        options: of their group; it is the group itself, so that schedulers are followed.
        held: gives the state tensor of a parameter, by key, under these options; makes it where there is none yet.
        kinds: gives what is kept for matrices of a shape under options; see `Rule.state`.
        step: the steps that these parameters have made, this one included; 0 where no rule has a "counter".
    """

    slots: tuple[Slot, ...]
    options: Mapping[str, Any]
    held: Callable[[Tensor, str, Mapping[str, Any]], Tensor]
    kinds: Callable[[tuple[int, ...], Mapping[str, Any]], Mapping[str, Kind]]
    step: int = 0

    @cached_property
    def where(self) -> slice:
        """Its matrices in the stack."""
        return slice(self.slots[0].start, self.slots[-1].start + self.slots[-1].count)

    def __getitem__(self, key: str) -> Tensor:
        views, kind = self.views(key), self._kind(self.slots[0], key)
        if kind != "element":
            tails = [view.shape[-1:] if kind == "row" else view.shape[1:] for view in views]
            parts = zip(self.slots, views, tails, strict=True)
            return torch.cat([view.reshape(slot.count, *tail) for slot, view, tail in parts])
        _, m, n = self.slots[0].layout.matrices[self.slots[0].piece]
        stack = torch.empty(self.count, m, n, dtype=views[0].dtype, device=views[0].device)
        foreach.copy_(self._places(stack, self.where.start), views)
        return stack

    def __setitem__(self, key: str, value: Tensor) -> None:
        views = self.views(key)
        if self._kind(self.slots[0], key) == "element":
            foreach.copy_(views, self._places(value, self.where.start))
        else:
            parts = value.split([slot.count for slot in self.slots])
            foreach.copy_(views, [part.view(view.shape) for part, view in zip(parts, views, strict=True)])

    @property
    def count(self) -> int:
        """So many matrices."""
        return self.where.stop - self.where.start

    def views(self, key: str) -> list[Tensor]:
        """The state itself, one view for each slot, to be changed in place.

        Of the kind "element" with the axes (batch..., rows, columns...) of the gradient's view, of "row" (batch...,
        rows), of "matrix" (k,), of square tensors (k, r, d, d).
        """
        if self._kind(self.slots[0], key) == "element":
            return [slot.read(self.held(slot.param, key, self.options)) for slot in self.slots]
        return [self.view(slot, key) for slot in self.slots]

    def view(self, slot: Slot, key: str) -> Tensor:
        """The view of one slot."""
        state, kind = self.held(slot.param, key, self.options), self._kind(slot, key)
        if kind == "element":
            return slot.read(state)
        if kind == "row":
            return state.split(slot.layout.cuts, dim=-1)[slot.piece]
        if kind == "matrix":
            return state[slot.piece]
        if isinstance(kind, str):
            raise KeyError(f"{key!r} is a counter, which is read as `step`.")
        start = 0
        for (b, _, _), shape in list(zip(slot.layout.matrices, slot.layout.shapes, strict=True))[: slot.piece]:
            before = self.kinds(shape, self.options).get(key, (0, 0, 0))
            start += b * int(before[0])
        return state[start : start + kind[0] * slot.count].view(kind[0], slot.count, *kind[1:]).transpose(0, 1)

    def places(self, stack: Tensor) -> list[Tensor]:
        """Of each slot its view of the bucket's stack ``(b, m, n)``, with the axes of the gradient's view."""
        return self._places(stack, 0)

    def gradients(self) -> Tensor:
        """A copy of the gradients ``(k, m, n)`` in float32 (float64 for float64 weights)."""
        _, m, n = self.slots[0].layout.matrices[self.slots[0].piece]
        param = self.slots[0].param
        stack = torch.empty(self.count, m, n, dtype=working_dtype(param), device=param.device)
        foreach.copy_(self._places(stack, self.where.start), [slot.gradient() for slot in self.slots])
        return stack

    def _places(self, stack: Tensor, first: int) -> list[Tensor]:
        wheres = [slice(slot.start - first, slot.start - first + slot.count) for slot in self.slots]
        return [slot.layout.slot(stack[where], slot.piece) for slot, where in zip(self.slots, wheres, strict=True)]

    @cached_property
    def _known(self) -> dict[tuple[int, ...], Mapping[str, Kind]]:
        """The kinds for the shapes that were asked for."""
        return {}

    def _kind(self, slot: Slot, key: str) -> Kind:
        known = self._known.get(slot.shape, {})
        if key not in known:  # not asked for yet, or options have changed since
            known = self._known[slot.shape] = self.kinds(slot.shape, self.options)
        return known[key]


@dataclass(eq=False)
class Bucket:
    """Blocks of equal shape, stacked. Hooks get it, see `MatrixOptimizer`.

    Attributes:
        slots: who sits where.
        shape: ``(b, m, n)`` of the stack.
        dtype: in which momentum and direction are computed: float32, or float64 for float64 parameters.
        device: of the parameters.
        runs: the slots again, neighbours with equal options together.
        factors: the update scale for these matrices by the name of the scale, once it was asked for.
    """

    slots: tuple[Slot, ...]
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    runs: tuple[Run, ...] = ()
    factors: dict[str, float] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameter's name of each slot."""
        return tuple(slot.name for slot in self.slots)

    def weights(self) -> list[Tensor]:
        """Of each slot the view of its weights, (batch..., rows, columns...); writing to it changes the model."""
        return [slot.read(slot.param) for slot in self.slots]

    def by_group(self) -> dict[int, list[Slot]]:
        """The slots of each parameter group, by group index: hyperparameters are constant within one list."""
        found: dict[int, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(slot.group, []).append(slot)
        return found

    @cached_property
    def _matrices(self) -> bool:
        """Whether every slot is one parameter with two axes."""
        return all(slot.whole and slot.count == 1 and len(slot.layout.shape) == 2 for slot in self.slots)

    def places(self, stack: Tensor) -> list[Tensor]:
        """Of each slot its view of the stack ``(b, m, n)``, with the axes of the view that `weights` has of it.

        Where the slots are plain matrices one call cuts the stack: a view of its own for each takes as long as a kernel
        on a small matrix.
        """
        return list(stack.unbind()) if self._matrices else [slot.place(stack) for slot in self.slots]

    def gather(self, block: Callable[[Slot], Tensor]) -> Tensor:
        """The stack ``(b, m, n)`` in the bucket's dtype of ``block(slot)``, views as `Slot.read` gives them.

        ``bucket.gather(Slot.gradient)`` are the gradients.
        """
        stack = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        foreach.copy_(self.places(stack), [block(slot) for slot in self.slots])
        return stack


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of momentum and direction: float32, or the parameter's own where that is wider."""
    return torch.promote_types(param.dtype, torch.float32)


def fill_buckets(members: Iterable[tuple[int, str, Tensor, Layout]]) -> tuple[Bucket, ...]:
    """Sort the blocks of `members` into buckets.

    Args:
        members: (group index, name, parameter, layout), in a fixed order: it becomes the order inside the stacks.

    Returns:
        Buckets of at most `ENTRIES` entries, or of one block larger than that. Blocks without entries are left out.
    """
    open_: dict[tuple[int, int, torch.dtype, torch.device], Bucket] = {}
    filled: list[Bucket] = []  # in the order in which the last of them was begun or added to
    for group, name, param, layout in members:
        for piece, (b, m, n) in enumerate(layout.matrices):
            if b * m * n == 0:
                continue
            key = (m, n, working_dtype(param), param.device)
            bucket = open_.get(key)
            if bucket is None or (bucket.shape[0] + b) * m * n > ENTRIES:
                bucket = open_[key] = Bucket((), (0, *key[:2]), *key[2:])
            else:
                filled.remove(bucket)
            slot = Slot(param, group, layout, piece, bucket.shape[0], b, name)
            bucket.slots, bucket.shape = (*bucket.slots, slot), (bucket.shape[0] + b, m, n)
            filled.append(bucket)
    return tuple(filled)


def check_gradients(members: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse gradients that are no dense real matrices.

    Args:
        members: (name, parameter), each with a gradient.

    Raises:
        RuntimeError: naming the parameter.
    """
    for name, param in members:
        if param.grad is not None and (param.grad.is_sparse or param.grad.is_complex()):
            kind = "sparse" if param.grad.is_sparse else "complex"
            raise RuntimeError(
                f"parameter {name!r} has a {kind} gradient; the matrix rule needs a dense real "
                'one. Give it the rule "adamw" in a group of its own, or make the gradient dense.'
            )


def move(bucket: Bucket, scale_of: Callable[[str, str], Scale], updates: list[Tensor]) -> None:
    """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale update, rounded once.

    An lr that is a tensor on the parameters' device is not read back. One on the host is.

    Args:
        bucket: whose matrices they are; lr, weight_decay, cautious and scale are read from its runs.
        scale_of: the scale of a rule under the name that a group gives.
        updates: of each slot, with the axes of its weights' view, in the bucket's dtype; overwritten.
    """
    start = 0
    for run in bucket.runs:
        group, their = run.options, updates[start : start + len(run.slots)]
        start += len(run.slots)
        lr, weight_decay = group["lr"], float(group["weight_decay"])
        lr = lr.reshape(()) if isinstance(lr, Tensor) and lr.device == bucket.device else float(lr)
        decay = lr * weight_decay if weight_decay else 0.0
        name = group["scale"]
        if name not in bucket.factors:
            bucket.factors[name] = scale_of(group["rule"], name)(*bucket.shape[1:])
        weights = [slot.read(slot.param) for slot in run.slots]
        wide = [weight.dtype is bucket.dtype for weight in weights]
        for same in dict.fromkeys(wide):
            chosen = weights if all(wide) else [w for w, here in zip(weights, wide, strict=True) if here is same]
            moves = their if all(wide) else [u for u, here in zip(their, wide, strict=True) if here is same]
            foreach.moved(chosen, moves, lr * -bucket.factors[name], decay, cautious=group["cautious"])
