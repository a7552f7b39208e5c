"""Parameter groups: what a user may pass as `params`, brought to one form.

The form is torch's: dicts with "params" and options, plus "rule" ("matrix", or "adamw" for torch's AdamW). Layouts are
returned beside the group, not in it: whatever is in a group ends in the state dict, where only plain values may be.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .matrices.layout import Layout, linear

__all__ = ["as_groups", "check_parameters", "check_used", "layouts_for", "lent", "named"]


def as_groups(params: Any, optimizer: str) -> list[dict[str, Any]]:
    """Bring `params` to a list of torch-style groups (shallow copies: the caller's dicts are not changed).

    Args:
        params: a Plan, an iterable of tensors, of (name, tensor) pairs, or of dicts.
        optimizer: the optimizer's name, for messages.

    Raises:
        TypeError: a module, a single tensor or a set was given, or entries of different kinds.
        ValueError: there is nothing to optimize.
    """
    if isinstance(params, torch.nn.Module):
        raise TypeError(f"{optimizer} was given a module. Pass plan(model), or groups of its parameters.")
    if isinstance(params, Tensor | Mapping | str):
        raise TypeError(
            f"{optimizer} expects plan(model) or an iterable of tensors, (name, tensor) pairs or dicts; "
            f"got a single {type(params).__name__}. Put it into a list."
        )
    if isinstance(params, set | frozenset):
        raise TypeError(f"{optimizer} got its parameters as a set, whose order changes between runs; pass a list.")
    if not hasattr(params, "__iter__"):
        raise TypeError(f"{optimizer} expects plan(model) or an iterable of parameters, got {params!r}.")
    groups = params.groups() if hasattr(params, "groups") else list(params)
    if not groups:
        raise ValueError(f"{optimizer} got an empty parameter list.")
    dicts = [isinstance(entry, Mapping) for entry in groups]
    if not any(dicts):
        return [{"params": groups}]
    if not all(dicts):
        raise TypeError(
            f"{optimizer} got dict groups and tensors in one list; put the tensors into a group of their own."
        )
    return [dict(group) for group in groups]


def named(params: Any, index: int) -> tuple[list[str], list[Tensor]]:
    """Names and tensors of a group's "params"; tensors without a name are called "group{index}.{position}".

    Raises:
        TypeError: something is not a tensor, the collection has no order, or only some tensors are named.
    """
    if isinstance(params, set | frozenset):
        raise TypeError("parameters came as a set, whose order changes between runs; pass a list.")
    entries = [params] if isinstance(params, Tensor) else list(params)
    pairs = [entry if isinstance(entry, tuple) else (None, entry) for entry in entries]
    for _, tensor in pairs:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"parameters must be tensors or (name, tensor) pairs; got a {type(tensor).__name__}.")
    unnamed = [name is None for name, _ in pairs]
    if any(unnamed) and not all(unnamed):
        raise TypeError(f"group {index} has {sum(unnamed)} tensors without a name among named ones; name all or none.")
    names = [f"group{index}.{j}" if name is None else str(name) for j, (name, _) in enumerate(pairs)]
    return names, [tensor for _, tensor in pairs]


def layouts_for(given: Any, names: Sequence[str], params: Sequence[Tensor]) -> list[Layout]:
    """The layout of each parameter of a matrix group.

    Args:
        given: None (each parameter is one 2-D matrix), a function of the shape such as `layout.stack`, or one Layout
            per parameter.
        names: of the parameters.
        params: the parameters.

    Raises:
        ValueError: a parameter is not 2-D and nothing says how it is a matrix, or the layouts do not fit.
        TypeError: the layout is none of these.
    """
    if given is None:
        for name, param in zip(names, params, strict=True):
            if param.ndim != 2:
                raise ValueError(
                    f"parameter {name!r} of shape {tuple(param.shape)} is not a matrix. Use plan(model), which decides "
                    f'for every parameter; or give its group "rule": "adamw", or a "layout" (matfn.optim.layout).'
                )
        given = linear
    if not callable(given) and (isinstance(given, str) or not isinstance(given, Sequence)):
        raise TypeError(f'"layout" must be a function of the shape or one Layout per parameter, got {given!r}.')
    function: Any = given
    layouts = [function(tuple(param.shape)) for param in params] if callable(given) else list(given)
    for layout in layouts:
        if not isinstance(layout, Layout):
            raise TypeError(f'"layout" must give a Layout for each parameter (matfn.optim.layout), got {layout!r}.')
    if len(layouts) != len(params):
        raise ValueError(f'"layout" has {len(layouts)} entries for {len(params)} parameters; one each is needed.')
    for name, param, layout in zip(names, params, layouts, strict=True):
        if layout.shape != tuple(param.shape):
            raise ValueError(f"parameter {name!r} has shape {tuple(param.shape)}, its layout is for {layout.shape}.")
    return layouts


def check_parameters(names: Sequence[str], params: Sequence[Tensor], taken: set[str], rule: str) -> None:
    """Refuse names or tensors used twice, and matrix parameters that are not real floating point.

    Raises:
        ValueError: a name or a tensor appears twice.
        TypeError: a matrix parameter is complex or integer.
    """
    seen: dict[int, str] = {}
    for name, param in zip(names, params, strict=True):
        if name in taken:
            raise ValueError(
                f"two parameters are called {name!r}; the state dict is keyed by name, so names must differ."
            )
        if id(param) in seen:
            raise ValueError(f"parameters {seen[id(param)]!r} and {name!r} are the same tensor; pass it once.")
        if rule != "adamw" and not param.is_floating_point():
            raise TypeError(f"parameter {name!r} is {param.dtype}; the matrix rule needs a real floating-point dtype.")
        taken = taken | {name}
        seen[id(param)] = name


def lent(rules: Any, kind: type[Optimizer]) -> dict[str, Any]:
    """The optimizers that lend their rules, by name; each is made without parameters.

    Args:
        rules: functions from parameters to an optimizer, by name, or None.
        kind: what they must make.

    Raises:
        TypeError: `rules` is no mapping, or a value is no such function.
        ValueError: a name is taken or not a word, or an option of an optimizer is out of range.
    """
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(f"rules must map names to functions such as partial(PolarGrad, lr=1.0), got {rules!r}.")
    made: dict[str, Any] = {}
    for name, make in (rules or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("matrix", "adamw", "frozen"):
            raise ValueError(f'the name of a rule must be a word other than "matrix", "adamw", "frozen"; got {name!r}.')
        lender = make([{"params": []}]) if callable(make) else make
        if not isinstance(lender, kind) or not callable(make):
            raise TypeError(
                f"rules[{name!r}] must be a function from parameters to an optimizer of matrices, such as "
                f"functools.partial(PolarGrad, lr=1.0); got {make!r}."
            )
        made[name] = lender
    return made


def check_used(groups: Sequence[Mapping[str, Any]], rules: Iterable[str], rest: bool) -> None:
    """Refuse further rules, and options for the rest, where no group has them.

    Args:
        groups: all groups.
        rules: names of the further rules.
        rest: whether there are options for the rest that must be used.

    Raises:
        ValueError: some are not used.
    """
    idle = [rule for rule in rules if all(group["rule"] != rule for group in groups)]
    if idle:
        raise ValueError(
            f'rules={idle} were given, but no group has them. Mark groups with "rule": {idle[0]!r}, or name it in '
            "plan(model, overrides={pattern: rule}), or drop it."
        )
    if rest and all(group["rule"] != "adamw" for group in groups):
        raise ValueError(
            "rest= was given, but no parameter would use it: every group has the matrix rule. Pass plan(model), or "
            'mark the groups of embeddings, head, norms and biases with "rule": "adamw", or drop rest=.'
        )
