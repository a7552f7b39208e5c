"""Keeper: where the rounds of a step find the options and the state of sharded parameters."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .matrices.buckets import Bucket, Run, Slot
from .matrices.layout import linear
from .matrices.shards import local
from .member import Member, Whole
from .needs import rule_state
from .rules.ema import MOMENTUM
from .state import COUNTER, make_state

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Keeper"]


class Keeper:
    """Options and state for one step, and what its rounds share: the parts of a parameter may be in different rounds.

    Args:
        optimizer: Has the groups, and the state that is placed as the parameters are.
        resident: {parameter: state of the matrix rules} of the parameters that this process owns; it is added to.
        members: The matrices of the step, by the index in its plan.

    Attributes:
        inputs: {index in the plan: local input of the matrix rules}, from the elementwise rule until it has left.
        gradients: {index in the plan: local gradient}, for matrices whose rules read it.
        updates: {parameter: local direction}, of parameters of which some parts have come back.
        parts: {parameter: indices of its parts}.
        missing: {parameter: the number of parts that have not come back}.
    """

    def __init__(
        self, optimizer: "MatrixOptimizer", resident: dict[Tensor, dict[str, Tensor]], members: Sequence[Member]
    ) -> None:
        self.optimizer, self.resident, self.members = optimizer, resident, members
        self.inputs: dict[int, Tensor] = {}
        self.gradients: dict[int, Tensor] = {}
        self.updates: dict[Tensor, Tensor] = {}
        self.parts: dict[Tensor, list[int]] = {}
        for index, member in enumerate(members):
            self.parts.setdefault(member.param, []).append(index)
        self.missing = {param: len(indices) for param, indices in self.parts.items()}

    def shard_runs(self, members: Sequence[Member]) -> Iterator[Run]:
        """The local shards as flat slots, in runs of equal options and age."""
        optimizer = self.optimizer

        def key(member: Member) -> tuple[int, int]:
            return member.group, self._age(member.param)

        for (index, age), some in itertools.groupby(sorted(members, key=key), key):
            group, slots = optimizer.param_groups[index], []
            for member in some:
                layout = linear(tuple(local(member.param).shape))
                slots.append(Slot(member.param, index, layout, 0, len(slots), 1, member.name))
            first = optimizer.lender(group["rule"]).chain[0]
            yield Run(tuple(slots), group, self._shard_state, lambda shape, g, first=first: first.state(shape, g), age)

    def whole_runs(self, bucket: Bucket) -> tuple[Run, ...]:
        """The runs of a bucket of `Whole` at the owner."""

        def key(slot: Slot) -> tuple[int, int]:
            whole: Any = slot.param
            return slot.group, self._age(whole.member.param)

        groups = self.optimizer.param_groups
        return tuple(
            Run(tuple(slots), groups[group], self._whole_state, self.optimizer.kinds, age)
            for (group, age), slots in itertools.groupby(bucket.slots, key)
        )

    def moving_run(self, slot: Slot) -> Run:
        """The run of one slot of a local shard, for the move of its weights."""
        group = self.optimizer.param_groups[slot.group]
        return Run((slot,), group, self._shard_state, self.optimizer.kinds, self._age(slot.param))

    def _age(self, param: Tensor) -> int:
        return int(self.optimizer.state.get(param, {}).get(COUNTER, 0))

    def _shard_state(self, param: Tensor, key: str, group: Mapping[str, Any]) -> Tensor:
        """State that is placed as the parameter is: of the elementwise rule, and of the rounding."""
        state = self.optimizer.state[param]
        if key not in state:
            later = rule_state(self.optimizer, param, group)
            like = self.optimizer.state_like(param, group)
            make_state(state, param, {k: kind for k, kind in like.items() if k not in later})
        return state[key]

    def _whole_state(self, param: Any, key: str, group: Mapping[str, Any]) -> Tensor:
        """State of the matrix rules at the owner; the momentum, which a rule may look at, is that of this step."""
        assert isinstance(param, Whole)
        member = param.member
        like = rule_state(self.optimizer, member.param, group)
        if key not in like and key == MOMENTUM:
            return param.input
        held = self.resident.setdefault(member.param, {}) if member.resident else self.optimizer.state[member.param]
        if key not in held:
            for name, (shape, dtype) in like.items():
                if name not in held:
                    held[name] = torch.zeros(shape, dtype=dtype, device=param.device)
        return held[key]

    def replicated_state(self, member: Member) -> list[Tensor]:
        """State of the matrix rules that every process keeps, under DDP; made if missing."""
        if member.resident:
            return []
        held, group = self.optimizer.state[member.param], self.optimizer.param_groups[member.group]
        for key, (shape, dtype) in rule_state(self.optimizer, member.param, group).items():
            if key not in held:
                held[key] = torch.zeros(shape, dtype=dtype, device=member.param.device)
        return [held[key] for key in rule_state(self.optimizer, member.param, group)]
