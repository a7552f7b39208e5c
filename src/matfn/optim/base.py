"""MatrixOptimizer: what every optimizer of matrices shares. A subclass supplies `direction(bucket, stack)`.

One step, for the parameters whose rule is "matrix":

    gradient -> momentum (float32, on the parameter's own shape) -> gather into buckets of equal (m, n) -> direction
             -> scale -> weight decay and update of the parameter, in place

and for the rest torch's AdamW (rest.py). Everything is one torch optimizer: one list of groups, one state, one state
dict. Gradients are only read. Hyperparameters live in the groups, where schedulers look for them; objects (methods,
layouts, a scale function) live on the optimizer, because groups end in the state dict.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor

from . import checkpoint, foreach
from .buckets import Bucket, check_gradients, check_state, fill_buckets, working_dtype
from .groups import RULES, as_groups, check_parameters, layouts_for, named
from .layout import Layout
from .options import check_options, check_scale, check_values
from .rest import OPTIONS as REST_OPTIONS
from .rest import RestRule, StateLike
from .scale import SCALES, Scale

__all__ = ["MatrixOptimizer"]

MOMENTUM = "momentum_buffer"


class MatrixOptimizer(torch.optim.Optimizer):
    """Base of the matrix optimizers.

    Args:
        params: a Plan, or an iterable of tensors, (name, tensor) pairs or dict groups. A group may say
            ``"rule": "matrix"`` (the default) or ``"adamw"``, and ``"layout"``: a function of the shape, or one
            Layout per parameter.
        defaults: options of matrix groups; must hold lr, momentum, nesterov, weight_decay, cautious and scale.
        rest: options of torch.optim.AdamW for the adamw groups; None takes AdamW's own defaults.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix; a name used twice.
        TypeError: `params` or an option is of another type, or a matrix parameter is complex or integer.
    """

    # What pickling and deepcopy keep beside groups and state; a subclass adds the names of its own attributes.
    kept: tuple[str, ...] = ("layouts", "scales", "rest")

    def __init__(self, params: Any, defaults: dict[str, Any], *, rest: Mapping[str, Any] | None = None) -> None:
        self.layouts: dict[Tensor, Layout] = {}
        self.scales: dict[str, Scale] = dict(SCALES)
        self.rest = RestRule(rest)
        self._drop_buckets()
        if not isinstance(defaults["scale"], str):
            check_scale(defaults["scale"], ())
            self.scales["custom"] = defaults["scale"]
            defaults = {**defaults, "scale": "custom"}
        super().__init__(as_groups(params, type(self).__name__), defaults)
        if rest is not None and not hasattr(params, "groups") and all(g["rule"] == "matrix" for g in self.param_groups):
            raise ValueError(
                "rest= was given, but no parameter would use it: every group has the matrix rule. Pass plan(model), or "
                'mark the groups of embeddings, head, norms and biases with "rule": "adamw", or drop rest=.'
            )

    def direction(self, bucket: Bucket, stack: Tensor) -> Tensor:
        """The update direction of each matrix of a bucket, before scale and learning rate.

        Args:
            bucket: whose matrices they are; a subclass with state of its own finds it by ``bucket.slots``.
            stack: ``(b, m, n)``, the momentum; may be overwritten.

        Returns:
            Shape, dtype and device of `stack`. The parameters move against it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define direction(bucket, stack).")

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Shape and dtype of each state tensor of a parameter; a subclass with more state extends the matrix case."""
        if group["rule"] == "adamw":
            return self.rest.state_like(param, group)
        return {MOMENTUM: (tuple(param.shape), working_dtype(param))}

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
        for bucket in self._current_buckets():
            self._apply(bucket, self.direction(bucket, self._gather(bucket)))
        self.rest.step([group for group in self.param_groups if group["rule"] == "adamw"], self.state)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; names, rule and layout as in the class's `params`.

        Raises:
            ValueError: see the class.
            TypeError: see the class.
        """
        group, index = dict(param_group), len(self.param_groups)
        rule = group.setdefault("rule", "matrix")
        if rule not in RULES:
            raise ValueError(f"group {index} has rule {rule!r}; the rules are {RULES}.")
        own, other = (self.defaults, REST_OPTIONS) if rule == "matrix" else (self.rest.defaults, self.defaults)
        check_options(group, own, set(other) - set(own), f"group {index} (rule {rule!r})")
        names, params = named(group["params"], index)
        layout = group.pop("layout", None)
        layouts = layouts_for(layout, names, params) if rule == "matrix" else []
        taken = {name for g in self.param_groups for name in g["param_names"]}
        check_parameters(names, params, taken, rule)
        group.pop("param_names", None)
        group |= {key: value for key, value in own.items() if key not in group}
        check_values(group, f"group {index}", scales=self.scales)
        if layouts:
            check_scale(self.scales[group["scale"]], layouts)
        group["params"] = list(zip(names, params, strict=True))
        super().add_param_group(group)
        for key in set(self.defaults) - set(own) - set(param_group):
            del group[key]  # torch gave every group the matrix defaults
        self.layouts.update(zip(params, layouts, strict=False))

    def state_dict(self) -> dict[str, Any]:
        """State by parameter name, plain values and tensors only: see `matfn.optim.checkpoint`."""
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
        checkpoint.load(
            saved, self.param_groups, self.state, self.state_like, partial(check_values, scales=self.scales)
        )
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it for its own optimizers; it is no option here
        self._drop_buckets()

    def _gather(self, bucket: Bucket) -> Tensor:
        """Update the momentum of a bucket's blocks and stack what the direction is computed from, ``(b, m, n)``."""
        stack = torch.empty(bucket.shape, dtype=bucket.dtype, device=bucket.device)
        for index, slots in bucket.by_group().items():
            group = self.param_groups[index]
            momentum = float(group["momentum"])
            gathered = [slot.place(stack) for slot in slots]
            buffers = [slot.read(self._momentum(slot.param)) for slot in slots]
            foreach.copy_(gathered, [slot.gradient() for slot in slots])
            foreach.lerp_(buffers, gathered, 1 - momentum)
            if group["nesterov"]:
                foreach.lerp_(gathered, buffers, momentum)
            else:
                foreach.copy_(gathered, buffers)
        return stack

    def _apply(self, bucket: Bucket, direction: Tensor) -> None:
        """Decay and move the parameters of a bucket: p <- (1 - lr wd) p - lr scale direction, rounded once."""
        _, m, n = bucket.shape
        direction = direction.contiguous()
        for index, slots in bucket.by_group().items():
            group = self.param_groups[index]
            lr, decay = float(group["lr"]), float(group["lr"]) * float(group["weight_decay"])
            updates = [slot.place(direction) for slot in slots]
            weights = [slot.read(slot.param) for slot in slots]
            # Half-precision weights are moved in float32: in bfloat16 1 - lr wd is 1, and decay would do nothing.
            moved = [weight.to(bucket.dtype) for weight in weights]
            if decay and group["cautious"]:
                for weight, update in zip(moved, updates, strict=True):
                    weight.addcmul_(weight, (weight * update >= 0).to(weight.dtype), value=-decay)
            elif decay:
                foreach.mul_(moved, 1 - decay)
            foreach.add_(moved, updates, -lr * self.scales[group["scale"]](m, n))
            rounded = [(weight, move) for weight, move in zip(weights, moved, strict=True) if weight is not move]
            if rounded:
                foreach.copy_([weight for weight, _ in rounded], [move for _, move in rounded])

    def _momentum(self, param: Tensor) -> Tensor:
        """The momentum of a parameter, of its shape, in float32 at least: half precision would lose small gradients."""
        state = self.state[param]
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(param, dtype=working_dtype(param))
        return state[MOMENTUM]

    def _current_buckets(self) -> tuple[Bucket, ...]:
        """The buckets of the parameters that have a gradient now; computed anew only when that set changes."""
        active = [(i, p) for i, group in enumerate(self.param_groups) for p in group["params"] if p.grad is not None]
        matrices = [member for member in active if self.param_groups[member[0]]["rule"] == "matrix"]
        check_gradients(matrices, self._name)
        key = tuple((index, id(param), param.dtype, param.device) for index, param in active)
        if key != self._bucket_key:
            for index, param in active:
                expected = self.state_like(param, self.param_groups[index])
                check_state(self.state.get(param, {}), param, expected, partial(self._name, index, param))
            self._buckets = fill_buckets((index, param, self.layouts[param]) for index, param in matrices)
            self._bucket_key = key
        return self._buckets

    def _drop_buckets(self) -> None:
        self._bucket_key: tuple[Any, ...] | None = None
        self._buckets: tuple[Bucket, ...] = ()

    def _name(self, index: int, param: Tensor) -> str:
        group = self.param_groups[index]
        return next(n for n, p in zip(group["param_names"], group["params"], strict=True) if p is param)
