"""What is checked before a step changes anything: groups, their tensors and gradients. Errors name the parameter."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .matrices.layout import Layout
from .rules.ema import MOMENTUM

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Kept", "Members", "check_finite", "check_groups", "check_members", "warn_of_frozen"]


@dataclass(frozen=True)
class Kept:
    """What is known of a tensor without reading it."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


Members = Sequence[tuple[int, str, Tensor]]  # (index of the group, name, parameter)


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
    else:
        return
    raise RuntimeError(f"{where}: parameter {name!r} has a {kind} gradient, which its rule cannot take. {remedy}")


def check_finite(optimizer: "MatrixOptimizer", matrices: Members) -> None:
    """Raise ValueError for gradients, or momenta of earlier steps, that hold NaN or infinity where a rule refuses them.

    The check waits for the device, as the methods that refuse NaN do anyway. Without it the error could come after
    other weights have moved.
    """
    where, tensors = type(optimizer).__name__, list[tuple[str, str, Tensor | None]]()
    for index, name, param in matrices:
        if any(rule.refuses_nan for rule in optimizer.lender(optimizer.param_groups[index]["rule"]).chain):
            tensors.append((name, "gradient", param.grad))
            tensors.append((name, "momentum", optimizer.state.get(param, {}).get(MOMENTUM)))
    found = [(name, what, x.isfinite().all()) for name, what, x in tensors if x is not None]
    if not found or bool(torch.stack([ok.cpu() for *_, ok in found]).all()):
        return
    bad = [f"the {what} of {name!r}" for name, what, ok in found if not ok]
    raise ValueError(
        f"{where}: NaN or infinity in {', '.join(bad[:8])}{' and others' if len(bad) > 8 else ''}, which the method "
        "refuses. Nothing has changed. Skip the step (GradScaler does), clip, or use another method (PolarExpress)."
    )


def warn_of_frozen(frozen: list[tuple[str, Tensor]], where: str) -> list[tuple[str, Tensor]]:
    """Warn of parameters that a plan froze and that have a gradient now. Returns those that have none yet."""
    trained = [name for name, param in frozen if param.grad is not None]
    if trained:
        warnings.warn(
            f"{where}: the plan froze {', '.join(trained)}, which have gradients now but will not move. Make a new "
            "plan and a new optimizer after you unfreeze parameters.",
            stacklevel=6,
        )
    return [(name, param) for name, param in frozen if param.grad is None]
