"""Kronecker factors: the second moments of each side of each block, which the rules of Shampoo and SOAP share.

For a block G with sides d_1, ..., d_k and G_j its unfolding along side j, a d_j x (the rest) matrix, the factors are

    A_j <- beta2 A_j + (1 - beta2) G_j G_j^T        float32 at least, divided by 1 - beta2^updates where it is used

so G G^T and G^T G for a matrix. A rule computes roots or bases of the factors in `prepare`, before any weight moves.
Factors of equal size share a batch, whatever their parameter and side.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run, Slot
from ..options import check_count
from .blocks import Block, Cutting, blocks_of, sizes
from .ema import MOMENTUM
from .rule import Rule

__all__ = ["Blocks", "Factor", "Kronecker", "along", "gathered", "gradients_of", "gram", "keep", "portions"]

FACTORS = "factors"
_ENTRIES = 2**24  # the greatest temporary beside the state: 64 MB in float32


@dataclass(eq=False)
class Blocks:
    """Blocks of one shape in one stack, whose parameters have equal options and age: a batch ``(k, *shape)``."""

    members: tuple[tuple[Run, Slot, Block], ...]  # the blocks of each slot, in the order of the batch

    def __post_init__(self) -> None:
        run, _, block = self.members[0]
        self.shape, self.sides = block.shape, block.sides
        self.options, self.step = run.options, run.step
        self.counts = [slot.count for _, slot, _ in self.members]  # the number of blocks of each member

    def views(self, stack: Tensor) -> list[Tensor]:
        """The ``(count, *shape)`` view of the stack ``(b, m, n)`` for each member."""
        return [block.read(stack[slot.where]) for _, slot, block in self.members]

    def gather(self, stack: Tensor) -> Tensor:
        """The blocks, copied from the stack ``(b, m, n)``."""
        return torch.cat(self.views(stack))

    def scatter(self, values: Tensor, stack: Tensor) -> None:
        """Write the blocks into the stack ``(b, m, n)``."""
        foreach.copy_(self.views(stack), list(values.split(self.counts)))

    def state(self, side: int, kind: str) -> list[Tensor]:
        """The ``(count, d, d)`` view of the state for each member: of the factors, or of their roots or bases."""
        found = []
        for run, slot, block in self.members:
            factor = block.factors[side]
            assert factor is not None
            found.append(run.view(slot, f"{kind}_{factor[0]}")[:, factor[1]])
        return found


@dataclass(frozen=True, eq=False)
class Factor:
    """The factors of one side of one block of each matrix of a slot."""

    run: Run
    slot: Slot
    block: Block
    side: int
    values: Tensor  # the factors, (count, d, d)
    last: Tensor  # their last roots or bases, (count, d, d), to be overwritten
    weight: float  # the sum of the weights of the average, by which factors are divided

    def describe(self, i: int) -> str:
        """Name of the i-th factor, for messages."""
        return f"{self.slot.describe(i)}, block {self.block}, side {self.side}"

    def momentum(self) -> Tensor:
        """The momentum of the block before this step, ``(count, *shape)``."""
        whole = self.run.view(self.slot, MOMENTUM).contiguous()
        return self.block.read(whole.view(self.slot.count, self.slot.shape[0], -1))


def portions(factors: Iterable[Factor], limit: int) -> Iterator[list[Factor]]:
    """The factors in order, in lists of at most `limit` entries, or of one factor."""
    some: list[Factor] = []
    entries = 0
    for one in factors:
        if some and entries + one.values.numel() > limit:
            yield some
            some, entries = [], 0
        some.append(one)
        entries += one.values.numel()
    if some:
        yield some


def gram(blocks: Tensor, side: int) -> Tensor:
    """G_j G_j^T, ``(k, d, d)``, of blocks ``(k, *shape)`` unfolded along side j; 0 if not finite or too large.

    Otherwise one such gradient would stay in the average for ever.
    """
    unfolded = blocks.movedim(side + 1, 1).flatten(2) if blocks.ndim > 2 else blocks.unsqueeze(2)
    product = unfolded @ unfolded.mT
    finite = product.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(finite, product, 0.0)


def along(blocks: Tensor, matrices: Tensor, side: int) -> Tensor:
    """Blocks ``(k, *shape)``, each multiplied by its matrix ``(k, d, d)`` along one side: Q G (side 0), G Q^T (1)."""
    moved = blocks.movedim(side + 1, 1)
    return (matrices @ moved.reshape(*moved.shape[:2], -1)).reshape(moved.shape).movedim(1, side + 1)


def gathered(runs: Sequence[Run], key: str) -> Tensor:
    """A copy of the state of the kind "element" of a whole stack, ``(b, m, n)``."""
    return torch.cat([run[key] for run in runs]) if len(runs) > 1 else runs[0][key]


def gradients_of(runs: Sequence[Run]) -> Tensor:
    """A copy of the gradients of a whole stack, ``(b, m, n)``."""
    return torch.cat([run.gradients() for run in runs]) if len(runs) > 1 else runs[0].gradients()


def keep(runs: Sequence[Run], key: str, stack: Tensor) -> None:
    """Write a copy from `gathered` back to the state."""
    for run in runs:
        run[key] = stack[run.where]


class Kronecker(Rule):
    """Factors, and one tensor of equal size (root or basis) beside each; `second` is its name.

    Options: momentum and nesterov for the bias correction, beta2, and whole numbers of steps in `counts`. Roots and
    bases are computed from factors of at most `portion` entries in one batch.

    Args:
        cutting: How the matrices are cut into blocks.
    """

    second: str
    reads = ("momentum", "nesterov", "beta2")
    reads_gradients = True
    counts: tuple[str, ...] = ()
    portion = 2**22  # 16 MB in float32. An iteration needs six times as much, and larger batches leave the caches.

    def __init__(self, cutting: Cutting) -> None:
        self.cutting = cutting

    def check(self, options: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """See `Rule`. Counts of steps must be whole numbers of at least 1."""
        for key in self.counts:
            check_count(options[key], f"{where}: {key}")

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The counter, and for each size one tensor of all factors and one of all roots or bases."""
        kinds = sizes(shape, self.cutting)
        names = (FACTORS, self.second)
        return {"step": "counter", **{f"{name}_{key}": kinds[key] for key in kinds for name in names}}

    def batches(self, runs: Sequence[Run]) -> list[Blocks]:
        """The blocks of a stack, in batches of at most 64 MB of factors each, or of one slot."""
        open_: dict[tuple[tuple[int, ...], int, int], list[tuple[Run, Slot, Block]]] = {}
        filled: list[list[tuple[Run, Slot, Block]]] = []
        for run, slot in [(each, slot) for each in runs for slot in each.slots]:
            for block in blocks_of(slot.shape, self.cutting):
                key = (block.shape, slot.group, run.step)
                each = max(side**2 for side in block.shape)
                members = open_.get(key)
                if members is None or (sum(s.count for _, s, _ in members) + slot.count) * each > _ENTRIES:
                    members = open_[key] = []
                    filled.append(members)
                members.append((run, slot, block))
        return [Blocks(tuple(members)) for members in filled]

    def factors(self, blocks: Blocks, weight: float = 1.0) -> Iterator[Factor]:
        """The factors of every side of a batch. `weight` is the sum of the weights of their averages."""
        for side in blocks.sides:
            views = zip(blocks.state(side, FACTORS), blocks.state(side, self.second), strict=True)
            for (run, slot, block), (values, last) in zip(blocks.members, views, strict=True):
                yield Factor(run, slot, block, side, values, last, weight)

    def take_in(self, blocks: Blocks, gradients: Tensor) -> None:
        """Average the products of the gradients, a stack ``(b, m, n)``, into the factors of a batch."""
        beta2, own = float(blocks.options["beta2"]), blocks.gather(gradients)
        for side in blocks.sides:
            fresh = gram(own, side).split(blocks.counts)
            foreach.lerp_(blocks.state(side, FACTORS), list(fresh), 1 - beta2)

    @staticmethod
    def correct(stack: Tensor, runs: Sequence[Run], dropped: int = 0) -> None:
        """Divide the momentum by the sum of its weights, in place. The first `dropped` gradients are not in it."""
        for run in runs:
            momentum, age = float(run.options["momentum"]), max(run.step - dropped, 1)
            if momentum:
                share = 1 - momentum ** (age + 1 if run.options["nesterov"] else age)
                stack[run.where].mul_(1 / share)
