"""Buckets: all matrix blocks of one shape, dtype and device, from any parameter and group, as one (b, m, n) stack.

A model has hundreds of small matrices of few shapes. One batched call per shape saves most of the launches. A `Bucket`
is a stack, a `Slot` one parameter's place in it, and a `Run` several neighbouring slots with equal options. They hold
no data: gradients, weights and state are looked up when needed.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from ..scale import Scale
from . import foreach
from .dials import Dial
from .layout import Layout
from .rounding import COMPENSATION, half, narrowed_, noise_key, widened
from .shards import is_dtensor, local, offset

# Most entries of a stack. On a CPU 16 MB in float32: larger stacks leave the cache between passes, and a step of GPT-2
# small takes a third longer. Elsewhere 128 MB: each of three stacks holds twelve or more matrices of GPT-2 small, so a
# tenth of the launches is left. Not yet measured on a GPU in whole steps; stacks of this size were (docs/gpu.md).
ENTRIES = 2**22
ENTRIES_OF_DEVICE = 2**25

__all__ = [
    "ENTRIES",
    "ENTRIES_OF_DEVICE",
    "Bucket",
    "Kind",
    "Run",
    "Slot",
    "entries",
    "fill_buckets",
    "move",
    "number",
    "runs_of",
    "working_dtype",
]

Kind = Literal["element", "row", "matrix", "counter"] | tuple[int, int, int]  # see `Rule.state`
Held = Callable[[Tensor, str, Mapping[str, Any]], Tensor]  # (parameter, key, options) -> state, made if missing
Kinds = Callable[[tuple[int, ...], Mapping[str, Any]], Mapping[str, Kind]]  # (shape, options) -> see `Rule.state`


@dataclass(frozen=True, eq=False)
class Slot:
    """One row block of one parameter, and its place in the stack of its bucket."""

    param: Tensor
    group: int  # index of the parameter group
    layout: Layout  # how the parameter is read as matrices
    piece: int  # index of the row block in the layout
    start: int  # first index in the stack
    count: int  # the number of matrices
    name: str = ""  # of the parameter
    shape: tuple[int, ...] = field(init=False)  # rows of one matrix, then the axes of its columns
    whole: bool = field(init=False)  # whether it is the parameter itself, which needs no view
    plain: bool = field(init=False)  # whether the parameter is no DTensor

    def __post_init__(self) -> None:
        x = self.layout
        in_order = (*x.batch, *x.outer, x.rows, *x.columns) == tuple(range(len(x.shape)))
        object.__setattr__(self, "shape", x.shapes[self.piece])
        object.__setattr__(self, "plain", not is_dtensor(self.param))
        object.__setattr__(self, "whole", x.split == x.shape and in_order and len(x.cuts) == 1)

    @property
    def where(self) -> slice:
        """The indices in the stack."""
        return slice(self.start, self.start + self.count)

    def read(self, x: Tensor) -> Tensor:
        """The block's view of `x`, a tensor of the parameter's shape (gradient, momentum, the parameter itself).

        The layout is the layout of the part that this process holds, and the view is plain.
        """
        x = x if self.plain else local(x)
        return x if self.whole else self.layout.pieces(x)[self.piece]

    def gradient(self) -> Tensor:
        """The block's view of the gradient, read only.

        Raises:
            RuntimeError: If the gradient was removed during the step.
        """
        if self.param.grad is None:
            raise RuntimeError(f"parameter {self.name!r} lost its gradient during the step.")
        return self.read(self.param.grad)

    def place(self, stack: Tensor, first: int = 0) -> Tensor:
        """The block's view of the part of a stack ``(b, m, n)`` from index `first` on, with the axes of `read`."""
        start = self.start - first
        return self.layout.slot(stack[start : start + self.count], self.piece)

    def describe(self, i: int) -> str:
        """Name of the i-th matrix, for messages."""
        cut = f", row block {self.piece}" if len(self.layout.cuts) > 1 else ""
        matrix = f", matrix {i}" if self.count > 1 else ""
        return f"parameter {self.name!r}{cut}{matrix}"


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbouring matrices of a stack with the same options and, if steps are counted, the same age.

    ``run[key]`` is a copy of state, one entry for each matrix: ``(k, m, n)`` for the kind "element", ``(k, m)`` for
    "row", ``(k,)`` for "matrix", ``(k, r, d, d)`` for square tensors. ``run[key] = changed`` writes it back.
    """

    slots: tuple[Slot, ...]
    options: Mapping[str, Any]  # the group itself, so that schedulers are followed
    held: Held
    kinds: Kinds
    step: int = 0  # the number of this step for these parameters, from 1; 0 if no rule has a "counter"
    prepared: dict[str, list[Tensor]] = field(default_factory=dict)  # `views` of a step that torch.compile traces

    @cached_property
    def where(self) -> slice:
        """The indices in the stack."""
        return slice(self.slots[0].start, self.slots[-1].start + self.slots[-1].count)

    def __getitem__(self, key: str) -> Tensor:
        views, kind = self.views(key), self._kind(self.slots[0], key)
        if kind != "element":
            tails = [
                slot.shape[:1] if kind == "row" else view.shape[1:]
                for slot, view in zip(self.slots, views, strict=True)
            ]
            parts = zip(self.slots, views, tails, strict=True)
            return torch.cat([view.reshape(slot.count, *tail) for slot, view, tail in parts])
        return self._stacked(views, views[0].dtype)

    def __setitem__(self, key: str, value: Tensor) -> None:
        views = self.views(key)
        if self._kind(self.slots[0], key) == "element":
            foreach.copy_(views, self._places(value))
        else:
            parts = value.split([slot.count for slot in self.slots])
            foreach.copy_(views, [part.view(view.shape) for part, view in zip(parts, views, strict=True)])

    def views(self, key: str) -> list[Tensor]:
        """The state itself, one view for each slot, to be changed in place.

        The axes are (batch..., rows, columns...) as in the gradient's view for "element", (batch..., rows) for "row",
        (k,) for "matrix" and (k, r, d, d) for square tensors.
        """
        if torch.compiler.is_compiling():
            return self.prepared[key]
        return [self.view(slot, key) for slot in self.slots]

    def view(self, slot: Slot, key: str) -> Tensor:
        """The view of one slot; see `views`."""
        state, kind = self.held(slot.param, key, self.options), self._kind(slot, key)
        state = state if slot.plain else local(state)
        if kind == "element":
            return slot.read(state)
        if kind == "row":
            return state.split(slot.layout.cuts, dim=-1)[slot.piece]
        if kind == "matrix":
            return state[slot.piece]
        if isinstance(kind, str):
            raise KeyError(f"{key!r} is a counter: read it as `step`.")
        start = 0
        for (b, _, _), shape in list(zip(slot.layout.matrices, slot.layout.shapes, strict=True))[: slot.piece]:
            before = self.kinds(shape, self.options).get(key, (0, 0, 0))
            start += b * int(before[0])
        return state[start : start + kind[0] * slot.count].view(kind[0], slot.count, *kind[1:]).transpose(0, 1)

    def places(self, stack: Tensor) -> list[Tensor]:
        """Each slot's view of the bucket's stack ``(b, m, n)``, with the axes of the gradient's view."""
        return [slot.place(stack) for slot in self.slots]

    def gradients(self) -> Tensor:
        """A copy of the gradients ``(k, m, n)`` in float32 (float64 for float64 weights)."""
        return self._stacked([slot.gradient() for slot in self.slots], working_dtype(self.slots[0].param))

    def _places(self, part: Tensor) -> list[Tensor]:
        """Each slot's view of this run's part ``(k, m, n)`` of a stack."""
        return [slot.place(part, self.where.start) for slot in self.slots]

    def _stacked(self, views: list[Tensor], dtype: torch.dtype) -> Tensor:
        """A copy ``(k, m, n)`` of one view for each slot."""
        _, m, n = self.slots[0].layout.matrices[self.slots[0].piece]
        stack = torch.empty(self.where.stop - self.where.start, m, n, dtype=dtype, device=views[0].device)
        foreach.copy_(self._places(stack), views)
        return stack

    @cached_property
    def _known(self) -> dict[tuple[int, ...], Mapping[str, Kind]]:
        """{shape: kinds} as far as known."""
        return {}

    def _kind(self, slot: Slot, key: str) -> Kind:
        known = self._known.get(slot.shape, {})
        if key not in known:  # first use, or options have changed
            known = self._known[slot.shape] = self.kinds(slot.shape, self.options)
        return known[key]


def runs_of(
    slots: Iterable[Slot],
    groups: Sequence[Mapping[str, Any]],
    age_of: Callable[[Tensor], int],
    held: Held,
    kinds: Kinds,
) -> tuple[Run, ...]:
    """The slots of a stack, neighbours of one group and age together; see `Run`."""
    alike = itertools.groupby(slots, lambda slot: (slot.group, age_of(slot.param)))
    return tuple(Run(tuple(some), groups[group], held, kinds, age) for (group, age), some in alike)


@dataclass(eq=False)
class Bucket:
    """Blocks of equal shape, stacked. It is passed to hooks, see `MatrixOptimizer`."""

    slots: tuple[Slot, ...]  # in order
    shape: tuple[int, int, int]  # ``(b, m, n)`` of the stack
    dtype: torch.dtype  # of momentum and direction: float32, or float64 for float64 parameters
    device: torch.device
    runs: tuple[Run, ...] = ()  # the slots, neighbours with equal options together
    factors: dict[str, float] = field(default_factory=dict)  # {scale: its value here} as far as known

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The parameter's name for each slot."""
        return tuple(slot.name for slot in self.slots)

    def weights(self) -> list[Tensor]:
        """The view of the weights for each slot, (batch..., rows, columns...). Writing to it changes the model."""
        return [slot.read(slot.param) for slot in self.slots]

    @cached_property
    def _matrices(self) -> bool:
        """Whether every slot is one parameter with two axes."""
        return all(slot.whole and slot.count == 1 and len(slot.layout.shape) == 2 for slot in self.slots)

    def places(self, stack: Tensor) -> list[Tensor]:
        """Each slot's view of the stack ``(b, m, n)``, with the axes of `weights`.

        Plain matrices are cut by one call, because single views take as long as a kernel on a small matrix.
        """
        return list(stack.unbind()) if self._matrices else [slot.place(stack) for slot in self.slots]

    def gather(self, block: Callable[[Slot], Tensor]) -> Tensor:
        """The stack ``(b, m, n)`` of ``block(slot)``: ``bucket.gather(Slot.gradient)`` copies the gradients."""
        stack = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        foreach.copy_(self.places(stack), [block(slot) for slot in self.slots])
        return stack


def working_dtype(param: Tensor) -> torch.dtype:
    """The dtype of momentum and direction: float32, or the parameter's own if that is wider."""
    return torch.promote_types(param.dtype, torch.float32)


def entries(device: torch.device) -> int:
    """Most entries of a stack on a device."""
    return ENTRIES if device.type == "cpu" else ENTRIES_OF_DEVICE


def fill_buckets(members: Iterable[tuple[int, str, Tensor, Layout]]) -> tuple[Bucket, ...]:
    """Sort the blocks of (group index, name, parameter, layout) into buckets, in this order inside a stack.

    A bucket has at most `entries`, or one larger block. Empty blocks are left out.
    """
    open_: dict[tuple[int, int, torch.dtype, torch.device], Bucket] = {}
    filled: list[Bucket] = []  # ordered by the last addition
    for group, name, param, layout in members:
        for piece, (b, m, n) in enumerate(layout.matrices):
            if b * m * n == 0:
                continue
            key = (m, n, working_dtype(param), param.device)
            bucket = open_.get(key)
            if bucket is None or (bucket.shape[0] + b) * m * n > entries(param.device):
                bucket = open_[key] = Bucket((), (0, *key[:2]), *key[2:])
            else:
                filled.remove(bucket)
            slot = Slot(param, group, layout, piece, bucket.shape[0], b, name)
            bucket.slots, bucket.shape = (*bucket.slots, slot), (bucket.shape[0] + b, m, n)
            filled.append(bucket)
    return tuple(filled)


def number(option: Any) -> Any:
    """An option as a float, or as the dial that it is."""
    return option if isinstance(option, Dial) else float(option)


def move(bucket: Bucket, scale_of: Callable[[str, str], Scale], updates: list[Tensor]) -> None:
    """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale update, rounded once; see `rounding`.

    If lr is a tensor on the parameters' device, it stays there.

    Args:
        bucket: The matrices. Its runs have lr, weight_decay, cautious, scale, rounding and seed.
        scale_of: (rule, name of the scale) -> scale.
        updates: One for each slot, with the axes of the weights' view, in the bucket's dtype. They are overwritten.
    """
    start = 0
    for run in bucket.runs:
        group, their = run.options, updates[start : start + len(run.slots)]
        start += len(run.slots)
        lr, weight_decay = group["lr"], number(group["weight_decay"])
        lr = lr.reshape(()) if isinstance(lr, Tensor) and lr.device == bucket.device else number(lr)
        decay = lr * weight_decay if weight_decay else 0.0
        name = group["scale"]
        if name not in bucket.factors:
            bucket.factors[name] = scale_of(group["rule"], name)(*bucket.shape[1:])
        held = [slot.read(slot.param) for slot in run.slots]
        rests = [_compensation(run, slot) for slot in run.slots]
        exact = [group["rounding"] != "nearest" and half(weight) for weight in held]
        weights = [widened(w, rest) if wide else w for w, rest, wide in zip(held, rests, exact, strict=True)]
        wide = [weight.dtype is bucket.dtype for weight in weights]
        for same in dict.fromkeys(wide):
            chosen = weights if all(wide) else [w for w, here in zip(weights, wide, strict=True) if here is same]
            moves = their if all(wide) else [u for u, here in zip(their, wide, strict=True) if here is same]
            foreach.moved(chosen, moves, lr * -bucket.factors[name], decay, cautious=group["cautious"])
        for slot, weight, moved, rest, narrow in zip(run.slots, held, weights, rests, exact, strict=True):
            if narrow:
                key = noise_key(group["seed"], slot.name, slot.piece, run.step, offset(slot.param))
                narrowed_(weight, moved, group["rounding"], key, rest)


def _compensation(run: Run, slot: Slot) -> Tensor | None:
    """The slot's view of the rounding errors that "compensated" keeps; None for another rounding or dtype."""
    if run.options["rounding"] != "compensated" or not half(slot.param):
        return None
    return slot.read(run.held(slot.param, COMPENSATION, run.options))
