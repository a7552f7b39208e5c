"""The state dict, in torch's own format: tensors and plain values only; loading checks all, then changes.

    {"state": {0: {"momentum_buffer": tensor, ...}, ...},
     "param_groups": [{"params": [0, 1, ...], "param_names": [...], "rule": "matrix", "lr": 0.02, ...}, ...]}

Parameters are numbered over all groups, and those without state have no entry in "state", as in torch's optimizers.
torch.distributed.checkpoint, Trainer, Lightning and Accelerate rely on it. Loading matches parameters by name if both
sides have names, else by position. Prefixes of torch.compile, DDP and FSDP are ignored, so the state of a wrapped model
loads into the plain one and back. Files of earlier versions, whose "params" and "state" hold names, load too. Momentum
keeps its dtype. (torch's own loader would cast a float32 momentum of bfloat16 weights to bfloat16.)
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
_NUMBERED = re.compile(r"group\d+\.\d+")  # the name that an optimizer gives to a tensor without a name


def dump(groups: Groups, state: Mapping[Tensor, Mapping[str, Any]]) -> dict[str, Any]:
    """The state dict of an optimizer. Tensors are shared with the optimizer, as torch's state dicts are."""
    numbers = {param: number for number, param in enumerate(param for group in groups for param in group["params"])}
    saved = [
        {**group, "params": [numbers[param] for param in group["params"]], "param_names": list(group["param_names"])}
        for group in groups
    ]
    return {"state": {n: dict(state[param]) for param, n in numbers.items() if state.get(param)}, "param_groups": saved}


def load(
    saved: Mapping[str, Any], groups: Groups, state: MutableMapping[Tensor, Any], expected: Expected, check: Check
) -> None:
    """Put a state dict into an optimizer's groups and state.

    Args:
        saved: The result of `dump`. It does not change, and its tensors are copied.
        groups: The optimizer's groups. Options are replaced by the saved ones, parameters and names stay.
        state: The optimizer's state, to be replaced.
        expected: (parameter, group) -> shape and dtype of each state tensor.
        check: (group, its name) -> None; raises ValueError for options that this optimizer cannot take.

    Raises:
        ValueError: If parameters do not fit. The message names them and says why, and nothing has changed.
    """
    saved_groups, saved_state = _by_name(saved, groups)
    problems = _group_problems(saved_groups, groups)
    if not problems:
        problems = _state_problems(saved_groups, saved_state, groups, expected)
    if problems:
        shown = problems[:_SHOWN] + ([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
        raise ValueError("the state dict does not fit this optimizer:\n  " + "\n  ".join(shown))
    loaded = [{**group, **_options(source, group)} for source, group in zip(saved_groups, groups, strict=True)]
    restored: dict[Tensor, dict[str, Any]] = {}
    for index, group in enumerate(loaded):
        check(group, f"group {index} of the state dict")
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if entry := saved_state.get(name):
                like = expected(param, group)
                restored[param] = {key: _restore(entry[key], param, group, like[key][1]) for key in like}
    state.clear()
    state.update(restored)
    for group, new in zip(groups, loaded, strict=True):
        group.update(new)


def _options(source: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The saved options. torch.distributed.checkpoint turns tuples into lists, which become tuples again."""
    kept = {key: value for key, value in source.items() if key not in ("params", "param_names")}
    return {k: tuple(v) if isinstance(v, list) and isinstance(group.get(k), tuple) else v for k, v in kept.items()}


def bare(names: Iterable[str]) -> dict[str, str]:
    """{name: name without the prefixes of wrappers}: of torch.compile and FSDP anywhere, and DDP's "module.".

    "module." may also be a layer of the model. It counts as DDP's if all names begin with it.
    """
    found = {name: _WRAPPERS.sub("", name) for name in names}
    while found and all(short.startswith("module.") for short in found.values()):
        found = {name: short.removeprefix("module.") for name, short in found.items()}
    return found


def _by_name(saved: Mapping[str, Any], groups: Groups) -> tuple[Groups, dict[str, Any]]:
    """Saved groups and state, with this optimizer's names for all parameters that match."""
    if not {"state", "param_groups"} <= set(saved):
        shown = ", ".join(repr(str(key)) for key in list(saved)[:4]) + (", ..." if len(saved) > 4 else "")
        raise ValueError(
            'the state dict of an optimizer has the keys "state" and "param_groups"; this one has '
            f"{len(saved)} keys: {shown}. Was the state dict of a model passed?"
        )
    ours = [name for group in groups for name in group["param_names"]]
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    theirs = [name for group in saved["param_groups"] for name in group.get("param_names", group["params"])]
    if len(theirs) != len(keys):
        raise ValueError(
            f'the state dict has {len(keys)} parameters in the "params" of its groups, but {len(theirs)} "param_names".'
        )
    if _unnamed(ours) or _unnamed(theirs):
        names = _by_position(saved["param_groups"], groups)
    else:
        names = _renamed(theirs, [key for key in saved["state"] if isinstance(key, str)], ours)
    told = dict(zip(keys, (names[name] for name in theirs), strict=True))
    told |= {key: names.get(key, str(key)) for key in saved["state"] if key not in told}
    renamed = [{**group, "params": [told[key] for key in group["params"]]} for group in saved["param_groups"]]
    return renamed, {told[key]: entry for key, entry in saved["state"].items()}


def _unnamed(names: Sequence[Any]) -> bool:
    """Whether all are positions, or names made from positions."""
    return all(not isinstance(name, str) or _NUMBERED.fullmatch(name) for name in names)


def _by_position(saved_groups: Groups, groups: Groups) -> dict[Any, str]:
    """{saved name: this optimizer's name}, by the position in the group."""
    sizes = [[len(group["params"]) for group in some] for some in (saved_groups, groups)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "without names on both sides a state dict is matched by position, and its groups have "
            f"{sizes[0]} parameters, those of this optimizer {sizes[1]}. Save and load with plan(model) or (name, "
            "tensor) pairs, which are matched by name."
        )
    pairs = zip(saved_groups, groups, strict=True)
    return {
        theirs: own
        for source, group in pairs
        for theirs, own in zip(source.get("param_names", source["params"]), group["param_names"], strict=True)
    }


def _renamed(theirs: Sequence[str], more: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """{saved name: this optimizer's name}. If they do not agree up to wrappers, the saved name itself."""
    own = {short: name for name, short in bare(ours).items()}
    found = {name: own.get(short, short) for name, short in bare([*theirs, *more]).items()}
    agreeing = len(set(found.values()) & set(ours))
    if len(set(found.values())) < len(found) or agreeing <= len(set(found) & set(ours)):
        return {name: name for name in found}
    return found


def _group_problems(saved_groups: Groups, groups: Groups) -> list[str]:
    """Parameters that one side lacks or that are in another group, and groups with another rule."""
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
    """State with keys missing or too many, of another shape, or of an unknown parameter."""
    problems: list[str] = []
    for group, source in zip(groups, saved_groups, strict=True):
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if entry := saved_state.get(name):
                like = expected(param, {**group, **source, "params": group["params"]})
                problems += [f"{name}: {problem}" for problem in _entry_problems(entry, like)]
    known = {name for group in groups for name in group["param_names"]}
    return problems + [f"{name}: state of a parameter in no group" for name in saved_state if name not in known]


def _entry_problems(entry: Mapping[str, Any], like: StateLike) -> list[str]:
    """The problems of the state of one parameter."""
    problems = [f"state {key!r} is missing" for key in like if key not in entry]
    problems += [f"state {key!r} is unexpected" for key in entry if key not in like]
    for key, (shape, _) in like.items():
        if key not in entry:
            continue
        if not isinstance(entry[key], Tensor | int | float):
            problems.append(f"state {key!r} is a {type(entry[key]).__name__}, wanted a tensor")
        elif tuple(torch.as_tensor(entry[key]).shape) != shape:
            problems.append(f"state {key!r} has shape {tuple(torch.as_tensor(entry[key]).shape)}, wanted {shape}")
    return problems


def _restore(value: Any, param: Tensor, group: Mapping[str, Any], dtype: torch.dtype | None) -> Tensor:
    """A copy on the parameter's device. Step counters stay on the host, unless AdamW is fused or capturable."""
    value = value if isinstance(value, Tensor) else torch.tensor(float(value))
    hosted = value.ndim == 0 and param.ndim > 0 and not (group.get("fused") or group.get("capturable"))
    if value.shape == param.shape and not hosted:  # with the strides of the parameter, for fast elementwise kernels
        return torch.empty_like(param, dtype=dtype or value.dtype).copy_(value)
    return value.detach().to(device="cpu" if hosted else param.device, dtype=dtype or value.dtype, copy=True)
