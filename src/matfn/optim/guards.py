"""What is checked before a step changes anything: groups, their tensors and gradients. Errors name the parameter."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .matrices.layout import Layout
from .matrices.shards import is_dtensor, local
from .model.walk import candidates
from .rules.ema import MOMENTUM

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Kept", "Made", "Members", "Watch", "check_finite", "check_groups", "check_members"]


@dataclass(frozen=True)
class Kept:
    """What is known of a tensor without reading it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


Members = Sequence[tuple[int, str, Tensor]]  # (index of the group, name, parameter)
Anywhere = Callable[[set[Tensor]], set[Tensor]]  # the parameters that are found in the set of any process


def check_groups(optimizer: "MatrixOptimizer", plain: Sequence[Mapping[str, Any]]) -> None:
    """Check groups that were changed by hand since the last step. `plain` has their `plain_values`.

    Raises:
        RuntimeError: If a group lacks a key, or names and parameters do not belong together.
        TypeError: If an option has a wrong type.
        ValueError: If an option is out of range, or has no effect here.
    """
    for index, group in enumerate(plain):
        where = f"{type(optimizer).__name__}: group {index}"
        given = optimizer.param_groups[index]
        _check_keys(given, ("params", "param_names", "rule"), where)
        _check_keys(given, optimizer.own_options(given["rule"]), where)
        names, count = group["param_names"], group["params"]
        if len(names) != count:
            raise RuntimeError(
                f"{where} has {count} parameters, but {len(names)} names: its list was changed. Add parameters by "
                "add_param_group; to drop one, make a new optimizer."
            )
        for key, value in group.items():
            if isinstance(value, Kept) and (value.shape.numel() != 1 or value.dtype.is_complex):
                kind = f"a tensor of shape {tuple(value.shape)} in {value.dtype}"
                raise TypeError(f"{where}: {key} must be a number or a real tensor of one element, got {kind}.")
        # Reading a tensor would wait for the device. Its value was checked when the group was made.
        optimizer.check_group({k: value for k, value in group.items() if not isinstance(value, Kept)}, where)


def _check_keys(group: Mapping[str, Any], wanted: Iterable[str], where: str) -> None:
    if missing := [key for key in wanted if key not in group]:
        raise RuntimeError(f"{where} has no {missing}. Add groups by add_param_group, and keep their options.")


def check_members(optimizer: "MatrixOptimizer", active: Members) -> None:
    """Raise RuntimeError for a parameter that was replaced or resized, or has a gradient that its rule cannot take."""
    for index, name, param in active:
        where, rule = f"{type(optimizer).__name__}: group {index}", optimizer.param_groups[index]["rule"]
        check_gradient(name, param, rule, where)
        if rule != "adamw":
            check_tensor(name, param, optimizer.layouts, where)


def check_tensor(name: str, param: Tensor, layouts: Mapping[Tensor, Layout], where: str) -> None:
    """Raise RuntimeError for a matrix that was replaced in its group, or resized."""
    layout = layouts.get(param)
    if layout is None:
        raise RuntimeError(
            f"{where}: parameter {name!r} is another tensor than the one the optimizer was made with. Change weights "
            "in place (under torch.no_grad), or make a new optimizer and load the state dict of this one."
        )
    if layout.shape != tuple(param.shape):
        raise RuntimeError(
            f"{where}: parameter {name!r} has shape {tuple(param.shape)}, but had {layout.shape} when the optimizer "
            "was made. Make a new optimizer after you resize a parameter."
        )


def check_gradient(name: str, param: Tensor, rule: str, where: str) -> None:
    """Raise RuntimeError for a gradient that the rule cannot take."""
    gradient = param.grad
    if gradient is None:
        return
    if gradient.layout is not torch.strided:
        kind, remedy = "sparse", "Make it dense (sparse=False in an embedding)"
        remedy += "." if rule == "adamw" else ', and give an embedding the rule "adamw" in a group of its own.'
    elif gradient.is_complex() and rule != "adamw":
        kind, remedy = "complex", 'Give the parameter the rule "adamw" in a group of its own.'
    elif gradient.is_meta:
        kind, remedy = "meta", "It has no values: run the backward pass on a real device."
    elif is_dtensor(param) != is_dtensor(gradient):
        kind, remedy = ("plain", "DTensor") if is_dtensor(param) else ("DTensor", "plain tensor")
        remedy = f"The parameter is a {remedy}, and so must be its gradient."
    elif is_dtensor(param) and is_dtensor(gradient) and param.device_mesh != gradient.device_mesh:
        kind, remedy = f"DTensor on {gradient.device_mesh} as its", f"The parameter is on {param.device_mesh}."
    else:
        return
    raise RuntimeError(f"{where}: parameter {name!r} has a {kind} gradient, which its rule cannot take. {remedy}")


def check_finite(optimizer: "MatrixOptimizer", matrices: Members, anywhere: Anywhere) -> None:
    """Raise ValueError for gradients, or momenta of earlier steps, that hold NaN or infinity where a rule refuses them.

    The check waits for the device, as the methods that refuse NaN do anyway. Without it the error could come after
    other weights have moved. Every process looks at its own shards, and all raise the error if one finds something.
    """
    bad: list[str] = []
    members = [
        (name, param)
        for index, name, param in matrices
        if any(rule.refuses_nan for rule in optimizer.lender(optimizer.param_groups[index]["rule"]).chain)
    ]
    for what in ("gradient", "momentum"):
        tensors = [p.grad if what == "gradient" else optimizer.state.get(p, {}).get(MOMENTUM) for _, p in members]
        finite = [torch.ones((), dtype=torch.bool) if x is None else local(x).isfinite().all() for x in tensors]
        flags = torch.stack([ok.cpu() for ok in finite]).tolist() if finite else []
        found = anywhere({param for (_, param), ok in zip(members, flags, strict=True) if not ok})
        bad += [f"the {what} of {name!r}" for name, param in members if param in found]
    if bad:
        shown = ", ".join(bad[:8]) + (" and others" if len(bad) > 8 else "")
        raise ValueError(
            f"{type(optimizer).__name__}: NaN or infinity in {shown}, which the method refuses. Nothing has changed. "
            "Skip the step (GradScaler does), clip, or use another method (PolarExpress)."
        )


class Made:
    """The parameters with which the groups of an optimizer were made.

    Accelerate shards a model after its optimizer was made, and puts the DTensors into the optimizer's groups:
    `Accelerator.prepare(model, optimizer)` with FSDP2, and so the Trainer of transformers. Layouts belong to tensors.
    So the layout of a plain parameter goes to the DTensor in its place, if the parameter has not moved yet.
    """

    def __init__(self) -> None:
        self._groups: dict[int, tuple[list[Tensor], tuple[Tensor, ...]]] = {}

    def adopt(self, optimizer: "MatrixOptimizer", watch: "Watch") -> None:
        """Give layouts to DTensors that took the places of plain parameters since the last call.

        Other tensors in a group are left as they are. The step refuses them by name.
        """
        for index, group in enumerate(optimizer.param_groups):
            params = group["params"]
            held, before = self._groups.get(index, (None, ()))
            if held is params:
                continue
            for old, new in zip(before, params, strict=False):
                if old is not new and is_dtensor(new) and not is_dtensor(old) and not optimizer.state.get(old):
                    layout = optimizer.layouts.get(old)
                    if layout is not None and layout.shape == tuple(new.shape):
                        optimizer.layouts[new] = optimizer.layouts.pop(old)
                    watch.take_over(old, new)
            self._groups[index] = (params, tuple(params))


class Watch:
    """Looks at the model behind a plan for parameters that the optimizer would silently leave as they are.

    Args:
        params: What the optimizer was made from. Only a Plan names its model; it is held by a weak reference.
    """

    def __init__(self, params: Any = ()) -> None:
        entries = getattr(params, "entries", ())
        self.frozen = [(e.name, e.parameter) for e in entries if e.rule == "frozen"]
        self._moving = {e.name: e.parameter for e in entries if e.rule != "frozen"}
        self._model: Any = getattr(params, "model", None) or (lambda: None)
        self._trained = False  # whether a step had a gradient, or the warning was given

    def add(self, params: Iterable[Tensor]) -> None:
        """Forget that these parameters were frozen: they were added to the optimizer."""
        added = {id(param) for param in params}
        self.frozen = [(name, param) for name, param in self.frozen if id(param) not in added]

    def take_over(self, old: Tensor, new: Tensor) -> None:
        """Expect another tensor in place of a parameter."""
        self._moving.update({name: new for name, param in self._moving.items() if param is old})

    def check_present(self, where: str, *, active: bool) -> None:
        """Check that the model still has the parameters. `active` tells whether any parameter has a gradient.

        Raises:
            RuntimeError: If the model has other tensors under the names of parameters.
        """
        model = self._model()
        present = {id(param) for param in model.parameters()} if model is not None else set()
        if model is not None and any(id(param) not in present for param in self._moving.values()):
            replaced = self._replaced(model)
            if replaced:
                shown = ", ".join(replaced[:8]) + (" and others" if len(replaced) > 8 else "")
                raise RuntimeError(
                    f"{where}: the model has other tensors now for the parameters {shown}, so the optimizer would "
                    "never move them. fully_shard, parallelize_module and assignments replace parameters. Make the "
                    "plan and the optimizer after that, and load the state dict of this one if it has stepped."
                )
        if not active and not self._trained:
            warnings.warn(
                f"{where}: no parameter has a gradient at the first step, so nothing moves. fully_shard and "
                "parallelize_module replace the parameters of a model: make the optimizer after them.",
                stacklevel=6,
            )
        self._trained = True

    def _replaced(self, model: nn.Module) -> list[str]:
        """Names of parameters for which the model has other tensors.

        Between a forward pass and its backward pass, FSDP2 may have plain tensors in place of its DTensors.
        """
        found = {name: candidate.param for name, candidate in candidates(model).items()}
        return [
            name
            for name, param in self._moving.items()
            if name in found and found[name] is not param and not (is_dtensor(param) and not is_dtensor(found[name]))
        ]

    def warn_of_frozen(self, where: str) -> None:
        """Warn once of parameters that the plan froze and that have a gradient now."""
        trained = [name for name, param in self.frozen if param.grad is not None]
        if trained:
            warnings.warn(
                f"{where}: the plan froze {', '.join(trained)}, which have gradients now but will not move. Make a new "
                "plan and a new optimizer after you unfreeze parameters.",
                stacklevel=6,
            )
            self.frozen = [(name, param) for name, param in self.frozen if param.grad is None]
