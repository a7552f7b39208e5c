"""Sharded: the parameters that several processes share, their owners, and the state that stays with the owners.

For each round of the exchange plan (`rounds`):

    elementwise rule on the local shard -> shards travel to the owners -> matrix rules on whole matrices at the owner
    -> directions travel back -> decay and move of the local shard

The next round travels while one is computed, so two rounds are in flight at most. Momentum is a DTensor placed as its
parameter is. State of the matrix rules stays whole at the owner; `collected` spreads it for a state dict.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .guards import check_tensor
from .matrices.buckets import Kind
from .matrices.exchange import Team
from .matrices.exchange_plan import ExchangePlan, Item, Split, assign, boxes, exchange_plan, owned_work, sources
from .matrices.layout import Layout
from .matrices.lending import lend
from .matrices.parts import parted
from .matrices.shards import as_state, cuts_of_state, is_dtensor, local, own_part, placements_of
from .member import Member
from .needs import group_lines, member_line, needs, rule_state
from .rounds import Round
from .state import make_state
from .step_state import StepState

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Sharded"]

State = dict[str, Tensor]


@dataclass(eq=False)
class Shared:
    """The parameters that one team of processes shares, the owners of the matrices, and the plan of the last step."""

    team: Team
    parameters: tuple[tuple[int, str, Tensor], ...]  # (group, name, parameter), vectors included
    members: tuple[Member, ...]  # matrices, and parts of stacks
    items: tuple[Item, ...]
    lines: tuple[str, ...]  # one for each group and parameter, to be compared between ranks
    plans: dict[tuple[int, ...], ExchangePlan] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """A hash of all that must be equal on the ranks."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def plan(self, active: tuple[int, ...]) -> ExchangePlan:
        """The plan of a step in which the members of these indices move."""
        if active not in self.plans:
            matrices = [self.members[i].matrix for i in active]
            items = [replace(self.items[i], index=j) for j, i in enumerate(active)]
            self.plans = {active: exchange_plan(matrices, self.team.mesh, items)}
        return self.plans[active]


class Sharded:
    """The parameters of an optimizer that are DTensors, or that DDP replicates.

    Args:
        group: The process group on which all plain parameters are replicated, as DDP does; None if there is none. Plain
            parameters are then computed by every process for itself.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.shared: tuple[Shared, ...] = ()
        self._teams: dict[Any, Team] = {}
        self._ways: dict[Tensor, str] = {}
        self._busy: dict[frozenset[int], dict[int, float]] = {}  # {processes of teams: {process: its work so far}}
        self._owners: dict[Any, dict[str, Item]] = {}
        self._resident: dict[Tensor, State] = {}  # state of the matrix rules of parameters that this process owns
        self._started: dict[Tensor, None] = {}  # parameters with such state anywhere
        self._key: tuple[Any, ...] | None = None
        self._fresh = True  # whether state may have been loaded

    # The parameters

    def serves(self, optimizer: "MatrixOptimizer") -> bool:
        """Whether other processes may share a parameter of the optimizer."""
        return self.group is not None or any(is_dtensor(p) for group in optimizer.param_groups for p in group["params"])

    @contextmanager
    def agreed(self, optimizer: "MatrixOptimizer") -> Iterator[None]:
        """A step: find owners if parameters are new, and agree with the other processes on the gradients.

        A parameter without a gradient here, but with one on another rank, gets one until the end; see `lend`.

        Raises:
            RuntimeError: If the plans of the processes differ, or one of them does not answer.
        """
        lent: list[Tensor] = []
        try:
            self._begin(optimizer, lent)
            yield
        finally:
            for param in lent:
                param.grad = None

    def _begin(self, optimizer: "MatrixOptimizer", lent: list[Tensor]) -> None:
        key = tuple(self._described(optimizer, group) for group in optimizer.param_groups)
        if key != self._key:
            self.shared = tuple(self._all_shared(optimizer))
            self._key = key
        for each in self.shared:
            flags = [param.grad is not None for _, _, param in each.parameters]
            some = [each.parameters[i][2] for i in each.team.agree(each.digest, each.lines, flags)]
            if some:
                lent += [param for param in some if param.grad is None]
                lend(each.team, some, [placements_of(param) for param in some])
        if self._fresh:
            self._take_in(optimizer)
            self._fresh = False

    @staticmethod
    def _described(optimizer: "MatrixOptimizer", group: Mapping[str, Any]) -> tuple[Any, ...]:
        """What the plans depend on in a group. An option such as `growth` of PolarGrad can give a rule state."""
        # A tensor without a layout has replaced a parameter; `check_tensor` refuses it.
        matrices = [p for p in group["params"] if p in optimizer.layouts] if group["rule"] != "adamw" else []
        kept = tuple(rule_state(optimizer, matrices[0], group)) if matrices else ()
        return id(group), group["rule"], len(group["params"]), kept

    def anywhere(self, params: set[Tensor]) -> set[Tensor]:
        """The parameters that are in the set of any process that shares them. All processes must call it together."""
        found = set(params)
        for each in self.shared:
            flags = [param in params for _, _, param in each.parameters]
            found |= {each.parameters[i][2] for i in each.team.agree(each.digest, each.lines, flags)}
        return found

    def travels(self, param: Tensor) -> bool:
        """Whether the matrices of a parameter are computed by an owner."""
        return self._ways.get(param, "local") != "local"

    def layout(self, param: Tensor, layout: Layout) -> Layout:
        """How this process's part of a parameter that does not travel is read: fewer matrices of the same shape."""
        shape = tuple(local(param).shape)
        return layout if shape == layout.shape else layout.resized(shape[0])

    def _all_shared(self, optimizer: "MatrixOptimizer") -> Iterator[Shared]:
        """The parameters of each team, in the order of their first parameter."""
        shared: dict[Any, list[tuple[int, str, Tensor]]] = {}
        for index, group in enumerate(optimizer.param_groups):
            for name, param in zip(group["param_names"], group["params"], strict=True):
                team = self._team(param, type(optimizer).__name__)
                if team is not None and team.size > 1:
                    shared.setdefault(team, []).append((index, name, param))
        self._ways, self._busy = {}, {}
        for team, parameters in shared.items():
            yield self._shared_by(optimizer, team, tuple(parameters))

    def _team(self, param: Tensor, name: str) -> Team | None:
        """The processes that share a parameter; None for a parameter of this process alone."""
        if is_dtensor(param):
            mesh = param.device_mesh
            key: Any = (mesh.device_type, tuple(mesh.shape), tuple(mesh.mesh.flatten().tolist()))
            if key not in self._teams:
                self._teams[key] = Team.of_mesh(mesh, name)
            return self._teams[key]
        if self.group is not None and self.group not in self._teams:
            self._teams[self.group] = Team.of_group(self.group, param.device, name)
        return self._teams[self.group] if self.group is not None else None

    def _shared_by(
        self, optimizer: "MatrixOptimizer", team: Team, parameters: tuple[tuple[int, str, Tensor], ...]
    ) -> Shared:
        members = []
        lines = [line for i in dict.fromkeys(index for index, *_ in parameters) for line in group_lines(optimizer, i)]
        for index, name, param in parameters:
            group, placements = optimizer.param_groups[index], placements_of(param)
            member = None
            if group["rule"] != "adamw":
                member = self._member(optimizer, team, index, name, param)
                members.append(member)
                held = boxes(member.matrix.shape, team.mesh, placements)[team.rank]
                if tuple(stop - start for start, stop in held) != tuple(local(param).shape):
                    raise RuntimeError(
                        f"{type(optimizer).__name__}: parameter {name!r} has a shard of {tuple(local(param).shape)}, "
                        f"but its placements {tuple(getattr(param, 'placements', ()))} mean {held}. Only Shard and "
                        "Replicate as made by fully_shard and parallelize_module are served."
                    )
            lines.append(member_line(name, param, group["rule"], member))
        every = zip(members, parted([member.matrix for member in members], team.mesh), strict=True)
        members = [replace(member, matrix=part) for member, parts in every for part in parts]
        return Shared(team, parameters, tuple(members), self._items(team, members), tuple(lines))

    def _items(self, team: Team, members: Sequence[Member]) -> tuple[Item, ...]:
        """The ways and owners of matrices. Owners know the work on other meshes of the same processes."""
        owners, matrices = self._owners.setdefault(team, {}), [member.matrix for member in members]
        busy = self._busy.setdefault(frozenset(team.ranks), dict.fromkeys(team.ranks, 0.0))
        items = assign(matrices, team.mesh, owners, [busy[rank] for rank in team.ranks])
        for rank, work in zip(team.ranks, owned_work(matrices, items, team.size), strict=True):
            busy[rank] += work
        for member, item in zip(members, items, strict=True):
            self._ways[member.param] = item.way
            if member.matrix.length is None:
                owners[member.name] = item
        return items

    def _member(self, optimizer: "MatrixOptimizer", team: Team, index: int, name: str, param: Tensor) -> Member:
        check_tensor(name, param, optimizer.layouts, f"{type(optimizer).__name__}: group {index}")
        group, layout = optimizer.param_groups[index], optimizer.layouts[param]
        placements, mesh = placements_of(param), team.mesh
        matrix, wire = needs(optimizer, group, name, param, mesh, placements, team.device, sharded=is_dtensor(param))
        cut = any(split is not None and size > 1 for split, size in zip(placements, mesh, strict=True))
        return Member(index, name, param, layout, optimizer.lender(group["rule"]), matrix, wire, cut)

    # The step

    def step(self, optimizer: "MatrixOptimizer") -> None:
        """Move all parameters whose matrices travel, those with a gradient."""
        self.make_empty(optimizer)
        for each in self.shared:
            pairs = [(i, m) for i, m in enumerate(each.members) if m.param.grad is not None and self.travels(m.param)]
            if not pairs:
                continue
            plan, members = each.plan(tuple(i for i, _ in pairs)), [member for _, member in pairs]
            step = StepState(optimizer, self._resident, members)
            rounds = [Round(each.team, plan, number, step) for number in range(len(plan.rounds))]
            rounds[0].start()
            for before, current, after in zip([None, *rounds[:-1]], rounds, [*rounds[1:], None], strict=True):
                if after is not None:
                    after.start()
                current.compute()
                if before is not None:
                    before.finish()
            rounds[-1].finish()
            for member in members:
                if member.resident and member.param not in self._started:
                    self._started[member.param] = None
                    self._name_state(optimizer, member)

    # State

    def forget(self) -> None:
        """Drop the state at the owners, because other state was loaded."""
        self._resident, self._started, self._fresh = {}, {}, True

    def _matrices(self) -> Iterator[tuple[Shared, Member, Item]]:
        for each in self.shared:
            for member, item in zip(each.members, each.items, strict=True):
                if member.resident and item.way != "local":
                    yield each, member, item

    def _take_in(self, optimizer: "MatrixOptimizer") -> None:
        """Move loaded state of the matrix rules to the owners, or to the ranks that hold whole matrices."""
        self._place_batched(optimizer)
        for each, member, item in self._matrices():
            state, group = optimizer.state.get(member.param, {}), optimizer.param_groups[member.group]
            like = rule_state(optimizer, member.param, group) if state else {}
            for key, (shape, _) in like.items():
                if key not in state or state[key].is_meta:
                    continue
                value = state.pop(key)
                if is_dtensor(value):
                    placements = placements_of(value)
                    held = boxes(shape, each.team.mesh, placements)
                    senders = sources(each.team.mesh, placements, item.owner)
                    value = each.team.gathered(local(value), held, shape, item.owner, senders)
                if each.team.rank == item.owner and value is not None:
                    self._resident.setdefault(member.param, {})[key] = value.to(each.team.device)
                self._started[member.param] = None
            if member.param in self._started:
                self._name_state(optimizer, member)

    def _name_state(self, optimizer: "MatrixOptimizer", member: Member) -> None:
        """Put meta tensors into the optimizer's state for the state at the owner.

        torch.distributed.checkpoint reads there which tensors a parameter has. `collected` gives their values.
        """
        state = optimizer.state[member.param]
        for key, (shape, dtype) in rule_state(optimizer, member.param, optimizer.param_groups[member.group]).items():
            state.setdefault(key, torch.empty(shape, dtype=dtype, device="meta"))

    def _place_batched(self, optimizer: "MatrixOptimizer") -> None:
        """Place loaded numbers for rows and matrices where the matrices are, if every rank holds whole matrices."""
        for member in self._whole_members():
            state, group = optimizer.state.get(member.param, {}), optimizer.param_groups[member.group]
            zeros: State = {}
            if state:
                kinds = optimizer.kinds(member.layout.shapes[0], group)
                self.make_batched(member.param, zeros, optimizer.state_like(member.param, group), kinds)
            for key, placed in zeros.items():
                if key in state:
                    local(placed).copy_(own_part(state[key], placed))
                    state[key] = placed

    def _whole_members(self) -> Iterator[Member]:
        """DTensors whose ranks hold whole matrices, so that nothing travels."""
        for each in self.shared:
            for member, item in zip(each.members, each.items, strict=True):
                if item.way == "local" and is_dtensor(member.param):
                    yield member

    def make_empty(self, optimizer: "MatrixOptimizer") -> None:
        """Make the state of parameters of which this rank holds no matrix, because state dicts must agree on keys."""
        for member in self._whole_members():
            param, group = member.param, optimizer.param_groups[member.group]
            if param.grad is not None and not local(param).numel():
                state, like = optimizer.state[param], optimizer.state_like(param, group)
                self.make_batched(param, state, like, optimizer.kinds(member.layout.shapes[0], group))
                make_state(state, param, like)

    def refuse_copy(self, optimizer: "MatrixOptimizer") -> None:
        """Raise RuntimeError if state of the matrix rules is at the owners, which a copy would not have."""
        started = (member for _, member, _ in self._matrices() if member.param in self._started)
        if any(rule_state(optimizer, m.param, optimizer.param_groups[m.group]) for m in started):
            raise RuntimeError(
                f"{type(optimizer).__name__}: an optimizer of sharded parameters cannot be copied or pickled, because "
                "the state of its matrix rules is spread over the processes. Make another one and load the "
                "state_dict() of this one, which all processes must call together."
            )

    def collected(self, optimizer: "MatrixOptimizer") -> dict[Tensor, State]:
        """State of the matrix rules as DTensors, or as plain tensors if small. All ranks must call it together."""
        found: dict[Tensor, State] = {}
        for each, member, item in self._matrices():
            if member.param not in self._started:
                continue
            whole = self._resident.get(member.param, {})
            like = rule_state(optimizer, member.param, optimizer.param_groups[member.group])
            for key, (shape, dtype) in like.items():
                placements = cuts_of_state(member.param, shape)
                cuts = tuple(None if axis is None else Split(axis) for axis in placements)
                if shape == tuple(member.param.shape):
                    cuts = placements_of(member.param)
                part = each.team.scattered(whole.get(key), boxes(shape, each.team.mesh, cuts), item.owner, dtype)
                found.setdefault(member.param, {})[key] = as_state(part, member.param, shape, placements)
        return found

    def make_batched(self, param: Tensor, state: State, like: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
        """Add state of a DTensor whose ranks hold whole matrices each, such as experts: numbers for rows and matrices.

        Args:
            param: The parameter, cut along its first axis.
            state: The state of the parameter, changed in place.
            like: {key: (shape, dtype)} of the state of the whole parameter.
            kinds: {key: kind}; see `Rule.state`.
        """
        assert is_dtensor(param)
        for key, (shape, dtype) in like.items():
            axis = {"row": 0, "matrix": 1}.get(str(kinds.get(key)))
            if key in state or axis is None:
                continue
            placements = [axis if cut is not None else None for cut in placements_of(param)]
            local_shape = (*shape[:axis], local(param).shape[0], *shape[axis + 1 :])
            zeros = torch.zeros(local_shape, dtype=dtype, device=local(param).device)
            state[key] = as_state(zeros, param, shape, placements)
