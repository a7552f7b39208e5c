"""Kronecker factors: what the rules of Shampoo and SOAP share, the second moments of each side of each block.

For a block G with sides d_1, ..., d_k and G_j its unfolding along side j, a d_j x (the rest) matrix, the factors are

    A_j <- beta2 A_j + (1 - beta2) G_j G_j^T        float32 at least, divided by 1 - beta2^updates where it is used

so for a matrix G G^T and G^T G. What a rule makes of them, roots or bases, it renews for all blocks of all stacks in
`prepare`, before any weight moves: equal sizes share a batch whichever parameter and side they come from.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run, Slot
from ..options import check_steps
from .blocks import Block, Cutting, blocks_of, sizes
from .ema import MOMENTUM
from .rule import Rule

__all__ = ["Blocks", "Factor", "Kronecker", "along", "gathered", "gradients_of", "gram", "keep", "portions"]

FACTORS = "factors"
# 64 MB in float32: what the factors of one batch may take, as a temporary beside the state.
_ENTRIES = 2**24


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of one shape in one stack, whose parameters have equal options and age: a batch ``(k, *shape)``.

    Attributes:
        members: whose blocks they are, in the order of the batch.
    """

    members: tuple[tuple[Run, Slot, Block], ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of each block."""
        return self.members[0][2].shape

    @property
    def options(self) -> Mapping[str, Any]:
        """Of their group."""
        return self.members[0][0].options

    @property
    def step(self) -> int:
        """The steps that their parameters have made, this one included."""
        return self.members[0][0].step

    @property
    def sides(self) -> list[int]:
        """The sides that have factors."""
        return [side for side, factor in enumerate(self.members[0][2].factors) if factor is not None]

    @property
    def counts(self) -> list[int]:
        """How many of the batch belong to each member."""
        return [slot.count for _, slot, _ in self.members]

    def views(self, stack: Tensor) -> list[Tensor]:
        """Of each member, its ``(count, *shape)`` view of the stack ``(b, m, n)``."""
        return [block.read(stack[slot.where]) for _, slot, block in self.members]

    def gather(self, stack: Tensor) -> Tensor:
        """The blocks, copied from the stack ``(b, m, n)``."""
        return torch.cat(self.views(stack))

    def scatter(self, values: Tensor, stack: Tensor) -> None:
        """Write the blocks into the stack ``(b, m, n)``."""
        foreach.copy_(self.views(stack), list(values.split(self.counts)))

    def state(self, side: int, kind: str) -> list[Tensor]:
        """Of each member, its ``(count, d, d)`` view of the state: factors, or what lies beside them."""
        found = []
        for run, slot, block in self.members:
            factor = block.factors[side]
            assert factor is not None
            found.append(run.view(slot, f"{kind}_{factor[0]}")[:, factor[1]])
        return found


@dataclass(frozen=True, eq=False)
class Factor:
    """The factors of one side of one block of each matrix of a slot, and what was last made of them.

    Attributes:
        run: where the slot is.
        slot: whose they are.
        block: which block.
        side: of the block.
        values: ``(count, d, d)``.
        last: ``(count, d, d)``, their last roots or bases; to be overwritten.
        weight: what the weights of the average add up to, by which the factors are divided.
    """

    run: Run
    slot: Slot
    block: Block
    side: int
    values: Tensor
    last: Tensor
    weight: float

    def describe(self, i: int) -> str:
        """The factor of the i-th matrix, for messages."""
        return f"{self.slot.describe(i)}, block {self.block}, side {self.side}"

    def momentum(self) -> Tensor:
        """The momentum of the block before this step, ``(count, *shape)``."""
        whole = self.run.view(self.slot, MOMENTUM).contiguous()
        return self.block.read(whole.view(self.slot.count, self.slot.shape[0], -1))


def portions(factors: Iterable[Factor], limit: int) -> Iterator[list[Factor]]:
    """The same in order, in lists of at most so many entries, or of one factor."""
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
    """G_j G_j^T of the unfolding along a side; zero for a block that is not finite or too large to be squared.

    Args:
        blocks: ``(k, *shape)``.
        side: j, from 0.

    Returns:
        ``(k, d, d)``.
    """
    unfolded = blocks.movedim(side + 1, 1).flatten(2) if blocks.ndim > 2 else blocks.unsqueeze(2)
    product = unfolded @ unfolded.mT
    finite = product.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(finite, product, 0.0)  # one such gradient would stay in the average for ever


def along(blocks: Tensor, matrices: Tensor, side: int) -> Tensor:
    """Each block multiplied by its matrix along one side: for a matrix Q G (side 0) or G Q^T (side 1).

    Args:
        blocks: ``(k, *shape)``.
        matrices: ``(k, d, d)`` with d the length of the side.
        side: from 0.
    """
    moved = blocks.movedim(side + 1, 1)
    return (matrices @ moved.reshape(*moved.shape[:2], -1)).reshape(moved.shape).movedim(1, side + 1)


def gathered(runs: Sequence[Run], key: str) -> Tensor:
    """A copy of the state of the kind "element" of a whole stack, ``(b, m, n)``."""
    return torch.cat([run[key] for run in runs]) if len(runs) > 1 else runs[0][key]


def gradients_of(runs: Sequence[Run]) -> Tensor:
    """A copy of the gradients of a whole stack, ``(b, m, n)``."""
    return torch.cat([run.gradients() for run in runs]) if len(runs) > 1 else runs[0].gradients()


def keep(runs: Sequence[Run], key: str, stack: Tensor) -> None:
    """Write a copy that `gathered` made back to the state."""
    for run in runs:
        run[key] = stack[run.where]


class Kronecker(Rule):
    """Factors, and the order of a step. A subclass names in `second` what it keeps beside each factor, of equal size.

    Options: momentum and nesterov for the bias correction, beta2, and whole numbers of steps in `counts`. Roots and
    bases are computed from factors of at most `portion` entries in one batch.

    Args:
        cutting: how the matrices are cut into blocks.
    """

    second: str
    counts: tuple[str, ...] = ()
    portion = 2**22  # 16 MB in float32: an iteration needs half a dozen times as much, and more leaves the caches

    def __init__(self, cutting: Cutting) -> None:
        self.cutting = cutting

    def check(self, options: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """See `Rule`; counts of steps are whole numbers of at least 1."""
        for key in self.counts:
            check_steps(options[key], f"{where}: {key}")

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The counter, and all factors of one size as one tensor, with what lies beside them."""
        found: dict[str, Kind] = {"step": "counter"}
        for key, kind in sizes(shape, self.cutting).items():
            found |= {f"{FACTORS}_{key}": kind, f"{self.second}_{key}": kind}
        return found

    def batches(self, runs: Sequence[Run]) -> list[Blocks]:
        """The blocks of a stack, in batches of at most 64 MB of factors each, or of the blocks of one slot."""
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
        """The factors of every side of a batch that has some, with what lies beside them.

        Args:
            blocks: the batch.
            weight: what the weights of the averages add up to.
        """
        for side in blocks.sides:
            views = zip(blocks.state(side, FACTORS), blocks.state(side, self.second), strict=True)
            for (run, slot, block), (values, last) in zip(blocks.members, views, strict=True):
                yield Factor(run, slot, block, side, values, last, weight)

    def take_in(self, blocks: Blocks, gradients: Tensor) -> None:
        """Average the products of a batch's gradients into its factors.

        Args:
            blocks: the batch.
            gradients: of the stack, ``(b, m, n)``.
        """
        beta2, own = float(blocks.options["beta2"]), blocks.gather(gradients)
        for side in blocks.sides:
            fresh = gram(own, side).split(blocks.counts)
            foreach.lerp_(blocks.state(side, FACTORS), list(fresh), 1 - beta2)

    @staticmethod
    def correct(stack: Tensor, runs: Sequence[Run]) -> None:
        """Divide the momentum by what its weights add up to, in place."""
        for run in runs:
            momentum = float(run.options["momentum"])
            if momentum:
                share = 1 - momentum ** (run.step + 1 if run.options["nesterov"] else run.step)
                stack[run.where].mul_(1 / share)
