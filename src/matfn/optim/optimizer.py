"""MatrixOptimizer: the base of the optimizers. A subclass gives its options and its chain of rules.

One step, for the parameters of each matrix rule, in buckets of equal (m, n):

    elementwise rule: gradient -> momentum, entry by entry          (rules/ema.py)
    -> whole matrices, a stack (b, m, n)                            (matrices/stacks.py)
    -> matrix rules: the direction of each matrix                   (rules/)
    -> back -> decay and move of the weights, in place              (matrices/buckets.py)

and torch's AdamW for the rest (rest.py). All of it is one torch optimizer: one list of groups, one state, one state
dict. Hyperparameters are in the groups, for schedulers. Objects (rules, layouts, a scale function) are attributes of
the optimizer, because groups are saved in the state dict.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, overload

import torch
from torch import Tensor

from . import checkpoint
from .groups import as_groups, check_used, lent, prepared
from .guards import Kept, Made, Members, Watch, check_finite, check_groups, check_members
from .matrices.buckets import Bucket, Run, fill_buckets, move, runs_of
from .matrices.layout import Layout
from .matrices.padding import joined
from .matrices.shards import is_dtensor
from .matrices.stacks import Stacks
from .options import check_defaults, check_scale
from .replay import Replay, check_capturable
from .reported import Reported
from .rest import RestRule
from .rule_groups import RuleGroups
from .rules.rule import Elementwise, Rule
from .scale import SCALES, Scale
from .sharded import Sharded
from .state import COUNTER, check_state, count, make_state, settle
from .switch import as_ours
from .traced import ready
from .words import naming_arguments

__all__ = ["MatrixOptimizer"]

Lender = Callable[[Any], "MatrixOptimizer"]
Stacked = tuple[tuple["MatrixOptimizer", tuple[Bucket, ...]], ...]


def plain_values(group: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a group that can be compared without waiting for a device; of a tensor its shape, dtype, device."""
    names, params = group.get("param_names", ()), group.get("params", ())
    plain = {k: Kept(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for k, x in group.items()}
    return {**plain, "param_names": tuple(names), "params": len(params)}


def kind_of(gradient: Tensor | None) -> tuple[Any, ...]:
    """What rules need to know of a gradient."""
    return () if gradient is None else (gradient.layout, gradient.dtype, gradient.device)


class MatrixOptimizer(Reported, RuleGroups):
    """Base of the matrix optimizers.

    Args:
        params: A Plan, or an iterable of tensors, (name, tensor) pairs or dict groups. A group may have ``"rule"``:
            "matrix" (the default), "adamw" or a name in `rules`; and ``"layout"``: a function of the shape, or one
            Layout per parameter.
        defaults: Options of matrix groups: lr, weight_decay, cautious, scale, and the options that the rules read
            (`Rule.reads`). "rounding" and "seed" may be left out; their defaults are "nearest" and 0.
        chain: An elementwise rule, then matrix rules, in order; see `matfn.optim.rules.rule`.
        rules: Further rules, as in `Muon`.
        rest: Options of torch.optim.AdamW for the adamw groups. None takes AdamW's own defaults.
        graph: As in `Muon`.

    Attributes:
        graph: Whether steps are captured as CUDA graphs. It is no option of groups. Copies keep it, and capture graphs
            of their own.
        before_move: Hooks, functions of (bucket, update), called in order before the weights of a bucket move.
            ``bucket.names``, ``bucket.weights()`` and ``bucket.places(update)`` have one entry for each part of a
            parameter in the stack: its name, and views of its weights and of its update before learning rate and scale.
            A hook may change the update in place. It must clone tensors that it keeps: the next bucket uses their
            memory. Copies have no hooks. If matrices are sharded, a process has its part of each as one matrix.
        after_move: Hooks, functions of (bucket), called in order after its weights have moved.

    Raises:
        ValueError: If an option is missing, out of range, misspelt or unused, a matrix parameter is no matrix, or a
            name is used twice.
        TypeError: If `params` or an option has a wrong type, or a parameter cannot be optimized (integer, sparse, meta,
            no leaf, partial sums), or is complex and a matrix.
    """

    # Attributes kept by pickling and deepcopy beside groups and state. A subclass adds its own.
    kept: tuple[str, ...] = ("layouts", "scales", "rest", "chain", "others", "graph")
    graph: bool = False  # of pickles of an earlier version
    named_scales: Mapping[str, Scale] = SCALES

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        chain: tuple[Elementwise, *tuple[Rule, ...]],
        *,
        rules: Mapping[str, Lender] | None = None,
        rest: Mapping[str, Any] | None = None,
        graph: bool = False,
    ) -> None:
        name = type(self).__name__
        if not isinstance(graph, bool):
            raise TypeError(f"{name}: graph must be True or False, got {graph!r}.")
        self.graph = graph
        defaults = {"rounding": "nearest", "seed": 0, **check_defaults(defaults, chain, name)}
        self.layouts: dict[Tensor, Layout] = {}
        self.scales: dict[str, Scale] = dict(self.named_scales)
        self.chain = chain
        self.others: dict[str, MatrixOptimizer] = lent(rules, MatrixOptimizer, name)
        self.rest = RestRule(rest, f"{name}: rest")
        self._start()
        if not isinstance(defaults["scale"], str):
            check_scale(defaults["scale"], (), name)
            self.scales["custom"] = defaults["scale"]
            defaults = {**defaults, "scale": "custom"}
        super().__init__(as_groups(params, name), defaults)
        self.entries = tuple(getattr(params, "entries", ()))
        self._watch, self._sharded = Watch(params), Sharded(getattr(params, "processes", None))
        check_used(self.param_groups, self.others, rest is not None and not hasattr(params, "groups"), name)
        if graph:
            check_capturable(self)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = naming_arguments(cls.__init__)

    def _start(self) -> None:
        """Set the attributes that copies and checkpoints do not have."""
        self._watch = Watch()
        self._options: Any = None  # `plain_values` of all groups, and their lists, when they were last checked
        self._shared = False  # whether other processes share a parameter
        self.before_move: list[Callable[[Bucket, Tensor], object]] = []
        self.after_move: list[Callable[[Bucket], object]] = []
        self.stacks, self._sharded, self._made = Stacks(), Sharded(), Made()
        self.together: Stacked = ()  # the stacks of the last step: the buckets of each, with their lender
        self._counted: tuple[Tensor, ...] = ()
        self._key: tuple[Any, ...] | None = None
        self.moving: tuple[Tensor, ...] = ()  # the parameters with a gradient in the last step
        self._replay = Replay() if self.graph else None

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The stacks of the last step, of all matrices with a gradient."""
        return tuple(bucket for _, together in self.together for bucket in together)

    @property
    def spread(self) -> bool:
        """Whether other processes may share a parameter."""
        return self._sharded.serves(self)

    def sort_again(self) -> None:
        """Make the next step sort the parameters into buckets again."""
        self._key = None

    @property
    def workspace(self) -> int:
        """Bytes held between steps beside the state: on a CPU the size of the largest stack, elsewhere 0."""
        return self.stacks.nbytes

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. Parameters without a gradient do not change: no decay, no state.

        Args:
            closure: Evaluates the model again and returns the loss, which `step` returns.

        Raises:
            RuntimeError: If a gradient is sparse (or complex, for a matrix), a group or parameter was replaced or
                resized, or the model was converted to another dtype or device after its state was made.
            ValueError: If an option of a group was set to a value that it cannot have, or a method that refuses NaN
                and infinity (such as `Exact`) would get one.
            TypeError: If `closure` cannot be called, or an option of a group was set to another type.

        In all these cases nothing has changed: no weight, no state. If torch's AdamW raises, no matrix has moved. An
        error in a rule or a hook (out of memory) may come after some matrices moved; a note names the parameters.
        """
        if closure is not None and not callable(closure):
            raise TypeError(f"{type(self).__name__}.step takes a function of no arguments, got {closure!r}.")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_compiling():
            self.move_all(ready(self))
            return loss
        self.check()
        with self._sharded.agreed(self) if self._shared else nullcontext():
            self.refresh()
            if self._replay is None:
                self.work()
            else:
                self._replay.step(self, self.work)
        return loss

    def check(self) -> None:
        """The first part of a step: check options of groups that have changed."""
        self.rest.adopt_momentum(self.param_groups)
        plain = [plain_values(group) for group in self.param_groups]
        options = plain, [id(group["params"]) for group in self.param_groups]
        if options != self._options:
            self._made.adopt(self, self._watch)
            check_groups(self, plain)
            self._shared, self._options = self._sharded.serves(self), options
            if self.graph:
                check_capturable(self)

    def work(self) -> None:
        """The last part of a step, which works on the device: AdamW, then the matrices."""
        # AdamW goes first: it refuses combinations of options, such as foreach with an lr that is a tensor.
        groups = [group for group in self.param_groups if group["rule"] == "adamw"]
        self.rest.step(groups, self.state, None if self._replay is None else self._replay.capturable)
        self.prepare()
        self.move_all(self.together)
        if self._shared:
            self._sharded.step(self)

    def move_all(self, stacks: Stacked) -> None:
        """Compute the directions of all buckets and move their weights."""
        for lender, together in stacks:
            try:
                for bucket, update in self.stacks.directions(lender.chain[0], lender.chain[1:], together):
                    self.move(bucket, update)
            except Exception as error:
                names = ", ".join(dict.fromkeys(name for bucket in together for name in bucket.names))
                error.add_note(f"This was in {type(self).__name__}.step, at the stack of the parameters {names}.")
                raise

    def move(self, bucket: Bucket, update: Tensor) -> None:
        """Run the hooks and move the weights of a bucket."""
        for hook in self.before_move:
            hook(bucket, update)
        move(bucket, self.scale_of, self.stacks.updates(bucket, update))
        for hook in self.after_move:
            hook(bucket)

    def refresh(self) -> None:
        """Find the parameters with a gradient, and check what may have changed since the last step."""
        active = [
            (index, name, param)
            for index, group in enumerate(self.param_groups)
            for name, param in zip(group["param_names"], group["params"], strict=True)
            if param.grad is not None
        ]
        matrices = [member for member in active if self.param_groups[member[0]]["rule"] != "adamw"]
        groups = tuple((id(group), group["rounding"]) for group in self.param_groups)
        self.moving = tuple(param for _, _, param in active)
        key = (groups, *((i, id(p), p.dtype, p.device, p.shape, *kind_of(p.grad)) for i, _, p in active))
        if key != self._key:
            check_members(self, active)
            self._watch.check_present(type(self).__name__, active=bool(active))
            self._sort(active, matrices)
            self._key = key
        if any(rule.refuses_nan for lender in (self, *self.others.values()) for rule in lender.chain):
            check_finite(self, matrices, self._sharded.anywhere)
        if self._watch.frozen:
            self._watch.warn_of_frozen(type(self).__name__)

    def _sort(self, active: Members, matrices: Members) -> None:
        """Sort the parameters with a gradient into buckets."""
        likes = {param: self.state_like(param, self.param_groups[index]) for index, _, param in active}
        for _, name, param in active:
            check_state(self.state.get(param, {}), param, likes[param], f"{type(self).__name__}: parameter {name!r}")
        here = [member for member in matrices if not self._sharded.travels(member[2])]
        self.together = tuple(stack for name in ("matrix", *self.others) for stack in self._filled(name, here))
        moving = [param for _, _, param in matrices if param.numel()]
        self._counted = tuple(param for param in moving if COUNTER in likes[param])
        for bucket in self.buckets:
            bucket.runs = self._runs(bucket)
        self.stacks.reserve(self.buckets)

    def _filled(self, rule: str, matrices: Members) -> Iterator[tuple["MatrixOptimizer", tuple[Bucket, ...]]]:
        """The buckets of one rule, in tuples of those that are padded into one stack."""
        lender = self.lender(rule)
        own = [member for member in matrices if self.param_groups[member[0]]["rule"] == rule]
        entries = [(i, name, p, self._sharded.layout(p, self.layouts[p])) for i, name, p in own]
        below = min((rule.padded_below for rule in lender.chain[1:]), default=0)
        for together in joined(fill_buckets(entries), below):
            yield lender, together

    def _runs(self, bucket: Bucket) -> tuple[Run, ...]:
        """The slots of a bucket, neighbours of one group and age together."""
        groups = self.param_groups if self._replay is None else self._replay.options(self)
        return runs_of(bucket.slots, groups, self.age, self._held, self.kinds)

    def age(self, param: Tensor) -> int:
        """The number of steps of a parameter; 0 if its rules count none."""
        return int(self.state.get(param, {}).get(COUNTER, 0))

    def _held(self, param: Tensor, key: str, options: Mapping[str, Any]) -> Tensor:
        """The whole state tensor `key` of a parameter. It is made if it does not exist."""
        state = self.state[param]
        if key not in state:
            like = self.state_like(param, options)
            if is_dtensor(param) and param.device_mesh.size() > 1:
                self._sharded.make_batched(param, state, like, self.kinds(self.layouts[param].shapes[0], options))
            make_state(state, param, like)
        return state[key]

    def prepare(self) -> None:
        """Count the steps if a rule needs it, then run the `prepare` of the rules."""
        if self._counted:
            count(self.state[param] for param in self._counted)
            for bucket in self.buckets:
                bucket.runs = self._runs(bucket)
        for lender in (self, *self.others.values()):
            for rule in lender.chain[1:]:
                if type(rule).prepare is not Rule.prepare:
                    stacks = [
                        bucket.runs for owner, together in self.together if owner is lender for bucket in together
                    ]
                    rule.prepare(stacks)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; names, rule, layout and errors as for the class's `params`."""
        group, layouts = prepared(self, param_group)
        own, params = self.own_options(group["rule"]), [param for _, param in group["params"]]
        if not params:
            group["param_names"] = []  # torch sets it only if there are parameters, but wants it in all groups or none
        super().add_param_group(group)
        for key in set(self.defaults) - set(own) - set(param_group):
            del group[key]  # torch gives every group the matrix defaults
        self.layouts.update(zip(params, layouts, strict=False))
        self._watch.add(params)
        self._made.adopt(self, self._watch)

    def state_dict(self) -> dict[str, Any]:
        """Groups and state in torch's own format, with names; see `matfn.optim.checkpoint`."""
        settle(self.chain, *(other.chain for other in self.others.values()))
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self.rest.adopt_momentum(self.param_groups)
        self._made.adopt(self, self._watch)
        state = {param: {**self.state[param], **more} for param, more in self._sharded.collected(self).items()}
        saved = checkpoint.dump(self.param_groups, {**self.state, **state}, lambda rule: self.wanted(rule)[0])
        for after in self._optimizer_state_dict_post_hooks.values():
            saved = after(self, saved) or saved
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict`, bit for bit. If it does not fit, nothing changes.

        Raises:
            ValueError: If parameters are missing, unexpected, in another group or of another shape (all are named), the
                state has NaN or another kind of tensor, or another optimizer saved it.
            TypeError: If `state_dict` is no mapping, or a part or an option of it has a wrong type.
        """
        name = type(self).__name__
        settle(self.chain, *(other.chain for other in self.others.values()))
        self._made.adopt(self, self._watch)
        saved = state_dict
        try:
            if isinstance(saved, Mapping):
                saved = dict(saved)
                for before in self._optimizer_load_state_dict_pre_hooks.values():
                    saved = before(self, saved) or saved
            saved, remarks = as_ours(saved, self)
            groups, state = checkpoint.load(saved, self.param_groups, self.state_like, self.check_group, self.wanted)
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{name}: {error}") from error
        self.rest.adopt_momentum(self.param_groups)  # a momentum that a new scheduler wrote must not stay
        self.state.clear()
        self.state.update(state)
        self._sharded.forget()
        for group, new in zip(self.param_groups, groups, strict=True):
            group.update({k: v for k, v in new.items() if k in group or k != "momentum"})
        for text in remarks:
            warnings.warn(f"{name}.load_state_dict: {text}", stacklevel=2)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        self._sharded.refuse_copy(self)
        settle(self.chain, *(other.chain for other in self.others.values()))
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it for its own optimizers; it is no option here
        for options in (self.defaults, *self.param_groups):  # a pickle of an earlier version has no rounding
            options.update({"rounding": "nearest", "seed": 0, **options})
        self._start()
