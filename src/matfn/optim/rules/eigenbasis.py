"""Eigenbasis: SOAP's rule, Adam in the eigenbasis of the factors, which turns slowly by one QR step at a time."""

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
    """Adam's step in the coordinates in which the factors of the gradients before are diagonal; see `SOAP`.

    Options: those of `Kronecker`, and eps and basis_every.

    Args:
        cutting: how the matrices are cut into blocks.
    """

    second = BASES
    counts = ("basis_every",)

    def state(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """Bases beside the factors, and the second moment in their coordinates."""
        return {**super().state(shape, options), SQUARES: "element"}

    def prepare(self, stacks: Sequence[Sequence[Run]]) -> None:
        """The bases that are due, equal sizes together, then the factors of all stacks."""
        due: dict[tuple[Any, ...], list[Factor]] = {}
        sorted_ = [(runs, self.batches(runs)) for runs in stacks]
        for blocks in (blocks for _, batches in sorted_ for blocks in batches):
            step, every = blocks.step, blocks.options["basis_every"]
            if step >= 2 and (step - 2) % every == 0:
                for one in self.factors(blocks):
                    key = (step == 2, one.values.shape[-1], one.values.dtype, one.values.device)
                    due.setdefault(key, []).append(one)
        orders: Orders = {}
        for (first, *_), found in due.items():
            for some in portions(found, self.portion):
                orders |= _found(some) if first else _refined(some)
        for runs, batches in sorted_:
            if orders:
                _reorder(runs, batches, orders)
            gradients = gradients_of(runs)
            for blocks in batches:
                self.take_in(blocks, gradients)

    def update(self, stack: Tensor, runs: Sequence[Run]) -> Tensor:
        """Adam's step in the eigenbasis, turned back."""
        self.correct(stack, runs)
        gradients, squares = gradients_of(runs), gathered(runs, SQUARES)
        for blocks in self.batches(runs):
            options, step = blocks.options, blocks.step
            bases = {side: torch.cat(blocks.state(side, BASES)) for side in (blocks.sides if step > 1 else ())}
            seen, held, moved = (blocks.gather(x) for x in (gradients, squares, stack))
            for side, Q in bases.items():
                seen, moved = along(seen, Q.mT, side), along(moved, Q.mT, side)
            beta2 = float(options["beta2"])
            held.mul_(beta2).addcmul_(seen, seen, value=1 - beta2)  # of an infinite square lerp would make NaN
            if step > 1:  # what the first step saw is in no basis
                blocks.scatter(held, squares)
            size = held.div_(1 - beta2 ** max(step - 1, 1)).sqrt_().add_(float(options["eps"]))
            moved = torch.where(size == 0, 0.0, moved / size)  # NaN is no zero: it shows in the weights
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
    """Of each side of a batch whose basis was refined, the order of all members, ``(k, d)``."""
    _, slot, block = blocks.members[0]
    turned = [side for side in range(len(blocks.shape)) if (slot, block, side) in orders]
    return {side: torch.cat([orders[slot, block, side] for _, slot, block in blocks.members]) for side in turned}


def _found(due: list[Factor]) -> Orders:
    """The first bases; there is no second moment yet that would have an order."""
    bases = first_bases(torch.cat([one.values for one in due]))
    foreach.copy_([one.last for one in due], list(bases.split([len(one.values) for one in due])))
    return {}


def _refined(due: list[Factor]) -> Orders:
    """The bases one step on, and of each the order of its columns."""
    counts = [len(one.values) for one in due]
    bases, orders = refined(torch.cat([one.values for one in due]), torch.cat([one.last for one in due]))
    foreach.copy_([one.last for one in due], list(bases.split(counts)))
    return {(one.slot, one.block, one.side): order for one, order in zip(due, orders.split(counts), strict=True)}


def first_bases(A: Tensor) -> Tensor:
    """Eigenvectors ``(b, n, n)`` of each symmetric A ``(b, n, n)``, in columns, of descending eigenvalues; by float64.

    The norm is divided out, so that small gradients have as good a basis as others.
    """
    wide = A.to(torch.float64)
    wide = wide / 2 + wide.mT / 2
    peak = wide.abs().amax((-2, -1), keepdim=True)
    _, vectors = torch.linalg.eigh(wide / torch.where(peak > 0, peak, 1.0))
    return vectors.flip(-1).to(A.dtype)


def refined(A: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """One step of orthogonal iteration: the columns sorted by q^T A q, multiplied by A, orthonormalized by QR.

    Args:
        A: ``(b, n, n)``, symmetric positive semidefinite.
        Q: ``(b, n, n)``, orthogonal.

    Returns:
        The new basis, and the order: the new i-th column comes from the old one number ``order[:, i]``. What is kept in
        the coordinates of the basis must be put into that order, too.
    """
    AQ = A @ Q
    order = (AQ * Q).sum(-2).argsort(dim=-1, descending=True, stable=True)
    # Householder's QR gives an orthonormal basis of a singular matrix, too.
    basis, _ = torch.linalg.qr(AQ.gather(-1, order.unsqueeze(-2).expand_as(AQ)))
    return basis, order
