"""The state dict: tensors and plain values only, keyed by parameter name; loading checks all, then changes.

    {"state": {name: {"momentum_buffer": tensor, ...}, ...},
     "param_groups": [{"params": [name, ...], "rule": "matrix", "lr": 0.02, ...}, ...]}

Every parameter has an entry in "state", empty if it never had a gradient: so a lost entry can be told from an unused
parameter. Names are those the optimizer was given; on loading, what torch.compile, DDP and FSDP add to them is set
aside, so the state of a wrapped model loads into the plain one and back. Momentum is restored in its own dtype.
(torch's own loader casts every state tensor to the parameter's dtype, which would truncate a float32 momentum of
bfloat16 weights.)
"""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .rest import StateLike

__all__ = ["bare", "dump", "load"]

Groups = list[dict[str, Any]]
Expected = Callable[[Tensor, Mapping[str, Any]], StateLike]
Check = Callable[[Mapping[str, Any], str], None]
_SHOWN = 12
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def dump(groups: Groups, state: Mapping[Tensor, Mapping[str, Any]]) -> dict[str, Any]:
    """The state dict of an optimizer. Tensors are shared with the optimizer, as torch's state dicts are."""
    saved_state = {
        name: dict(state.get(param, {}))
        for group in groups
        for name, param in zip(group["param_names"], group["params"], strict=True)
    }
    options = [{key: value for key, value in group.items() if key not in ("params", "param_names")} for group in groups]
    named = [{"params": list(group["param_names"]), **rest} for group, rest in zip(groups, options, strict=True)]
    return {"state": saved_state, "param_groups": named}


def load(
    saved: Mapping[str, Any], groups: Groups, state: MutableMapping[Tensor, Any], expected: Expected, check: Check
) -> None:
    """Put a state dict into an optimizer's groups and state.

    Args:
        saved: what `dump` returned. It is not changed and shares no tensor with the optimizer afterwards.
        groups: the optimizer's groups; options are replaced by the saved ones, parameters stay.
        state: the optimizer's state, replaced.
        expected: the shape and dtype of each state tensor of a parameter under its group.
        check: raises ValueError for a group whose options this optimizer cannot take; gets the group and its name.

    Raises:
        ValueError: listing every parameter that does not fit and why. Nothing has been changed then.
    """
    saved_groups, saved_state = _by_name(saved, [name for group in groups for name in group["param_names"]])
    problems = _group_problems(saved_groups, groups)
    if not problems:
        problems = _state_problems(saved_groups, saved_state, groups, expected)
    if problems:
        shown = problems[:_SHOWN] + ([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
        raise ValueError("the state dict does not fit this optimizer:\n  " + "\n  ".join(shown))
    for index, (group, source) in enumerate(zip(groups, saved_groups, strict=True)):
        check({**group, **source}, f"group {index} of the state dict")
    state.clear()
    for group, source in zip(groups, saved_groups, strict=True):
        group.update({key: value for key, value in source.items() if key != "params"})
        for name, param in zip(group["param_names"], group["params"], strict=True):
            like = expected(param, group)
            if saved_state[name]:
                state[param] = {key: _restore(saved_state[name][key], param, group, like[key][1]) for key in like}


def bare(names: Iterable[str]) -> dict[str, str]:
    """Each name without what wrappers add: torch.compile and FSDP anywhere, DDP's "module." where all names have it.

    A name alone cannot tell DDP's "module." from a layer that is called so; that every name begins with it can.
    """
    found = {name: _WRAPPERS.sub("", name) for name in names}
    while found and all(short.startswith("module.") for short in found.values()):
        found = {name: short.removeprefix("module.") for name, short in found.items()}
    return found


def _by_name(saved: Mapping[str, Any], ours: Sequence[str]) -> tuple[Groups, dict[str, Any]]:
    """Groups and state under the names `ours` where they agree but for wrappers, else under their own."""
    if not {"state", "param_groups"} <= set(saved):
        keys = [str(key) for key in saved]
        shown = ", ".join(repr(key) for key in keys[:4]) + (", ..." if len(keys) > 4 else "")
        raise ValueError(
            'the state dict of an optimizer has the keys "state" and "param_groups"; this one has '
            f"{len(keys)} keys: {shown}. Was the state dict of a model passed?"
        )
    names = [name for group in saved["param_groups"] for name in group["params"]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(
            "this state dict numbers its parameters, as torch's own optimizers do, and was saved by one of them; "
            "matfn's optimizers key their state by parameter name, because numbers change with the grouping."
        )
    own = {short: name for name, short in bare(ours).items()}
    theirs = {name: own.get(short, short) for name, short in bare([*names, *saved["state"]]).items()}
    agreeing = len(set(theirs.values()) & set(ours))
    if len(set(theirs.values())) < len(theirs) or agreeing <= len(set(theirs) & set(ours)):
        theirs = {name: name for name in theirs}
    groups = [{**group, "params": [theirs[name] for name in group["params"]]} for group in saved["param_groups"]]
    return groups, {theirs[name]: entry for name, entry in saved["state"].items()}


def _group_problems(saved_groups: Groups, groups: Groups) -> list[str]:
    """Parameters that one side lacks or that sit in another group, and groups of another rule."""
    theirs = {name: index for index, group in enumerate(saved_groups) for name in group["params"]}
    ours = {name: index for index, group in enumerate(groups) for name in group["param_names"]}
    problems = [f"{name}: missing from the state dict" for name in ours if name not in theirs]
    problems += [f"{name}: unexpected, this optimizer has no such parameter" for name in theirs if name not in ours]
    problems += [
        f"{name}: in group {theirs[name]} of the state dict, in group {index} here"
        for name, index in ours.items()
        if theirs.get(name, index) != index
    ]
    if not problems and len(saved_groups) != len(groups):
        problems.append(f"it has {len(saved_groups)} parameter groups, this optimizer {len(groups)}")
    for index, (source, group) in enumerate(zip(saved_groups, groups, strict=False)):
        if not problems and source.get("rule") != group["rule"]:
            member = next(iter(group["param_names"]), "no parameter")
            problems.append(f"{member}: group {index} has rule {source.get('rule')!r} there, {group['rule']!r} here")
    return problems


def _state_problems(saved_groups: Groups, saved_state: dict[str, Any], groups: Groups, expected: Expected) -> list[str]:
    """State entries that are missing, of another shape, or of nobody."""
    problems: list[str] = []
    for group, source in zip(groups, saved_groups, strict=True):
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if name not in saved_state:
                problems.append(f"{name}: its state is missing")
            elif saved_state[name]:
                like = expected(param, {**group, **source, "params": group["params"]})
                problems += [f"{name}: {problem}" for problem in _entry_problems(saved_state[name], like)]
    known = {name for group in groups for name in group["param_names"]}
    return problems + [f"{name}: state of a parameter in no group" for name in saved_state if name not in known]


def _entry_problems(entry: Mapping[str, Any], like: StateLike) -> list[str]:
    """What is wrong with the state of one parameter."""
    problems = [f"state {key!r} is missing" for key in like if key not in entry]
    problems += [f"state {key!r} is unexpected" for key in entry if key not in like]
    for key, (shape, _) in like.items():
        if key in entry and tuple(entry[key].shape) != shape:
            problems.append(f"state {key!r} has shape {tuple(entry[key].shape)}, wanted {shape}")
    return problems


def _restore(value: Tensor, param: Tensor, group: Mapping[str, Any], dtype: torch.dtype | None) -> Tensor:
    """A copy on the parameter's device; AdamW's step counter stays on the host unless AdamW wants it on the device."""
    hosted = value.ndim == 0 and param.ndim > 0 and not (group.get("fused") or group.get("capturable"))
    # The strides follow the parameter's, so that element-wise kernels stay on their fast path after a resume.
    copied = torch.empty_like(param, dtype=dtype or value.dtype) if value.shape == param.shape else None
    if copied is not None and not hosted:
        return copied.copy_(value)
    return value.detach().to(device="cpu" if hosted else param.device, dtype=dtype or value.dtype, copy=True)
