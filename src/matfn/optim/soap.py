"""SOAP: Adam in the eigenbasis of Shampoo's factors, a basis that turns slowly by one QR step at a time."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .bases import first_bases, refined
from .blocks import Batch, Block, Cutting
from .due import Due, portions
from .kronecker import KroneckerOptimizer, Work, along
from .matrices import foreach
from .matrices.buckets import Bucket, Slot, working_dtype
from .rest import StateLike

__all__ = ["SOAP"]

BASES = "bases"
SQUARES = "exp_avg_sq"
Orders = dict[tuple[Slot, Block, int], Tensor]


class SOAP(KroneckerOptimizer):
    r"""SOAP for the matrices, torch's AdamW for the rest, in one torch optimizer.

    For a block G of the gradient of a matrix with sides j = 1, ..., k (2, or more for a convolution), with momentum mu,
    EMA factor beta2 and decay wd, and Q_j the basis of side j (the identity, for a side without one)::

        Q_j <- eigenvectors of A_j, at the second step
               QR factor of A_j Q_j, columns sorted by q^T A_j q, at every `basis_every`-th step after it; V likewise
        B   <- mu B + (1 - mu) G                                     float32 (float64 for float64 weights)
        G'  = G multiplied by Q_j^T along each side, B' = B likewise
        V   <- beta2 V + (1 - beta2) G'^2
        D   = (B' / c') / (sqrt(V / c) + eps), multiplied by Q_j along each side
        W   <- (1 - lr wd) W - lr D
        A_j <- beta2 A_j + (1 - beta2) G_j G_j^T

    with c and c' the bias corrections. The bases in use are those of the gradients before, as in the paper: in the
    basis of its own gradient Adam would divide rounding errors by themselves. So the first step has none, and is Adam's
    own in the coordinates of the weights, with its V forgotten. (The reference implementation skips it.)

    Gradients with entries within 1e-18 and 1e18 in float32, as for Adam: NaN and infinity pass through to the weights,
    and a square that is infinite stops its entry, here of G'. Neither enters the factors.

    Args:
        params: as for `Muon`.
        lr: learning rate, >= 0; 3e-3 is the paper's.
        momentum: in [0, 1); the paper's beta1.
        nesterov: mix the gradient into the momentum once more.
        weight_decay: decoupled, >= 0.
        cautious: decay only entries on which update and weight agree in sign.
        beta2: of the factors and of V, in [0, 1).
        eps: as for AdamW.
        basis_every: steps from one QR step to the next.
        cutting: block size, merging of small dimensions, and the longest side that has a basis of its own. None is
            ``Cutting(block=None, merge=1024, largest=10000)``: whole matrices, and one-sided for a vocabulary.
        rest: as for `Muon`.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix.
        TypeError: as for `Muon`.

    References:
        Vyas et al., "SOAP: Improving and stabilizing Shampoo using Adam", arXiv:2409.11321.
    """

    second = BASES
    counts = ("basis_every",)

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 3e-3,
        *,
        momentum: float = 0.95,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        cautious: bool = False,
        beta2: float = 0.95,
        eps: float = 1e-8,
        basis_every: int = 10,
        cutting: Cutting | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "cautious": cautious,
            "scale": "unit",
            "beta2": beta2,
            "eps": eps,
            "basis_every": basis_every,
        }
        cutting = Cutting(block=None, largest=10000) if cutting is None else cutting
        super().__init__(params, defaults, cutting=cutting, rest=rest)

    def renew(self, works: tuple[Work, ...]) -> None:
        """The bases that are due, equal sizes together, then the factors of all buckets."""
        due: dict[tuple[Any, ...], list[Due]] = {}
        for batch in (batch for work in works for batch in work.batches):
            age, every = self.age(batch), self.param_groups[batch.group]["basis_every"]
            if age >= 2 and (age - 2) % every == 0:
                for one in self.due(batch):
                    key = (age == 2, one.factors.shape[-1], one.factors.dtype, one.factors.device)
                    due.setdefault(key, []).append(one)
        orders: Orders = {}
        for (first, *_), found in due.items():
            for some in portions(found, self.portion):
                orders |= _found(some) if first else _refined(some)
        for work in works:
            if orders:
                self._reorder(work, orders)
            gradients = work.bucket.gather(Slot.gradient)
            for batch in work.batches:
                self.take_in(batch, gradients)

    def direction(self, bucket: Bucket, stack: Tensor) -> Tensor:
        """Adam's step in the eigenbasis, turned back."""
        gradients, squares = bucket.gather(Slot.gradient), self._squares(bucket)
        for batch in self.work(bucket).batches:
            group, age = self.param_groups[batch.group], self.age(batch)
            homes = enumerate(batch.members[0][1].homes if age > 1 else ())
            bases = {side: torch.cat(self.homes(batch, side, BASES)) for side, home in homes if home is not None}
            seen, held, moved = (batch.gather(x) for x in (gradients, squares, stack))
            for side, Q in bases.items():
                seen, moved = along(seen, Q.mT, side), along(moved, Q.mT, side)
            beta2 = float(group["beta2"])
            held.mul_(beta2).addcmul_(seen, seen, value=1 - beta2)  # of an infinite square lerp would make NaN
            if age > 1:  # what the first step saw is in no basis
                batch.scatter(held, squares)
            size = held.div_(1 - beta2 ** max(age - 1, 1)).sqrt_().add_(float(group["eps"]))
            moved = torch.where(size == 0, 0.0, moved / size)  # NaN is no zero: it shows in the weights
            for side, Q in bases.items():
                moved = along(moved, Q, side)
            batch.scatter(moved, stack)
        self._keep(bucket, squares)
        return stack

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Bases beside the factors, and the second moment in their coordinates, in the shape of the weight."""
        found = super().state_like(param, group)
        if group["rule"] == "matrix":
            found[SQUARES] = (tuple(param.shape), working_dtype(param))
        return found

    def _squares(self, bucket: Bucket) -> Tensor:
        return bucket.gather(lambda slot: slot.read(self.state_of(slot, SQUARES)))

    def _keep(self, bucket: Bucket, squares: Tensor) -> None:
        held = [slot.read(self.state_of(slot, SQUARES)) for slot in bucket.slots]
        foreach.copy_(held, [slot.place(squares) for slot in bucket.slots])

    def _reorder(self, work: Work, orders: Orders) -> None:
        """Put the second moments into the order of the columns of the new bases."""
        turned = [(batch, sides) for batch in work.batches if (sides := _sides(batch, orders))]
        if turned:
            squares = self._squares(work.bucket)
            for batch, sides in turned:
                blocks = batch.gather(squares)
                for side, order in sides.items():
                    index = order.view(len(order), *(-1 if j == side else 1 for j in range(len(batch.shape))))
                    blocks = blocks.gather(side + 1, index.expand_as(blocks))
                batch.scatter(blocks, squares)
            self._keep(work.bucket, squares)


def _sides(batch: Batch, orders: Orders) -> dict[int, Tensor]:
    """Of each side of a batch whose basis was refined, the order of all members, ``(k, d)``."""
    slot, block = batch.members[0]
    turned = [side for side in range(len(batch.shape)) if (slot, block, side) in orders]
    return {side: torch.cat([orders[slot, block, side] for slot, block in batch.members]) for side in turned}


def _found(due: list[Due]) -> Orders:
    """The first bases; there is no second moment yet that would have an order."""
    bases = first_bases(torch.cat([one.factors for one in due]))
    foreach.copy_([one.last for one in due], list(bases.split([len(one.factors) for one in due])))
    return {}


def _refined(due: list[Due]) -> Orders:
    """The bases one step on, and of each the order of its columns."""
    counts = [len(one.factors) for one in due]
    bases, orders = refined(torch.cat([one.factors for one in due]), torch.cat([one.last for one in due]))
    foreach.copy_([one.last for one in due], list(bases.split(counts)))
    return {(one.slot, one.block, one.side): order for one, order in zip(due, orders.split(counts), strict=True)}
