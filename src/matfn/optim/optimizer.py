"""MatrixOptimizer: what every optimizer of matrices shares. A subclass supplies `direction(bucket, stack)`.

One step, for the parameters whose rule is "matrix", bucket by bucket of equal (m, n):

    collect: gradient -> momentum (float32, on the parameter's own shape) -> a stack (b, m, n) -> direction
             -> scale, weight decay and update of the parameter, in place (update.py)

and for the rest torch's AdamW (rest.py). Everything is one torch optimizer: one list of groups, one state, one state
dict. Gradients are only read. Hyperparameters live in the groups, where schedulers look for them; objects (methods,
layouts, a scale function) live on the optimizer, because groups end in the state dict. State of a subclass's own is
named in `state_like`, which checkpoints are checked against, and reached by `state_of`.
"""

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from . import checkpoint
from .groups import RULES, as_groups, check_parameters, check_rest_used, layouts_for, named
from .matrices.active import Active
from .matrices.buckets import Bucket, Slot, working_dtype
from .matrices.layout import Layout
from .matrices.padding import directions
from .momentum import averaged
from .options import check_options, check_scale, check_values
from .rest import OPTIONS as REST_OPTIONS
from .rest import RestRule, StateLike
from .scale import SCALES, Scale
from .state import COUNTER, count, make_state
from .update import move

__all__ = ["COUNTER", "MOMENTUM", "MatrixOptimizer"]

MOMENTUM = "momentum_buffer"
Observer = Callable[[Bucket, Tensor], None]


class MatrixOptimizer(torch.optim.Optimizer):
    """Base of the matrix optimizers.

    Args:
        params: a Plan, or an iterable of tensors, (name, tensor) pairs or dict groups. A group may say
            ``"rule": "matrix"`` (the default) or ``"adamw"``, and ``"layout"``: a function of the shape, or one
            Layout per parameter.
        defaults: options of matrix groups; must hold lr, weight_decay, cautious and scale, and momentum and nesterov
            unless the subclass overrides `collect`.
        rest: options of torch.optim.AdamW for the adamw groups; None takes AdamW's own defaults.

    Attributes:
        observers: functions of (bucket, direction), called in order before the weights move; they must change neither,
            and clone what they keep, because the next bucket may use the memory of the direction.

    Raises:
        ValueError: an option out of range, misspelt or unused; a matrix parameter that is no matrix; a name used twice.
        TypeError: `params` or an option is of another type, or a matrix parameter is complex or integer.
    """

    # What pickling and deepcopy keep beside groups and state; a subclass adds the names of its own attributes.
    kept: tuple[str, ...] = ("layouts", "scales", "rest")
    named_scales: Mapping[str, Scale] = SCALES

    def __init__(self, params: Any, defaults: dict[str, Any], *, rest: Mapping[str, Any] | None = None) -> None:
        self.layouts: dict[Tensor, Layout] = {}
        self.scales: dict[str, Scale] = dict(self.named_scales)
        self.rest = RestRule(rest)
        self.observers: list[Observer] = []
        self._active = Active()
        if not isinstance(defaults["scale"], str):
            check_scale(defaults["scale"], ())
            self.scales["custom"] = defaults["scale"]
            defaults = {**defaults, "scale": "custom"}
        super().__init__(as_groups(params, type(self).__name__), defaults)
        if rest is not None and not hasattr(params, "groups"):
            check_rest_used(self.param_groups)

    def collect(self, bucket: Bucket) -> Tensor:
        """Take in the gradients of a bucket, and stack what the direction is computed from; here the momentum.

        Args:
            bucket: its slots give gradients (to be read only), groups and state.

        Returns:
            ``(b, m, n)`` in the bucket's dtype, the caller's to overwrite: `stack` of the bucket, filled.
        """
        return averaged(bucket, self.param_groups, lambda slot: self.state_of(slot, MOMENTUM), self.stack(bucket))

    def stack(self, bucket: Bucket) -> Tensor:
        """Memory for a stack ``(b, m, n)`` in the bucket's dtype, the same for all buckets; for `collect` to fill."""
        return self._active.workspace.stack(bucket)

    @property
    def workspace(self) -> int:
        """The bytes of that memory, held between steps beside the state: the largest stack on a CPU, none elsewhere."""
        return self._active.workspace.nbytes

    def direction(self, bucket: Bucket, stack: Tensor) -> Tensor:
        """The update direction of each matrix of a bucket, before scale and learning rate.

        Args:
            bucket: whose matrices they are; a subclass with state of its own finds it by ``bucket.slots``.
            stack: ``(b, m, n)``, what `collect` returned; may be overwritten.

        Returns:
            Shape and device of `stack`, in its dtype or in a narrower one, such as the dtype of an iteration. The
            parameters move against it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define direction(bucket, stack).")

    @property
    def padded_below(self) -> int:
        """The short side below which `direction` bears rows and columns of zeros, and needs no slots: see `crowds`."""
        return 0

    def state_like(self, param: Tensor, group: Mapping[str, Any]) -> StateLike:
        """Shape and dtype of each state tensor of a parameter; a subclass overrides the matrix case.

        ``COUNTER: ((), None)`` asks for the number of steps that the parameter has made, this one included: a 0-d
        tensor on the host, as torch's AdamW has it.
        """
        if group["rule"] == "adamw":
            return self.rest.state_like(param, group)
        return {MOMENTUM: (tuple(param.shape), working_dtype(param))}

    def state_of(self, slot: Slot, key: str) -> Tensor:
        """The state tensor `key` of a slot's parameter, whole; zeros as `state_like` describes if it is not there yet.

        Momentum and the like are float32 at least: half precision would lose small gradients.
        """
        state = self.state[slot.param]
        if key not in state:
            make_state(state, slot.param, self.state_like(slot.param, self.param_groups[slot.group]))
        return state[key]

    def check_group(self, group: Mapping[str, Any], where: str) -> None:
        """Refuse option values of a group that are out of range; a subclass with options of its own extends it.

        Raises:
            ValueError: naming the option, its value and its range.
            TypeError: naming the option, its value and the type wanted.
        """
        check_values(group, where, scales=self.scales)

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
        self._active.refresh(self.param_groups, self.layouts, self.state, self.state_like, self.padded_below)
        count(self.state[param] for param in self._active.counted)
        for crowd in self._active.crowds:
            for bucket, direction in directions(crowd, self.collect, self.direction, self.stack):
                for observe in self.observers:
                    observe(bucket, direction)
                move(bucket, self.param_groups, self.scales, direction)
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
        self.check_group(group, f"group {index}")
        if layouts:
            check_scale(self.scales[group["scale"]], layouts)
        group["params"] = list(zip(names, params, strict=True))
        if not names:
            group["param_names"] = []  # torch sets it where there are parameters, and wants all groups alike
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
        checkpoint.load(saved, self.param_groups, self.state, self.state_like, self.check_group)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it for its own optimizers; it is no option here
        self.observers = []
        self._active = Active()
