"""MatrixOptimizer: what every optimizer of matrices shares. A subclass says its options and its chain of rules.

One step, for the parameters of each matrix rule, bucket by bucket of equal (m, n):

    elementwise rule: gradient -> momentum, on the parameters' own entries     (rules/ema.py)
    -> whole matrices, a stack (b, m, n)                                       (matrices/exchange.py)
    -> matrix rules: the direction of each                                     (rules/)
    -> back -> decay and move of the weights, in place                         (matrices/buckets.py)

and for the rest torch's AdamW (rest.py). Everything is one torch optimizer: one list of groups, one state, one state
dict. Gradients are only read. Hyperparameters live in the groups, where schedulers look for them; objects (rules,
layouts, a scale function) live on the optimizer, because groups end in the state dict.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from . import checkpoint
from .groups import as_groups, check_parameters, check_used, layouts_for, lent, named
from .matrices.buckets import Bucket, Kind, Run, check_gradients, fill_buckets, move
from .matrices.exchange import Exchange
from .matrices.layout import Layout
from .matrices.padding import directions, joined
from .options import check_options, check_scale, check_values
from .rest import OPTIONS as REST_OPTIONS
from .rest import RestRule, StateLike
from .rules.rule import Elementwise, Rule
from .scale import SCALES, Scale
from .state import COUNTER, check_state, count, described, make_state

__all__ = ["MatrixOptimizer"]

Lender = Callable[[Any], "MatrixOptimizer"]


class MatrixOptimizer(torch.optim.Optimizer):
    """Base of the matrix optimizers.

    Args:
        params: a Plan, or an iterable of tensors, (name, tensor) pairs or dict groups. A group may say
            ``"rule": "matrix"`` (the default), ``"adamw"`` or a name in `rules`, and ``"layout"``: a function of the
            shape, or one Layout per parameter.
        defaults: options of matrix groups; must hold lr, weight_decay, cautious and scale, and what the rules read.
        chain: an elementwise rule, then matrix rules, in order; see `matfn.optim.rules.rule`.
        rules: further rules by name, for groups whose "rule" is the name. Each is a function that makes an optimizer
            from parameters, such as ``functools.partial(PolarGrad, lr=1.0)``; its options are the groups' defaults.
        rest: options of torch.optim.AdamW for the adamw groups; None takes AdamW's own defaults.

    Attributes:
        before_move: hooks, functions of (bucket, update), called in order before the weights of a bucket move.
            ``bucket.names`` are the parameters' names, ``bucket.weights()`` views of their weights and
            ``bucket.places(update)`` views of the update before learning rate and scale, one of each for each part of a
            parameter that is in the stack. A hook may change the update in place, and must clone what it keeps, because
            the next bucket uses the same memory. Copies of an optimizer have no hooks.
        after_move: hooks, functions of (bucket), called in order after its weights have moved.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix; a name used twice.
        TypeError: `params` or an option is of another type, or a matrix parameter is complex or integer.
    """

    # What pickling and deepcopy keep beside groups and state; a subclass adds the names of its own attributes.
    kept: tuple[str, ...] = ("layouts", "scales", "rest", "chain", "others")
    named_scales: Mapping[str, Scale] = SCALES

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        chain: tuple[Elementwise, *tuple[Rule, ...]],
        *,
        rules: Mapping[str, Lender] | None = None,
        rest: Mapping[str, Any] | None = None,
    ) -> None:
        self.layouts: dict[Tensor, Layout] = {}
        self.scales: dict[str, Scale] = dict(self.named_scales)
        self.chain = chain
        self.others: dict[str, MatrixOptimizer] = lent(rules, MatrixOptimizer)
        self.rest = RestRule(rest)
        self._start()
        if not isinstance(defaults["scale"], str):
            check_scale(defaults["scale"], ())
            self.scales["custom"] = defaults["scale"]
            defaults = {**defaults, "scale": "custom"}
        super().__init__(as_groups(params, type(self).__name__), defaults)
        check_used(self.param_groups, self.others, rest is not None and not hasattr(params, "groups"))

    def _start(self) -> None:
        """What copies do not share and checkpoints do not hold."""
        self.before_move: list[Callable[[Bucket, Tensor], object]] = []
        self.after_move: list[Callable[[Bucket], object]] = []
        self._exchange = Exchange()
        self._stacks: tuple[tuple[MatrixOptimizer, tuple[Bucket, ...]], ...] = ()
        self._counted: tuple[Tensor, ...] = ()
        self._key: tuple[Any, ...] | None = None

    @property
    def observers(self) -> list[Callable[[Bucket, Tensor], object]]:
        """`before_move` under its first name."""
        return self.before_move

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The stacks of the last step: of the matrices that had a gradient."""
        return tuple(bucket for _, together in self._stacks for bucket in together)

    @property
    def workspace(self) -> int:
        """Bytes held between steps beside the state: the largest stack on a CPU, none elsewhere."""
        return self._exchange.nbytes

    def lender(self, rule: str) -> "MatrixOptimizer":
        """The optimizer whose rules, default options and scales groups of a matrix rule have: this one, or another."""
        return self if rule == "matrix" else self.others[rule]

    def scale_of(self, rule: str, name: str) -> Scale:
        """The scale, a function of (m, n), that groups of a matrix rule have under a name."""
        return self.lender(rule).scales[name]

    def kinds(self, shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
        """The state that the chain of a group keeps for matrices of a shape; see `Rule.state`.

        Raises:
            ValueError: two rules of the chain use one key, or a counter has another key than "step".
        """
        found: dict[str, Kind] = {}
        for rule in self.lender(options["rule"]).chain:
            for key, kind in rule.state(shape, options).items():
                if (key == COUNTER) != (kind == "counter"):
                    raise ValueError(f'{rule!r} keeps {key!r} of the kind {kind!r}: "step" is the key of the counter.')
                if key in found and key != COUNTER:
                    raise ValueError(f"{rule!r} keeps {key!r}, as another rule of its chain does: choose another key.")
                found[key] = kind
        return found

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Shape and dtype of each state tensor of a parameter, as checkpoints are checked against."""
        if group["rule"] == "adamw":
            return self.rest.state_like(param, group)
        return described(param, self.layouts[param], lambda shape: self.kinds(shape, group))

    def check_group(self, group: Mapping[str, Any], where: str, shapes: Iterable[tuple[int, ...]] = ()) -> None:
        """Refuse option values of a group that are out of range.

        Args:
            group: the options.
            where: what they belong to, for the message.
            shapes: of the group's matrices, see `Rule.state`.

        Raises:
            ValueError: naming the option, its value and its range.
            TypeError: naming the option, its value and the type wanted.
        """
        if group["rule"] == "adamw":
            check_values(group, where, scales=())
            return
        lender = self.lender(group["rule"])
        check_values(group, where, scales=lender.scales)
        for rule in lender.chain:
            rule.check(group, where, shapes)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step. Parameters without a gradient are left alone: no decay, no state.

        Args:
            closure: evaluates the model anew and returns the loss.

        Returns:
            What the closure returned, None without one.

        Raises:
            RuntimeError: a matrix parameter has a sparse or complex gradient, or the model was converted to another
                dtype or device after its state was made. Nothing has been changed then.
            ValueError: "momentum" was written into an AdamW group (by other than torch's cyclic schedulers).
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.rest.adopt_momentum(self.param_groups)
        self._refresh()
        self._prepare()
        for lender, together in self._stacks:
            for bucket, update in self._directions(lender, together):
                for hook in self.before_move:
                    hook(bucket, update)
                move(bucket, self.scale_of, self._exchange.updates(bucket, update))
                for hook in self.after_move:
                    hook(bucket)
        self.rest.step([group for group in self.param_groups if group["rule"] == "adamw"], self.state)
        return loss

    def _refresh(self) -> None:
        """Look which parameters have a gradient, and when those are others than before, sort them into buckets."""
        active = [
            (index, name, param)
            for index, group in enumerate(self.param_groups)
            for name, param in zip(group["param_names"], group["params"], strict=True)
            if param.grad is not None
        ]
        matrices = [member for member in active if self.param_groups[member[0]]["rule"] != "adamw"]
        check_gradients((name, param) for _, name, param in matrices)
        groups = tuple(id(group) for group in self.param_groups)
        key = (groups, *((index, id(param), param.dtype, param.device) for index, _, param in active))
        if key == self._key:
            return
        likes = {param: self.state_like(param, self.param_groups[index]) for index, _, param in active}
        for _, name, param in active:
            check_state(self.state.get(param, {}), param, likes[param], name)
        self._stacks = tuple(stack for name in ("matrix", *self.others) for stack in self._filled(name, matrices))
        moving = dict.fromkeys(slot.param for bucket in self.buckets for slot in bucket.slots)
        self._counted = tuple(param for param in moving if COUNTER in likes[param])
        for bucket in self.buckets:
            bucket.runs = self._runs(bucket)
        self._exchange.reserve(self.buckets)
        self._key = key

    def _filled(
        self, rule: str, matrices: Sequence[tuple[int, str, Tensor]]
    ) -> Iterator[tuple["MatrixOptimizer", tuple[Bucket, ...]]]:
        """The buckets of one rule, those together that are padded into one stack."""
        lender = self.lender(rule)
        members = [(i, name, p, self.layouts[p]) for i, name, p in matrices if self.param_groups[i]["rule"] == rule]
        below = min((rule.padded_below for rule in lender.chain[1:]), default=0)
        for together in joined(fill_buckets(members), below):
            yield lender, together

    def _runs(self, bucket: Bucket) -> tuple[Run, ...]:
        """The slots of a bucket, neighbours of one group and age together."""
        found: list[tuple[tuple[int, int], list[Any]]] = []
        for slot in bucket.slots:
            counter = self.state.get(slot.param, {}).get(COUNTER)
            key = (slot.group, 0 if counter is None else int(counter))
            if not found or found[-1][0] != key:
                found.append((key, []))
            found[-1][1].append(slot)
        return tuple(
            Run(tuple(slots), self.param_groups[group], self._held, self.kinds, age) for (group, age), slots in found
        )

    def _held(self, param: Tensor, key: str, options: Mapping[str, Any]) -> Tensor:
        """The state tensor `key` of a parameter, whole; zeros if there is none yet."""
        state = self.state[param]
        if key not in state:
            make_state(state, param, self.state_like(param, options))
        return state[key]

    def _prepare(self) -> None:
        """Count the steps where a rule wants it, and let rules work on all stacks at once."""
        if self._counted:
            count(self.state[param] for param in self._counted)
            for bucket in self.buckets:
                bucket.runs = self._runs(bucket)
        for lender in (self, *self.others.values()):
            for rule in lender.chain[1:]:
                if type(rule).prepare is not Rule.prepare:
                    stacks = [bucket.runs for owner, together in self._stacks if owner is lender for bucket in together]
                    rule.prepare(stacks)

    def _directions(self, lender: "MatrixOptimizer", together: Sequence[Bucket]) -> Iterator[tuple[Bucket, Tensor]]:
        """The direction of each bucket in turn, in its own shape and dtype; the next may use the memory of the last."""
        elementwise, *rules = lender.chain

        def collect(bucket: Bucket) -> Tensor:
            return self._exchange.matrices(bucket, elementwise)

        def direction(stack: Tensor, runs: Sequence[Run] = ()) -> Tensor:
            for rule in rules:
                stack = rule.update(stack, runs)
            return stack

        if len(together) > 1:
            yield from directions(together, collect, direction, self._exchange.memory)
            return
        [bucket] = together
        stack = collect(bucket)
        found = direction(stack, bucket.runs)
        # Reuse the finished stack to hold a direction in a narrower dtype.
        yield bucket, found if found.dtype is bucket.dtype else stack.copy_(found)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; names, rule and layout as in the class's `params`.

        Raises:
            ValueError: see the class.
            TypeError: see the class.
        """
        group, index = dict(param_group), len(self.param_groups)
        rule = group.setdefault("rule", "matrix")
        known = ("matrix", "adamw", *self.others)
        if rule not in known:
            raise ValueError(f"group {index} has rule {rule!r}; the rules are {known}. Give others in rules={{...}}.")
        own = self.rest.defaults if rule == "adamw" else self.lender(rule).defaults
        other = {*REST_OPTIONS, *self.defaults}.union(*(lender.defaults for lender in self.others.values()))
        check_options(group, own, other - set(own), f"group {index} (rule {rule!r})")
        names, params = named(group["params"], index)
        layout = group.pop("layout", None)
        layouts = [] if rule == "adamw" else layouts_for(layout, names, params)
        taken = {name for g in self.param_groups for name in g["param_names"]}
        check_parameters(names, params, taken, rule)
        group.pop("param_names", None)
        group |= {key: value for key, value in own.items() if key not in group}
        self.check_group(group, f"group {index}", {shape for layout in layouts for shape in layout.shapes})
        if layouts:
            check_scale(self.scale_of(rule, group["scale"]), layouts)
        group["params"] = list(zip(names, params, strict=True))
        if not names:
            group["param_names"] = []  # torch sets it where there are parameters, and wants all groups alike
        super().add_param_group(group)
        for key in set(self.defaults) - set(own) - set(param_group):
            del group[key]  # torch gave every group the matrix defaults
        self.layouts.update(zip(params, layouts, strict=False))

    def state_dict(self) -> dict[str, Any]:
        """Groups and state in torch's own format, with names: see `matfn.optim.checkpoint`."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self.rest.adopt_momentum(self.param_groups)
        saved = checkpoint.dump(self.param_groups, self.state)
        for after in self._optimizer_state_dict_post_hooks.values():
            saved = after(self, saved) or saved
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, bit for bit; nothing is changed when it does not fit.

        Raises:
            ValueError: naming each parameter that is missing, unexpected, in another group or of another shape.
            TypeError: it is no mapping, or an option in it is of another type.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict takes what state_dict() returned, got a {type(state_dict).__name__}.")
        self.rest.adopt_momentum(self.param_groups)  # what a new scheduler wrote must not outlive the loading
        saved = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            saved = before(self, saved) or saved
        checkpoint.load(saved, self.param_groups, self.state, self.state_like, self.check_group)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it for its own optimizers; it is no option here
        self._start()
