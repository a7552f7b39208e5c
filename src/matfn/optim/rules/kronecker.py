"""Kronecker factors: what Shampoo and SOAP share, the second moments of each side of each block of a gradient.

For a block G with sides d_1, ..., d_k and G_j its unfolding along side j, a d_j x (the rest) matrix, the factors are

    A_j <- beta2 A_j + (1 - beta2) G_j G_j^T        float32 at least, divided by 1 - beta2^updates where it is used

so for a matrix G G^T and G^T G. What a subclass makes of them, roots or bases, it renews for all blocks of all buckets
at once, before the first bucket moves: equal sizes share a batch whichever parameter and side they come from.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import Batch, Cutting, blocks_of, fill_batches, sizes
from .due import Due
from .matrices import foreach
from .matrices.buckets import Bucket, Slot, working_dtype
from .optimizer import COUNTER, MOMENTUM, MatrixOptimizer
from .options import check_number
from .rest import StateLike

__all__ = ["KroneckerOptimizer", "Work", "along", "gram"]

FACTORS = "factors"


@dataclass(frozen=True, eq=False)
class Work:
    """One bucket, sorted.

    Attributes:
        bucket: the bucket.
        teams: its slots, together where group and age are equal.
        batches: its blocks.
    """

    bucket: Bucket
    teams: tuple[tuple[Slot, ...], ...]
    batches: tuple[Batch, ...]


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


class KroneckerOptimizer(MatrixOptimizer):
    """Base of Shampoo and SOAP: factors, momentum with bias correction, and the order of a step.

    A subclass defines `renew`, `direction` and, in `second`, what it keeps beside each factor, of the same size. Roots
    and bases are computed from factors of at most `portion` entries in one batch.

    Args:
        params: as for `MatrixOptimizer`.
        defaults: as there, and beta2.
        cutting: how the matrices are cut into blocks.
        rest: as there.
    """

    kept = (*MatrixOptimizer.kept, "cutting")
    second: str
    counts: tuple[str, ...] = ()
    portion = 2**22  # 16 MB in float32: an iteration needs half a dozen times as much, and more leaves the caches

    def __init__(
        self, params: Any, defaults: dict[str, Any], *, cutting: Cutting, rest: Mapping[str, Any] | None
    ) -> None:
        self.cutting = cutting
        self._sorted: tuple[tuple[Bucket, ...], tuple[Work, ...]] = ((), ())
        super().__init__(params, defaults, rest=rest)

    def renew(self, works: tuple[Work, ...]) -> None:
        """Take in the gradients of all buckets and bring up to date what the directions need; once a step."""
        raise NotImplementedError(f"{type(self).__name__} must define renew(works).")

    def collect(self, bucket: Bucket) -> Tensor:
        """The momentum, divided by what its weights add up to."""
        buckets, _ = self._sorted
        if buckets is not self._active.buckets:
            buckets = self._active.buckets
            self._sorted = buckets, tuple(self._work(each) for each in buckets)
        if bucket is buckets[0]:
            self.renew(self._sorted[1])
        stack = super().collect(bucket)
        for team in self.work(bucket).teams:
            group, age = self.param_groups[team[0].group], self.age(team[0])
            momentum = float(group["momentum"])
            if momentum:
                share = 1 - momentum ** (age + 1 if group["nesterov"] else age)
                foreach.mul_([slot.place(stack) for slot in team], 1 / share)
        return stack

    def work(self, bucket: Bucket) -> Work:
        """What was sorted of a bucket."""
        return next(work for work in self._sorted[1] if work.bucket is bucket)

    def age(self, of: Slot | Batch) -> int:
        """The steps that a slot's parameter, or those of a batch, have made, this one included; read on the host."""
        slot = of if isinstance(of, Slot) else of.members[0][0]
        return int(self.state[slot.param][COUNTER])

    def homes(self, batch: Batch, side: int, kind: str) -> list[Tensor]:
        """Of each member of a batch, its ``(count, d, d)`` view of the state: factors, or what lies beside them."""
        found = []
        for slot, block in batch.members:
            home = block.homes[side]
            assert home is not None
            found.append(self.state_of(slot, f"{kind}_{home.key}")[home.start : home.start + block.count])
        return found

    def due(self, batch: Batch, weight: float = 1.0) -> Iterator[Due]:
        """The factors of every side of a batch that has some, with what lies beside them.

        Args:
            batch: of the bucket.
            weight: what the weights of the averages add up to.
        """
        for side, home in enumerate(batch.members[0][1].homes):
            if home is not None:
                views = zip(self.homes(batch, side, FACTORS), self.homes(batch, side, self.second), strict=True)
                for (slot, block), (factors, last) in zip(batch.members, views, strict=True):
                    yield Due(slot, block, side, factors, last, weight)

    def momentum_of(self, one: Due) -> Tensor:
        """The momentum of a block before this step, ``(count, *shape)``."""
        return one.block.read(one.slot.read(self.state_of(one.slot, MOMENTUM)).contiguous())

    def take_in(self, batch: Batch, gradients: Tensor) -> None:
        """Average the products of a batch's gradients into its factors.

        Args:
            batch: of the bucket.
            gradients: the bucket's, ``(b, m, n)``.
        """
        beta2 = float(self.param_groups[batch.group]["beta2"])
        blocks = batch.gather(gradients)
        counts = [block.count for _, block in batch.members]
        for side, home in enumerate(batch.members[0][1].homes):
            if home is not None:
                fresh = gram(blocks, side).split(counts)
                foreach.lerp_(self.homes(batch, side, FACTORS), list(fresh), 1 - beta2)

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """The counter, the momentum, and all factors of one size as one tensor, with what lies beside them."""
        if group["rule"] == "adamw":
            return super().state_like(param, group)
        dtype = working_dtype(param)
        found: StateLike = {COUNTER: ((), None), MOMENTUM: (tuple(param.shape), dtype)}
        for key, shape in sizes(blocks_of(self.layouts[param], self.cutting)).items():
            found |= {f"{kind}_{key}": (shape, dtype) for kind in (FACTORS, self.second)}
        return found

    def check_group(self, group: Mapping[str, Any], where: str) -> None:
        """See the base; and beta2 in [0, 1), and whole numbers of at least 1 where steps are counted."""
        super().check_group(group, where)
        if "beta2" in group and not 0 <= check_number(group["beta2"], f"{where}: beta2") < 1:
            raise ValueError(f"{where}: beta2 must be in [0, 1), got {group['beta2']}.")
        for key in self.counts:
            value = group.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{where}: {key} must be a whole number of steps, got {value!r}.")
            if value < 1:
                raise ValueError(f"{where}: {key} must be at least 1, got {value}.")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See the base. The ages of the parameters may be others then."""
        super().load_state_dict(state_dict)
        self._sorted = ((), ())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sorted = ((), ())

    def _work(self, bucket: Bucket) -> Work:
        ages = {slot: self.age(slot) for slot in bucket.slots}
        teams: dict[tuple[int, int], list[Slot]] = {}
        for slot in bucket.slots:
            teams.setdefault((slot.group, ages[slot]), []).append(slot)
        return Work(bucket, tuple(tuple(team) for team in teams.values()), fill_batches(bucket, self.cutting, ages))
