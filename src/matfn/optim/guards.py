"""What is checked before a step changes anything: groups, their tensors and gradients. Errors name the parameter."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .matrices.layout import Layout
from .rules.ema import MOMENTUM

__all__ = ["check_finite", "check_gradient", "check_group_shape", "check_tensor", "warn_of_frozen"]


def check_group_shape(group: Mapping[str, Any], wanted: Iterable[str], where: str) -> None:
    """Raise RuntimeError for a group that was changed by hand so that it is none any more."""
    missing = [key for key in ("params", "param_names", "rule", *wanted) if key not in group]
    if missing:
        raise RuntimeError(f"{where} has no {missing}. Add groups by add_param_group, and keep their options.")
    names, params = group["param_names"], group["params"]
    if len(names) != len(params):
        raise RuntimeError(
            f"{where} has {len(params)} parameters, but {len(names)} names: its list was changed. Add parameters by "
            "add_param_group; to drop one, make a new optimizer."
        )


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
            f"{where}: parameter {name!r} has shape {tuple(param.shape)}, but had {layout.shape} when the optimizer was "
            "made. Make a new optimizer after you resize a parameter."
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


def check_finite(members: Sequence[tuple[str, Tensor]], state: Mapping[Tensor, Mapping[str, Any]], where: str) -> None:
    """Raise ValueError for gradients, or momenta of earlier steps, that hold NaN or infinity.

    It is asked for methods that refuse such matrices with an error, so that no weight has moved before it. They wait
    for the device anyway.
    """
    kept = [(name, state.get(param, {}).get(MOMENTUM)) for name, param in members]
    tensors = [(name, "gradient", param.grad) for name, param in members]
    tensors += [(name, "momentum", buffer) for name, buffer in kept]
    found = [(name, what, x.isfinite().all()) for name, what, x in tensors if x is not None]
    if not found or bool(torch.stack([ok.cpu() for *_, ok in found]).all()):
        return
    bad = [f"the {what} of {name!r}" for name, what, ok in found if not ok]
    raise ValueError(
        f"{where}: NaN or infinity in {', '.join(bad[:8])}{' and others' if len(bad) > 8 else ''}, which the method "
        "refuses. Nothing has changed. Skip the step (GradScaler does), clip, or take a method of products alone."
    )


def warn_of_frozen(frozen: list[tuple[str, Tensor]], where: str) -> list[tuple[str, Tensor]]:
    """Warn of parameters that a plan froze and that have a gradient now. Returns those that have none yet."""
    trained = [name for name, param in frozen if param.grad is not None]
    if trained:
        warnings.warn(
            f"{where}: the plan froze {', '.join(trained)}, which have gradients now but will not move. Make a new plan "
            "and a new optimizer after you unfreeze parameters.",
            stacklevel=6,
        )
    return [(name, param) for name, param in frozen if param.grad is None] if trained else frozen
