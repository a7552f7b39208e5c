"""Rounds: one round of the exchange, from the local shards of some parameters to their owners and back.

The elementwise rule runs in the first round that has any part of a parameter, and the weights move in the last one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .matrices import foreach
from .matrices.buckets import Run, fill_buckets, working_dtype
from .matrices.exchange import Arrival, Message, Team, extent, part_of
from .matrices.exchange_plan import Box, ExchangePlan, Item, Matrix, held, own_range, senders, sends
from .matrices.padding import joined
from .matrices.shards import local, local_gradient
from .matrices.triangle import packed, packed_entries, unpacked
from .member import Member, Whole
from .rules.polar import Polar
from .rules.rule import Elementwise
from .step_state import StepState

__all__ = ["Round"]


class Given(Elementwise):
    """Copies the whole inputs, which the elementwise rule has computed shard by shard."""

    def update(self, gradients: list[Tensor], into: list[Tensor], run: Run) -> None:
        """See `Elementwise`."""
        wholes: list[Any] = [slot.param for slot in run.slots]
        foreach.copy_(into, [slot.read(whole.input) for slot, whole in zip(run.slots, wholes, strict=True)])


_GIVEN = Given()


@dataclass(frozen=True, eq=False)
class PartialGram:
    """A part of a matrix whose long side is cut: the part divided by its largest entry, and its Gram matrix."""

    peak: Tensor  # the largest |entry|, float64
    part: Tensor
    M: Tensor

    @classmethod
    def of(cls, part: Tensor, wide: bool) -> "PartialGram":
        """From the part (m, n); `wide` says whether the whole matrix has more columns than rows."""
        peak = part.abs().amax() if part.numel() else part.new_zeros(())
        scaled = part / torch.where(peak == 0, 1.0, peak)
        return cls(peak.double(), scaled, scaled @ scaled.mT if wide else scaled.mT @ scaled)


class Round:
    """One round.

    Args:
        team: The processes.
        plan: The plan of the step.
        number: The index of the round.
        step: Has the optimizer and its state, and what the rounds of the step share.
    """

    def __init__(self, team: Team, plan: ExchangePlan, number: int, step: StepState) -> None:
        self.team, self.plan, self.step = team, plan, step
        self.what = f"the exchange of matrices, round {number + 1} of {len(plan.rounds)},"
        self.optimizer = step.optimizer
        self.items = [(item, step.members[item.index]) for item in plan.rounds[number]]
        self._grams: dict[int, PartialGram] = {}  # {index: this rank's part} of "gram" matrices
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}  # {index: (scales, Q)} of "gram" matrices at their owner
        self._wholes: dict[int, Whole] = {}  # {index: whole parameter} at its owner
        self._going: Arrival | None = None
        self._coming: Arrival | None = None

    def start(self) -> None:
        """Run the elementwise rule on the shards, and begin to send them to the owners."""
        self._elementwise()
        me, team = self.team.rank, self.team
        sizes, gets = [0] * team.size, [0] * team.size
        for item, _ in self.items:
            sizes[item.owner] += self.plan.there(item, me)
            for rank in self._senders(item) if item.owner == me else ():
                gets[rank] += self.plan.there(item, rank)
        message = team.message(sizes)
        for item, member in self.items:
            self._pack(item, member, message)
        if any(len(self._senders(item)) > 1 for item, _ in self.items):
            self._going = team.send(message, gets, f"{self.what} to the owners")

    def _elementwise(self) -> None:
        """Write the local inputs of the matrix rules, of all parts of the parameters that come for the first time."""
        step = self.step
        coming = {member.param: member for item, member in self.items if item.index not in step.inputs}
        for run in step.shard_runs(list(coming.values())):
            members = [coming[slot.param] for slot in run.slots]
            gradients = [gradient_of(member) for member in members]
            shards = [local(slot.param) for slot in run.slots]
            into = [torch.empty_like(shard, dtype=working_dtype(shard)) for shard in shards]
            members[0].lender.chain[0].update(gradients, into, run)
            for member, gradient, values in zip(members, gradients, into, strict=True):
                for index in step.parts[member.param]:
                    step.inputs[index] = self._range(index, values)
                    if member.matrix.tensors > 1:
                        step.gradients[index] = self._range(index, gradient)

    def _range(self, index: int, shard: Tensor) -> Tensor:
        """The view of one part in a tensor of the shape of the local shard."""
        return shard[own_range(self.plan.matrices[index].place, self.plan.mesh, self.team.rank)]

    def _pack(self, item: Item, member: Member, message: Message) -> None:
        """Put what the owner of one matrix needs from this rank into the message."""
        shard, owner, me = self.step.inputs[item.index], item.owner, self.team.rank
        sent = owner != me and sends(self.plan.mesh, member.matrix.placements, me, owner)
        if item.way == "gram":
            wide = member.matrix.shape[0] < member.matrix.shape[1]
            part = self._grams[item.index] = PartialGram.of(shard.to(self.team.device), wide)
            del self.step.inputs[item.index]
            if sent:
                message.piece(owner, (2,), torch.float64).fill_(part.peak)
                triangle = packed(part.M)
                message.piece(owner, triangle.shape, triangle.dtype).copy_(triangle)
        elif sent:
            message.piece(owner, shard.shape, member.wire).copy_(shard)
            if member.matrix.tensors > 1:
                message.piece(owner, shard.shape, member.wire).copy_(self.step.gradients[item.index])
        if item.way == "owner" and owner != self.team.rank:
            del self.step.inputs[item.index]
            self.step.gradients.pop(item.index, None)

    def _senders(self, item: Item) -> tuple[int, ...]:
        return senders(self.plan.matrices[item.index], self.plan.mesh, item)

    def compute(self) -> None:
        """At the owners: wait for the shards, apply the matrix rules, and begin to send the directions back."""
        arrived = None if self._going is None else self._going.wait()
        own = [(item, member) for item, member in self.items if item.owner == self.team.rank]
        for item, member in own:
            if item.way == "gram":
                self._factors[item.index] = self._factor(item, member, arrived)
            else:
                self._wholes[item.index] = self._assembled(item, member, arrived)
        self._apply()
        self._going = None
        me, team = self.team.rank, self.team
        sizes = [sum(each) for each in zip(*(self.plan.replies(item) for item, _ in own), strict=True)]
        sizes = sizes or [0] * team.size
        sizes[me] = 0
        gets = [0] * team.size
        for item, _ in self.items:
            gets[item.owner] += self.plan.back(item, me)
        message = team.message(sizes)
        for item, member in own:
            for rank, (box, size) in enumerate(zip(self._boxes(member), self.plan.replies(item), strict=True)):
                if rank != me and size:
                    self._reply(item, member, message, rank, box)
        self._coming = team.send(message, gets, f"{self.what} from the owners")

    def _boxes(self, member: Member) -> tuple[Box, ...]:
        return held(member.matrix.place, self.plan.mesh)

    def _assembled(self, item: Item, member: Member, arrived: Message | None) -> Whole:
        """The whole input, and the whole gradient if rules read it, from the boxes of all senders."""
        shards = [self.step.inputs.pop(item.index)]
        if member.matrix.tensors > 1:
            shards.append(self.step.gradients.pop(item.index))
        senders, places, shape = self._senders(item), self._boxes(member), member.matrix.shape
        device = self.team.device
        if len(senders) == 1:
            wholes = [shard.to(device) for shard in shards]
        else:
            wholes = [torch.empty(shape, dtype=member.wire, device=device) for _ in shards]
            for rank in senders:
                for whole, shard in zip(wholes, shards, strict=True):
                    if rank != item.owner:
                        assert arrived is not None
                        shard = arrived.piece(rank, extent(places[rank]), member.wire)
                    part_of(whole, places[rank]).copy_(shard)
        result = torch.zeros(shape, dtype=member.wire, device=device)
        return Whole(member, device, wholes[0], wholes[-1], result)

    def _factor(self, item: Item, member: Member, arrived: Message | None) -> tuple[Tensor, Tensor]:
        """The scales (largest entry, norm after division by it) of a whole matrix, and its Q."""
        own, n = self._grams[item.index], min(member.matrix.shape)
        parts = [(own.peak, own.M)]
        for rank in self._senders(item):
            if rank != item.owner:
                assert arrived is not None
                peak = arrived.piece(rank, (2,), torch.float64)[0]
                triangle = arrived.piece(rank, (packed_entries(n),), own.M.dtype)
                parts.append((peak, unpacked(triangle, n)))
        peak = torch.stack([each for each, _ in parts]).amax()
        peak = torch.where(peak == 0, 1.0, peak)
        M = sum(((each / peak) ** 2).to(one.dtype) * one for each, one in parts)
        assert isinstance(M, Tensor)
        square = M.diagonal().sum()
        square = torch.where(square == 0, 1.0, square)
        [polar] = member.lender.chain[1:]
        assert isinstance(polar, Polar)
        m, n = member.matrix.shape
        return torch.stack([peak, square.double().sqrt()]), polar.of_gram(M / square, (m, n))

    def _apply(self) -> None:
        """Apply the matrix rules to the whole matrices of this rank."""
        for lender in dict.fromkeys(whole.member.lender for whole in self._wholes.values()):
            mine = [whole for whole in self._wholes.values() if whole.member.lender is lender]
            entries: list[Any] = [(w.member.group, w.member.name, w, w.member.part_layout) for w in mine]
            below = min((rule.padded_below for rule in lender.chain[1:]), default=0)
            stacks = joined(fill_buckets(entries), below)
            for bucket in (bucket for together in stacks for bucket in together):
                bucket.runs = self.step.whole_runs(bucket)
            for rule in lender.chain[1:]:
                rule.prepare([bucket.runs for together in stacks for bucket in together])
                rule.settle()  # before state leaves for the other processes
            for together in stacks:
                for bucket, update in self.optimizer.stacks.directions(_GIVEN, lender.chain[1:], together):
                    for slot, place in zip(bucket.slots, bucket.places(update.contiguous()), strict=True):
                        whole: Any = slot.param
                        factors = self.step.factors(whole.member) if whole.member.cut else [1.0]
                        if len(set(factors)) > 1:
                            place = place * (factors[slot.piece] / factors[0])
                        slot.read(whole.result).copy_(place)

    def _reply(self, item: Item, member: Member, message: Message, rank: int, box: Box) -> None:
        """Put what a rank needs from the owner of one matrix into the message."""
        if item.way == "gram":
            scales, Q = self._factors[item.index]
            message.piece(rank, (2,), torch.float64).copy_(scales)
            values = packed(Q) if member.matrix.symmetric else Q
            message.piece(rank, values.shape, values.dtype).copy_(values)
            return
        message.piece(rank, extent(box), member.wire).copy_(part_of(self._wholes[item.index].result, box))
        for state in self.step.replicated_state(member):
            message.piece(rank, state.shape, state.dtype).copy_(state)

    def finish(self) -> None:
        """Wait for the directions, and move the weights of the local shards whose last part has come."""
        assert self._coming is not None
        arrived = self._coming.wait()
        updates: dict[Tensor, Tensor] = {}
        members: list[Member] = []
        for item, member in self.items:
            update = self._collected(item, member, self._update(item, member, arrived))
            if update is not None:
                updates[member.param] = update
                members.append(member)
        for bucket in self.step.moving_buckets(members):
            stack = self.optimizer.stacks.stack(bucket)
            foreach.copy_(bucket.places(stack), [slot.read(updates[slot.param]) for slot in bucket.slots])
            self.optimizer.move(bucket, stack)
        self._wholes, self._factors, self._grams = {}, {}, {}

    def _collected(self, item: Item, member: Member, update: Tensor) -> Tensor | None:
        """The direction of the local shard when its last part has come, else None."""
        param, step = member.param, self.step
        if len(step.parts[param]) == 1:
            return update
        if param not in step.updates:
            shape, dtype = tuple(local(param).shape), working_dtype(param)
            step.updates[param] = torch.empty(shape, dtype=dtype, device=self.team.device)
        if update.numel():
            self._range(item.index, step.updates[param]).copy_(update)
        step.missing[param] -= 1
        return None if step.missing[param] else step.updates.pop(param)

    def _update(self, item: Item, member: Member, arrived: Message) -> Tensor:
        """The direction of the local shard, which may be a view of a message or of the whole."""
        own, box = item.owner == self.team.rank, self._boxes(member)[self.team.rank]
        dtype = working_dtype(member.param)
        if item.way == "gram":
            part = self._grams[item.index]
            scales, Q = self._factors[item.index] if own else _received(arrived, item.owner, member.matrix, dtype)
            # Division in two steps: the product of both scales may overflow.
            X = part.part * (part.peak / scales[0]).to(dtype) / scales[1].to(dtype)
            return Q @ X if member.matrix.shape[0] < member.matrix.shape[1] else X @ Q.mT
        if own:
            return part_of(self._wholes[item.index].result, box)
        update = arrived.piece(item.owner, extent(box), member.wire)
        for state in self.step.replicated_state(member):
            state.copy_(arrived.piece(item.owner, state.shape, state.dtype))
        return update


def _received(arrived: Message, owner: int, matrix: Matrix, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scales and the Q of a "gram" matrix from the message of its owner."""
    n, scales = min(matrix.shape), arrived.piece(owner, (2,), torch.float64)
    if matrix.symmetric:
        return scales, unpacked(arrived.piece(owner, (packed_entries(n),), dtype), n)
    return scales, arrived.piece(owner, (n, n), dtype)


def gradient_of(member: Member) -> Tensor:
    """The gradient of the local shard.

    Raises:
        RuntimeError: If the gradient was removed during the step.
    """
    gradient = local_gradient(member.param)
    if gradient is None:
        raise RuntimeError(f"parameter {member.name!r} lost its gradient during the step.")
    return gradient
