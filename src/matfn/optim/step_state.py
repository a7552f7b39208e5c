"""StepState: where the rounds of a step find the options and the state of sharded parameters."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .matrices.buckets import Bucket, Run, Slot, fill_buckets, runs_of
from .matrices.layout import Layout, linear
from .matrices.shards import local
from .member import Member, Whole
from .needs import rule_state
from .rules.ema import MOMENTUM
from .state import make_state

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["StepState"]


class StepState:
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
            return member.group, self.optimizer.age(member.param)

        for (index, age), some in itertools.groupby(sorted(members, key=key), key):
            group, slots = optimizer.param_groups[index], []
            for member in some:
                layout = linear(tuple(local(member.param).shape))
                slots.append(Slot(member.param, index, layout, 0, len(slots), 1, member.name))
            first = optimizer.lender(group["rule"]).chain[0]
            yield Run(tuple(slots), group, self._shard_state, lambda shape, g, first=first: first.state(shape, g), age)

    def whole_runs(self, bucket: Bucket) -> tuple[Run, ...]:
        """The runs of a bucket of `Whole` at the owner."""

        def age_of(whole: Any) -> int:
            return self.optimizer.age(whole.member.param)

        groups, kinds = self.optimizer.param_groups, self.optimizer.kinds
        return runs_of(bucket.slots, groups, age_of, self._whole_state, kinds)

    def moving_buckets(self, members: Sequence[Member]) -> Iterator[Bucket]:
        """The local shards as buckets, for the move of their weights. Matrices of one bucket have the same scale.

        A part of a parameter may have rows of several blocks, so it is one matrix. If its blocks have unequal scales,
        the owner has multiplied the direction by their ratio to the first.
        """
        alike: dict[tuple[str, float] | None, list[tuple[int, str, Tensor, Layout]]] = {}
        for member in members:
            layout, factor = member.layout, None
            if member.cut:
                layout = linear(tuple(local(member.param).shape))
                factor = self.optimizer.param_groups[member.group]["scale"], self.factors(member)[0]
            alike.setdefault(factor, []).append((member.group, member.name, member.param, layout))
        groups = self.optimizer.param_groups
        for factor, entries in alike.items():
            for bucket in fill_buckets(entries):
                optimizer = self.optimizer
                bucket.runs = runs_of(bucket.slots, groups, optimizer.age, self._shard_state, optimizer.kinds)
                bucket.factors = {} if factor is None else dict([factor])
                yield bucket

    def factors(self, member: Member) -> list[float]:
        """The scale of each row block of a parameter."""
        group = self.optimizer.param_groups[member.group]
        scale = self.optimizer.scale_of(group["rule"], group["scale"])
        return [scale(m, n) for _, m, n in member.layout.matrices]

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
        return _filled(held, like, param.device)[key]

    def replicated_state(self, member: Member) -> list[Tensor]:
        """State of the matrix rules that every process keeps, under DDP; made if missing."""
        if member.resident:
            return []
        like = rule_state(self.optimizer, member.param, self.optimizer.param_groups[member.group])
        held = _filled(self.optimizer.state[member.param], like, member.param.device)
        return [held[key] for key in like]


def _filled(
    held: dict[str, Tensor], like: Mapping[str, tuple[tuple[int, ...], torch.dtype]], device: torch.device
) -> dict[str, Tensor]:
    """State in which every missing tensor of `like` was added as zeros."""
    for key, (shape, dtype) in like.items():
        if key not in held:
            held[key] = torch.zeros(shape, dtype=dtype, device=device)
    return held
