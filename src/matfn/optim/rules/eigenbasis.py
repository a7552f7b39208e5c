"""Eigenbasis: SOAP's rule, Adam in the eigenbasis of the factors, which is updated by single QR steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..matrices import foreach
from ..matrices.buckets import Kind, Run, Slot
from .blocks import Block
from .kronecker import Blocks, Factor, Kronecker, along, gathered, gradients_of, keep, portions

__all__ = ["Eigenbasis", "first_bases", "refined"]

BASES = "bases"
SQUARES = "exp_avg_sq"
Orders = dict[tuple[Slot, Block, int], Tensor]


class Eigenbasis(Kronecker):
    """Adam's step in the eigenbases of the factors of earlier gradients; see `SOAP`.

    Options: as for `Kronecker`, and eps and basis_every.
    """

    second = BASES
    counts = ("basis_every",)
    reads = (*Kronecker.reads, *counts, "eps")

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """Bases beside the factors, and the second moment in their coordinates."""
        return {**super().state(shape, options), SQUARES: "element"}

    def prepare(self, stacks: Sequence[Sequence[Run]]) -> None:
        """Compute the bases that are due, equal sizes together, then update the factors of all stacks."""
        due: dict[tuple[Any, ...], list[Factor]] = {}
        batched = [(runs, self.batches(runs)) for runs in stacks]
        for blocks in (blocks for _, batches in batched for blocks in batches):
            step, every = blocks.step, blocks.options["basis_every"]
            if step >= 2 and (step - 2) % every == 0:
                for one in self.factors(blocks):
                    key = (step == 2, one.values.shape[-1], one.values.dtype, one.values.device)
                    due.setdefault(key, []).append(one)
        orders: Orders = {}
        for (first, *_), found in due.items():
            for some in portions(found, self.portion):
                orders |= _renewed(some, first)
        for runs, batches in batched:
            if orders:
                _reorder(runs, batches, orders)
            gradients = gradients_of(runs)
            for blocks in batches:
                self.take_in(blocks, gradients)

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """Adam's step in the eigenbasis, in the coordinates of the weights."""
        self.correct(stack, runs, dropped=1)
        gradients, squares = gradients_of(runs), gathered(runs, SQUARES)
        for blocks in self.batches(runs):
            options, step = blocks.options, blocks.step
            bases = {side: torch.cat(blocks.state(side, BASES)) for side in (blocks.sides if step > 1 else ())}
            seen, held, moved = (blocks.gather(x) for x in (gradients, squares, stack))
            for side, Q in bases.items():
                seen, moved = along(seen, Q.mT, side), along(moved, Q.mT, side)
            beta2 = float(options["beta2"])
            held.mul_(beta2).addcmul_(seen, seen, value=1 - beta2)  # lerp would make NaN of an infinite square
            if step > 1:  # the first step has no basis
                blocks.scatter(held, squares)
            size = held.div_(1 - beta2 ** max(step - 1, 1)).sqrt_().add_(float(options["eps"]))
            moved = torch.where(size == 0, 0.0, moved / size)  # NaN is not zero, so it reaches the weights
            for side, Q in bases.items():
                moved = along(moved, Q, side)
            blocks.scatter(moved, stack)
        keep(runs, SQUARES, squares)
        return stack


def _reorder(runs: Sequence[Run], batches: Sequence[Blocks], orders: Orders) -> None:
    """Put the second moments into the order of the columns of the new bases."""
    turned = [(blocks, sides) for blocks in batches if (sides := _sides(blocks, orders))]
    if turned:
        squares = gathered(runs, SQUARES)
        for blocks, sides in turned:
            own = blocks.gather(squares)
            for side, order in sides.items():
                index = order.view(len(order), *(-1 if j == side else 1 for j in range(len(blocks.shape))))
                own = own.gather(side + 1, index.expand_as(own))
            blocks.scatter(own, squares)
        keep(runs, SQUARES, squares)


def _sides(blocks: Blocks, orders: Orders) -> dict[int, Tensor]:
    """{side: order ``(k, d)`` of the columns of all members} for the sides whose bases were refined."""
    _, slot, block = blocks.members[0]
    turned = [side for side in range(len(blocks.shape)) if (slot, block, side) in orders]
    return {side: torch.cat([orders[slot, block, side] for _, slot, block in blocks.members]) for side in turned}


def _renewed(due: list[Factor], first: bool) -> Orders:
    """Write the first or the refined bases. Returns the order of the columns of each, none for the first."""
    counts, A = [len(one.values) for one in due], torch.cat([one.values for one in due])
    bases, orders = (first_bases(A), None) if first else refined(A, torch.cat([one.last for one in due]))
    foreach.copy_([one.last for one in due], list(bases.split(counts)))
    places = [(one.slot, one.block, one.side) for one in due]
    return {} if orders is None else dict(zip(places, orders.split(counts), strict=True))


def first_bases(A: Tensor) -> Tensor:
    """Eigenvectors ``(b, n, n)`` of each symmetric A ``(b, n, n)``, in columns, by descending eigenvalue.

    They are computed in float64 from the matrix divided by its largest entry, so that small gradients lose nothing.
    """
    wide = A.to(torch.float64)
    wide = wide / 2 + wide.mT / 2
    peak = wide.abs().amax((-2, -1), keepdim=True)
    _, vectors = torch.linalg.eigh(wide / torch.where(peak > 0, peak, 1.0))
    return vectors.flip(-1).to(A.dtype)


def refined(A: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """One step of orthogonal iteration: the columns q of Q sorted by q^T A q, multiplied by A, orthonormalized by QR.

    Args:
        A: ``(b, n, n)``, symmetric positive semidefinite.
        Q: ``(b, n, n)``, orthogonal.

    Returns:
        The new basis, and the order: new column i comes from old column ``order[:, i]``. State in the coordinates of
        the basis must be put into this order, too.
    """
    AQ = A @ Q
    order = (AQ * Q).sum(-2).argsort(dim=-1, descending=True, stable=True)
    # QR by Householder reflections gives an orthonormal basis even of a singular matrix.
    basis, _ = torch.linalg.qr(AQ.gather(-1, order.unsqueeze(-2).expand_as(AQ)))
    return basis, order
