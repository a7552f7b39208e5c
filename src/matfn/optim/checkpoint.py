"""The state dict, in torch's own format: tensors and plain values only; loading checks all, then changes.

    {"state": {0: {"momentum_buffer": tensor, ...}, ...},
     "param_groups": [{"params": [0, 1, ...], "param_names": [...], "rule": "matrix", "chain": "Ema, Polar",
                       "filled": 2, "lr": 0.02, ...}, ...]}

Parameters are numbered over all groups, and those without state have no entry in "state", as in torch's optimizers.
torch.distributed.checkpoint, Trainer, Lightning and Accelerate rely on it. Loading matches parameters by name if both
sides have names, else by position. Prefixes of torch.compile, DDP and FSDP are ignored, so the state of a wrapped model
loads into the plain one and back. Files of earlier versions, whose "params" and "state" hold names, load too. Momentum
keeps its dtype. (torch's own loader would cast a float32 momentum of bfloat16 weights to bfloat16.)

State of a DTensor parameter is a DTensor, so torch.distributed.checkpoint can save and load it on any mesh.
`load` takes DTensors of any mesh and placements and whole tensors, for sharded and for plain parameters.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .matrices.shards import is_dtensor, like_shard, local, own_part
from .rest import StateLike
from .rules.looks import LOOKS
from .state import COUNTER

__all__ = ["CHAIN", "bare", "check_form", "dump", "load", "renamed"]

CHAIN = "chain"  # key in a saved group of matrices: the names of its rules, such as "Ema, Polar"
# Key in a saved group: how many parameters have state. torch.distributed.checkpoint loads only into state that exists,
# so it would leave a fresh state dict without state and say nothing.
FILLED = "filled"

Groups = list[dict[str, Any]]
Expected = Callable[[Tensor, Mapping[str, Any]], StateLike]
Check = Callable[[Mapping[str, Any], str], None]
Wanted = Callable[[str], tuple[str, Sequence[str]]]
_SHOWN = 12
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_NUMBERED = re.compile(r"group\d+\.\d+")  # the name that an optimizer gives to a tensor without a name


def dump(groups: Groups, state: Mapping[Tensor, Mapping[str, Any]], chain: Callable[[str], str]) -> dict[str, Any]:
    """The state dict of an optimizer. Tensors are shared with the optimizer, as torch's state dicts are.

    Args:
        groups: The optimizer's groups.
        state: The optimizer's state.
        chain: "rule" of a group of matrices -> the names of its rules. They are saved because other optimizers keep
            other quantities under the same keys.
    """
    numbers = {param: number for number, param in enumerate(param for group in groups for param in group["params"])}
    saved = []
    for group in groups:
        found = {**group, "params": [numbers[p] for p in group["params"]], "param_names": list(group["param_names"])}
        found[FILLED] = sum(bool(state.get(param)) for param in group["params"])
        saved.append(found if group["rule"] == "adamw" else {**found, CHAIN: chain(group["rule"])})
    return {"state": {n: dict(state[param]) for param, n in numbers.items() if state.get(param)}, "param_groups": saved}


def load(
    saved: Mapping[str, Any], groups: Groups, expected: Expected, check: Check, wanted: Wanted
) -> tuple[Groups, dict[Tensor, dict[str, Any]]]:
    """The groups and the state of an optimizer after loading. Everything is checked, and no argument changes.

    Args:
        saved: The result of `dump`. Its tensors are copied.
        groups: The optimizer's groups. Options are replaced by the saved ones, parameters and names stay.
        expected: (parameter, group) -> shape and dtype of each state tensor.
        check: (group, its name) -> None; raises for options that this optimizer cannot take.
        wanted: "rule" of a group -> the names of its rules, as in `dump`, and the options that they read.

    Raises:
        ValueError: If parameters, state or options do not fit. The message names them and says why.
        TypeError: If a part of the state dict or an option has a wrong type.
    """
    check_form(saved)
    saved_groups, saved_state = _by_name(saved, groups)
    problems = _group_problems(saved_groups, groups) or _chain_problems(saved_groups, groups, wanted)
    if problems:
        raise ValueError(_listed(problems))
    loaded = [{**group, **_options(source, group)} for source, group in zip(saved_groups, groups, strict=True)]
    for index, group in enumerate(loaded):
        check(group, f"group {index} of the state dict")
    problems = _lost(saved_groups, saved_state) or _state_problems(saved_groups, saved_state, loaded, expected)
    if problems:
        raise ValueError(_listed(problems))
    restored: dict[Tensor, dict[str, Any]] = {}
    for group in loaded:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if entry := saved_state.get(name):
                like = expected(param, group)
                restored[param] = {k: _restore(entry[k], param, group, like[k][1]) for k in like if k in entry}
    return loaded, restored


def _listed(problems: Sequence[str]) -> str:
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "the state dict does not fit this optimizer:\n  " + "\n  ".join([*problems[:_SHOWN], *more])


def check_form(saved: Any) -> None:
    """Check that `saved` has the form of an optimizer's state dict.

    Raises:
        ValueError: If a key is missing, or a parameter appears twice.
        TypeError: If a part has a wrong type.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"load_state_dict takes the result of state_dict(), got a {type(saved).__name__}.")
    if not {"state", "param_groups"} <= set(saved):
        shown = ", ".join(repr(str(key)) for key in list(saved)[:4]) + (", ..." if len(saved) > 4 else "")
        raise ValueError(
            'the state dict of an optimizer has the keys "state" and "param_groups"; this one has '
            f"{len(saved)} keys: {shown}. Was the state dict of a model passed?"
        )
    state, groups = saved["state"], saved["param_groups"]
    if not isinstance(state, Mapping) or not all(isinstance(entry, Mapping) for entry in state.values()):
        raise TypeError('"state" of a state dict must map each parameter to a dict of its tensors.')
    if not isinstance(groups, Sequence) or not all(isinstance(group, Mapping) for group in groups):
        raise TypeError('"param_groups" of a state dict must be a list of dicts.')
    seen: set[Any] = set()
    for index, group in enumerate(groups):
        where = f"group {index} of the state dict"
        keys = group.get("params")
        if not isinstance(keys, Sequence) or not all(isinstance(key, int | str) for key in keys):
            raise TypeError(f'{where}: "params" must be a list of numbers (or names), got {keys!r}.')
        names = group.get("param_names", keys)
        if not isinstance(names, Sequence) or not all(isinstance(name, int | str) for name in names):
            raise TypeError(f'{where}: "param_names" must be a list of names, got {names!r}.')
        for key in keys:
            if key in seen:
                raise ValueError(f"{where}: the parameter {key!r} is in the state dict twice.")
            seen.add(key)


def _options(source: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The saved options. torch.distributed.checkpoint turns tuples into lists, which become tuples again."""
    kept = {key: value for key, value in source.items() if key not in ("params", "param_names", CHAIN, FILLED)}
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
    ours = [name for group in groups for name in group["param_names"]]
    keys = [key for group in saved["param_groups"] for key in group["params"]]
    theirs = [name for group in saved["param_groups"] for name in group.get("param_names", group["params"])]
    if len(theirs) != len(keys):
        raise ValueError(
            f'the state dict has {len(keys)} parameters in the "params" of its groups, but {len(theirs)} "param_names".'
        )
    if twice := [name for name, count in Counter(theirs).items() if count > 1]:
        raise ValueError(f"the state dict has the parameter name {twice[0]!r} twice.")
    if _unnamed(ours) or _unnamed(theirs):
        names = _by_position(saved["param_groups"], groups)
    else:
        names = renamed(theirs, [key for key in saved["state"] if isinstance(key, str)], ours)
    told = dict(zip(keys, (names[name] for name in theirs), strict=True))
    told |= {key: names.get(key, str(key)) for key in saved["state"] if key not in told}
    mapped = [{**group, "params": [told[key] for key in group["params"]]} for group in saved["param_groups"]]
    return mapped, {told[key]: entry for key, entry in saved["state"].items()}


def _unnamed(names: Sequence[Any]) -> bool:
    """Whether some are positions, or all are names made from positions."""
    return any(not isinstance(name, str) for name in names) or all(_NUMBERED.fullmatch(name) for name in names)


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


def renamed(theirs: Sequence[str], more: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
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


def _chain_problems(saved_groups: Groups, groups: Groups, wanted: Wanted) -> list[str]:
    """Groups saved by an optimizer with other rules, or without an option that the rules read."""
    problems: list[str] = []
    for index, (source, group) in enumerate(zip(saved_groups, groups, strict=True)):
        chain, needed = wanted(group["rule"])
        saved = source.get(CHAIN, chain)
        missing = [key for key in needed if key not in source]
        if group["rule"] != "adamw" and saved != chain:
            problems.append(
                f"group {index} was saved by an optimizer whose rules are {saved}; the rules here are {chain}"
            )
        elif missing:
            problems.append(
                f"group {index} lacks {missing}; was it saved by another optimizer? The rules here: {chain}"
            )
    return problems


def _lost(saved_groups: Groups, saved_state: Mapping[str, Any]) -> list[str]:
    """Groups that were saved with state and come without any."""
    return [
        f"group {index} was saved with the state of {group[FILLED]} parameters, and here it has none. "
        "torch.distributed.checkpoint.load fills only tensors that a state dict already has: give it the state dict of "
        "get_optimizer_state_dict(model, optimizer), which makes them. To load the options alone, delete the key "
        f"{FILLED!r} of each group"
        for index, group in enumerate(saved_groups)
        if group.get(FILLED) and not any(saved_state.get(name) for name in group["params"])
    ]


def _state_problems(saved_groups: Groups, saved_state: dict[str, Any], loaded: Groups, expected: Expected) -> list[str]:
    """State with keys missing or too many, of another shape or kind, or of an unknown parameter."""
    problems: list[str] = []
    for group, source in zip(loaded, saved_groups, strict=True):
        for name, param in zip(group["param_names"], group["params"], strict=True):
            if entry := saved_state.get(name):
                like = expected(param, group)
                # A file saved before the option "rounding" existed lacks its state, which then starts at zero.
                new = () if "rounding" in source else set(like) - set(expected(param, {**group, "rounding": "nearest"}))
                # Another method may have run before. Looks that are missing are made anew, and others have no use.
                looked = {LOOKS, COUNTER} if (LOOKS in like) != (LOOKS in entry) else set()
                missing = [key for key in like if key not in entry and key not in new and key not in looked]
                problems += [f"{name}: state {key!r} is missing" for key in missing]
                more = [key for key in entry if key not in like and key not in looked]
                problems += [f"{name}: state {key!r} is unexpected" for key in more]
                both = [(key, kind) for key, kind in like.items() if key in entry]
                problems += [
                    f"{name}: {p}" for key, kind in both if (p := _value_problem(entry[key], key, kind, param))
                ]
    known = {name for group in loaded for name in group["param_names"]}
    return problems + [f"{name}: state of a parameter in no group" for name in saved_state if name not in known]


def _value_problem(value: Any, key: str, kind: tuple[tuple[int, ...], torch.dtype | None], param: Tensor) -> str | None:
    """Why a saved value cannot be the state `key` of a parameter; None if it can."""
    shape, dtype = kind
    what = f"state {key!r}"
    if isinstance(value, bool) or not isinstance(value, Tensor | int | float):
        return f"{what} is a {type(value).__name__}, wanted a tensor"
    x = torch.as_tensor(value)
    if tuple(x.shape) != shape:
        return f"{what} has shape {tuple(x.shape)}, wanted {shape}"
    if is_dtensor(x) and any(placement.is_partial() for placement in x.placements):
        return f"{what} is a DTensor of partial sums, wanted Shard or Replicate placements"
    x = local(x)  # every process looks at its own part
    if x.layout is not torch.strided or x.is_quantized:
        return f"{what} is {'quantized' if x.is_quantized else 'sparse'}, wanted a dense tensor"
    if x.is_meta:
        return f"{what} is on the meta device and has no values"
    if dtype is None:
        return None if x.dtype is not torch.bool and _is_count(x) else f"{what} is {value!r}, wanted a count of steps"
    wanted = "complex" if param.is_complex() else "floating-point"
    if not (x.is_complex() if param.is_complex() else x.is_floating_point()):
        return f"{what} is {x.dtype}, wanted {wanted} numbers"
    square = key.endswith("_sq") or key == "row_moment"  # squares may overflow to infinity in a run that goes on
    if bool(x.isnan().any()) or (not square and not bool(x.isfinite().all())):
        return f"{what} holds {'NaN' if bool(x.isnan().any()) else 'infinity'}: the run that saved it had diverged"
    if square and not x.is_complex() and bool((x < 0).any()):
        return f"{what} holds negative numbers, but it is an average of squares"
    return None


def _is_count(x: Tensor) -> bool:
    """Whether x is a whole number >= 0."""
    return not x.is_complex() and 0 <= float(x) < math.inf and float(x).is_integer()


def _restore(value: Any, param: Tensor, group: Mapping[str, Any], dtype: torch.dtype | None) -> Tensor:
    """A copy on the parameter's device, placed as the parameter is if it has an entry for each of its entries.

    Other state is whole. Step counters (dtype None) stay on the host, unless AdamW is fused or capturable.
    """
    value = value if isinstance(value, Tensor) else torch.tensor(float(value))
    hosted = value.ndim == 0 and param.ndim > 0 and not (group.get("fused") or group.get("capturable"))
    if value.shape == param.shape and not hosted and not (dtype is None and is_dtensor(param)):
        own = own_part(value, param)  # with the strides of the parameter, for fast elementwise kernels
        return like_shard(torch.empty_like(local(param), dtype=dtype or own.dtype).copy_(own), param)
    whole = value.full_tensor() if is_dtensor(value) else value
    return whole.detach().to(device="cpu" if hosted else param.device, dtype=dtype or whole.dtype, copy=True)
