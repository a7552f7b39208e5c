"""Due: the factors whose roots or bases a step computes, in batches; roots that fail are reported by name."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import Block
from .matrices import foreach
from .matrices.buckets import Slot
from .roots import RootMethod, inverse_roots

__all__ = ["Due", "compute_roots", "portions"]

_SHOWN = 3
_LOST = "the gradients are not zero, but their squares are, or are infinite"


@dataclass(frozen=True, eq=False)
class Due:
    """The factors of one side of one block of each matrix of a slot, and what was last made of them.

    Attributes:
        slot: whose they are.
        block: which block.
        side: of the block.
        factors: ``(count, n, n)``.
        last: ``(count, n, n)``, their last roots or bases; to be overwritten.
        weight: what the weights of the average add up to, by which the factors are divided.
    """

    slot: Slot
    block: Block
    side: int
    factors: Tensor
    last: Tensor
    weight: float

    def place(self, i: int, groups: Sequence[Mapping[str, Any]]) -> str:
        """Which root of a model the i-th is, for a message."""
        group = groups[self.slot.group]
        pairs = zip(group["param_names"], group["params"], strict=True)
        name = next(name for name, param in pairs if param is self.slot.param)
        cut = f", row block {self.slot.piece}" if len(self.slot.layout.cuts) > 1 else ""
        matrix = f", matrix {i}" if self.block.count > 1 else ""
        return f"parameter {name!r}{cut}{matrix}, block {self.block}, side {self.side}"


def portions(due: Iterable[Due], limit: int) -> Iterator[list[Due]]:
    """The same in order, in portions of at most so many entries, or of one."""
    some: list[Due] = []
    entries = 0
    for one in due:
        if some and entries + one.factors.numel() > limit:
            yield some
            some, entries = [], 0
        some.append(one)
        entries += one.factors.numel()
    if some:
        yield some


def compute_roots(
    due: Sequence[Due],
    p: int,
    ridge: float,
    method: RootMethod | None,
    tolerance: float,
    groups: Sequence[Mapping[str, Any]],
    momentum: Callable[[Due], Tensor],
) -> None:
    """Roots of factors of one size, in one batch; a factor that has none keeps the root it has.

    Args:
        due: the factors; their roots are overwritten.
        p: see `inverse_roots`, as for `ridge`, `method` and `tolerance`.
        ridge: see there.
        method: see there.
        tolerance: see there.
        groups: all parameter groups, for names.
        momentum: of a block, ``(count, ...)``; asked for where a factor is zero, and a zero gradient the usual reason.
    """
    A = torch.cat([one.factors / one.weight for one in due])
    found = inverse_roots(A, p, ridge, method, tolerance)
    values, owners = found.values, [(one, i) for one in due for i in range(len(one.factors))]
    for index, _ in found.failed:
        one, i = owners[index]
        values[index] = one.last[i]
    foreach.copy_([one.last for one in due], list(values.split([len(one.factors) for one in due])))
    lost = [(k, _LOST) for k in found.zero if bool(momentum(owners[k][0])[owners[k][1]].any())]
    helps = f"A larger ridge (now {ridge:g}) or another method helps."
    for what, which, advice in (
        ("was computed again in float64", found.repeated, helps),
        ("keeps its last value", found.failed, helps),
        ("is the identity", lost, "Scale the loss, or keep the weights in float64."),
    ):
        if which:
            shown = [f"that of {owners[k][0].place(owners[k][1], groups)} {what}: {why}" for k, why in which[:_SHOWN]]
            more = f"; and {len(which) - _SHOWN} more" if len(which) > _SHOWN else ""
            warnings.warn(
                f"Shampoo: of {len(A)} inverse roots (p = {p}, {A.shape[-1]} rows) {'; '.join(shown)}{more}. {advice}",
                RuntimeWarning,
                stacklevel=2,
            )
