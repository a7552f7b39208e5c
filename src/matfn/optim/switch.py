"""Conversion from other Muons and back: their state dicts in our format, and our optimizer as torch's.

torch.optim.Muon and Keller Jordan's Muons average gradients as `Muon` does, B <- mu B + (1 - mu) G, so their momentum
is taken as it is, in float32. Moonlight's and Dion's sum them and are refused.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..iteration.protocols import Scheduled
from ..iteration.schedule import PLAIN, Schedule
from ..iteration.step import Polynomial
from ..methods import Tuned
from .checkpoint import CHAIN, check_form, renamed
from .matrices.layout import linear
from .matrices.rounding import COMPENSATION
from .options import FOREIGN
from .rest import OPTIONS as REST_OPTIONS
from .rules.polar import Polar

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["adopted", "as_ours", "as_torch"]

_JORDAN = (3.4445, -4.7750, 2.0315)
_EPS = 1e-7
_SCALES = {None: "jordan", "original": "jordan", "match_rms_adamw": "moonlight"}  # {adjust_lr_fn of torch: our scale}
_PLAIN_MUON = {"lr", "weight_decay", "momentum"}  # the options of Jordan's Muon without AdamW
_NO_FLOOR = "its eps={} has no counterpart: here updates have full size for every momentum but zero."
_CHAIN = "Ema, Polar"  # other Muons follow the rules of our Muon


def _rule(group: Mapping[str, Any]) -> str | None:
    """The rule that a group of another optimizer has here; None if it is neither a Muon's nor AdamW's."""
    keys = set(group) - {"params", "param_names"} - FOREIGN
    if "use_muon" in keys:
        return "matrix" if group["use_muon"] else "adamw"
    if "ns_coefficients" in keys or keys == _PLAIN_MUON:
        return "matrix"
    return "adamw" if {"betas", "amsgrad"} <= keys else None


def _options(group: Mapping[str, Any], rule: str) -> dict[str, Any]:
    """The options of a group of another optimizer, in our words."""
    found: dict[str, Any] = {key: value for key, value in group.items() if key in FOREIGN}
    if rule == "adamw":
        found |= {key: group[key] for key in REST_OPTIONS if key in group}
    else:
        adjust = group.get("adjust_lr_fn")
        if adjust not in _SCALES:
            raise ValueError(f"adjust_lr_fn={adjust!r} has no counterpart; known are {list(_SCALES)}.")
        found |= {key: group[key] for key in _PLAIN_MUON if key in group}
        found |= {"nesterov": group.get("nesterov", True), "scale": _SCALES[adjust], CHAIN: _CHAIN}
    copied = {key: value.clone() if isinstance(value, Tensor) else value for key, value in found.items()}
    return {**copied, "rule": rule}


def as_ours(saved: Mapping[str, Any], optimizer: "MatrixOptimizer") -> tuple[Mapping[str, Any], list[str]]:
    """A state dict of another Muon in our format, with remarks on what it cannot hold. Any other one stays as it is.

    Raises:
        ValueError: If it is Moonlight's or Dion's, has an adjust_lr_fn without counterpart, or moves as a
            matrix a parameter that AdamW moves here.
        TypeError: If a part has a wrong type.
    """
    check_form(saved)
    groups = saved["param_groups"]
    if any({"algorithm", "mu"} <= set(group) or {"adamw_betas", "ns_steps"} <= set(group) for group in groups):
        raise ValueError(
            "this is the state dict of a Muon that sums gradients (Moonlight's or Dion's). Momentum here averages "
            "them: multiply theirs by 1 - momentum, and save it as 'momentum_buffer' in a state dict of ours."
        )
    rules = [_rule(group) for group in groups]
    if any("rule" in group for group in groups) or "matrix" not in rules or None in rules:
        return saved, []
    ours: list[dict[str, Any]] = []
    for group, rule in zip(groups, rules, strict=True):
        names = {key: group[key] for key in ("params", "param_names") if key in group}
        ours.append({**_options(group, str(rule)), **names})
    remarks = [
        text for g, rule in zip(groups, rules, strict=True) if rule == "matrix" for text in _unmapped(g, optimizer)
    ]
    state = dict(saved["state"])
    if "adamw" not in rules:
        remarks += _keep_rest(ours, state, optimizer)
    return {"state": state, "param_groups": ours}, list(dict.fromkeys(remarks))


def _unmapped(group: Mapping[str, Any], optimizer: "MatrixOptimizer") -> list[str]:
    """Remarks on what a group of another Muon has and our state dict cannot hold."""
    found = []
    theirs = _method(group)
    held = [rule.method for rule in optimizer.chain if isinstance(rule, Polar)]
    mine = held[0].schedule(2).rows if held and isinstance(held[0], Scheduled) else None
    if held and mine != theirs.schedule(2).rows:
        found.append(
            f"its steps (ns_steps, ns_coefficients) are no part of a state dict here. This optimizer goes on with its "
            f"own method; theirs is method={theirs!r}, precision=torch.bfloat16, as Muon.from_torch takes it."
        )
    if group.get("eps", _EPS) > _EPS:
        found.append(_NO_FLOOR.format(group["eps"]))
    return found


def _keep_rest(ours: list[dict[str, Any]], state: dict[Any, Any], optimizer: "MatrixOptimizer") -> list[str]:
    """Add this optimizer's own AdamW groups to a state dict that has none, in place. Returns a remark that says so."""
    own, number = optimizer.state_dict(), sum(len(group["params"]) for group in ours)
    theirs = [str(name) for group in ours for name in group.get("param_names", ())]
    matrices = [name for group in own["param_groups"] if group["rule"] != "adamw" for name in group["param_names"]]
    told = renamed(theirs, [], matrices)  # before our names are added, which may lack the prefixes of wrappers
    for group in ours:
        if "param_names" in group:
            group["param_names"] = [told[str(name)] for name in group["param_names"]]
    here = {name for group in own["param_groups"] if group["rule"] == "adamw" for name in group["param_names"]}
    if both := [name for name in told.values() if name in here]:
        shown = ", ".join(both[:4]) + (", ..." if len(both) > 4 else "")
        raise ValueError(
            f"the Muon of this state dict moves {shown} as a matrix, and here AdamW moves it. Give "
            'it the rule "matrix" (plan: overrides, with allow for an embedding or a head).'
        )
    names: list[str] = []
    for group in own["param_groups"]:
        if group["rule"] == "adamw":
            keys = list(range(number, number + len(group["params"])))
            state |= {
                new: own["state"][old] for new, old in zip(keys, group["params"], strict=True) if old in own["state"]
            }
            ours.append({**group, "params": keys})
            names += group["param_names"]
            number += len(keys)
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return [f"it has no AdamW parameters, so {shown} keep their own state and options."] if names else []


def _method(group: Mapping[str, Any]) -> Tuned | Schedule:
    """The steps of a group of another Muon. Jordan's own have no options and take five."""
    row = tuple(float(c) for c in group.get("ns_coefficients", _JORDAN))
    steps = int(group.get("ns_steps", 5))
    if row == _JORDAN and steps:
        return Tuned("jordan", steps=steps)
    return Schedule((Polynomial(row),) * steps, 2, 1e-3, "ns_coefficients of torch.optim.Muon")


def adopted(
    muon: Any, adamw: Any, given: Mapping[str, Any], name: str
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Groups, arguments of the constructor and state dict with which our Muon continues from other optimizers.

    Args:
        muon: torch.optim.Muon, or one of Jordan's.
        adamw: torch.optim.AdamW for the other parameters, or None.
        given: Arguments of the constructor that replace the options of all groups.
        name: The function that was called, for messages.

    Raises:
        TypeError: If an optimizer is of another kind.
        ValueError: If groups have different steps, because one optimizer here has one method, or an adjust_lr_fn has no
            counterpart.
    """
    if not isinstance(muon, torch.optim.Optimizer) or "matrix" not in (rules := [_rule(g) for g in muon.param_groups]):
        raise TypeError(f"{name} takes torch.optim.Muon or a Muon of Keller Jordan, got {_kind(muon)}.")
    if None in rules:
        raise TypeError(f"{name}: group {rules.index(None)} of {_kind(muon)} is of an unknown kind.")
    if adamw is not None and not isinstance(adamw, torch.optim.AdamW):
        raise TypeError(f"{name}: adamw must be a torch.optim.AdamW, got {_kind(adamw)}.")
    methods = [_method(group) for group, rule in zip(muon.param_groups, rules, strict=True) if rule == "matrix"]
    if any(method != methods[0] for method in methods):
        raise ValueError(f"{name}: the groups have different steps ({methods}), but one optimizer has one method.")
    groups: list[dict[str, Any]] = []
    saved: list[dict[str, Any]] = []
    state: dict[int, Any] = {}
    number = 0
    for optimizer in (muon, adamw) if adamw is not None else (muon,):
        for group in optimizer.param_groups:
            rule, names, params = str(_rule(group)), group.get("param_names"), group["params"]
            options = _replaced(_options(group, rule), given)
            numbers = range(number, number := number + len(params))
            saved.append({**options, "params": list(numbers)})
            state |= {
                n: dict(optimizer.state[p]) for n, p in zip(numbers, params, strict=True) if optimizer.state.get(p)
            }
            options = {key: value for key, value in options.items() if key != CHAIN}
            layout = {"layout": linear} if rule == "matrix" else {}
            groups.append({**options, **layout, "params": list(zip(names, params, strict=True)) if names else params})
    _say_what_differs(muon.param_groups, name)
    return groups, {"method": methods[0], "precision": torch.bfloat16}, {"state": state, "param_groups": saved}


def _replaced(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group with those that are given in their place: `rest` for AdamW, the others for matrices."""
    given = (given.get("rest") or {}) if options["rule"] == "adamw" else given
    found = options | {key: value for key, value in given.items() if key in options}
    if "lr" in given and "initial_lr" in options:  # torch's schedulers begin there
        found["initial_lr"] = given["lr"]
    return found


def _say_what_differs(groups: Sequence[Mapping[str, Any]], name: str) -> None:
    """Warn of what another Muon does differently from ours."""
    matrices = [group for group in groups if _rule(group) == "matrix"]
    floors = {group["eps"] for group in matrices if group.get("eps", _EPS) > _EPS}
    if floors:
        warnings.warn(f"{name}: {_NO_FLOOR.format(max(floors))}", stacklevel=4)
    if any(p.ndim > 2 for group in matrices for p in group["params"]):
        warnings.warn(
            f"{name}: Jordan's Muon scales the update of a convolution by the sides of its kernel. Here the scale is "
            "sqrt(max(1, m / n)), where n counts the kernel among the inputs.",
            stacklevel=4,
        )


def _kind(optimizer: Any) -> str:
    kind = type(optimizer)
    return f"{kind.__module__}.{kind.__qualname__}"


def as_torch(optimizer: "MatrixOptimizer", name: str) -> tuple[torch.optim.Optimizer, torch.optim.AdamW | None]:
    """torch.optim.Muon for the matrices, and torch's AdamW for the rest (None without a rest), with the state.

    Raises:
        ValueError: If a matrix is cut or not 2-D, a group has a rule, scale or option that torch lacks, or no group has
            the matrix rule.
        RuntimeError: If this torch has no Muon (before 2.9).
    """
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(
            f"{name} needs torch.optim.Muon, which came with torch 2.9; this is torch {torch.__version__}."
        )
    matrices, rest = [], []
    for index, group in enumerate(optimizer.param_groups):
        keys = FOREIGN | (set(REST_OPTIONS) if group["rule"] == "adamw" else _PLAIN_MUON | {"nesterov"})
        found: dict[str, Any] = {key: value for key, value in group.items() if key in keys}
        found["params"] = list(zip(group["param_names"], group["params"], strict=True))
        _refuse_what_torch_lacks(optimizer, group, f"{name}: group {index}")
        if group["rule"] == "adamw":
            rest.append(found)
            continue
        matrices.append({**found, "adjust_lr_fn": {v: k for k, v in _SCALES.items()}[group["scale"]]})
    if not matrices:
        raise ValueError(f"{name}: no group has the matrix rule, so there is nothing for torch.optim.Muon.")
    muon = torch.optim.Muon(matrices, **_steps(optimizer, name))
    adamw = torch.optim.AdamW(rest) if rest else None
    for other in (muon, adamw) if adamw is not None else (muon,):
        for param in (p for group in other.param_groups for p in group["params"]):
            own = optimizer.state.get(param, {})
            dtypes = {key: value.dtype if key == "step" else param.dtype for key, value in own.items()}
            kept = {key: value.to(dtypes[key], copy=True) for key, value in own.items() if key != COMPENSATION}
            if other is muon:
                kept.pop("step", None)
            if kept:
                other.state[param] = kept
    return muon, adamw


def _refuse_what_torch_lacks(optimizer: "MatrixOptimizer", group: Mapping[str, Any], where: str) -> None:
    for key, plain in (("cautious", False), ("rounding", "nearest")):
        if group.get(key, plain) != plain:
            raise ValueError(f"{where} has {key}={group[key]!r}, which torch lacks. Set it to {plain!r} first.")
    if group["rule"] == "adamw":
        return
    if group["rule"] != "matrix":
        raise ValueError(f"{where} has the rule {group['rule']!r}, which torch lacks.")
    if group["scale"] not in _SCALES.values():
        raise ValueError(f'{where} has scale={group["scale"]!r}; torch has "jordan" and "moonlight" alone.')
    for name, param in zip(group["param_names"], group["params"], strict=True):
        if param.ndim != 2 or optimizer.layouts[param] != linear(tuple(param.shape)):
            raise ValueError(
                f"{where}: {name!r} of shape {tuple(param.shape)} is not one matrix (out, in), as in torch."
            )


def _steps(optimizer: "MatrixOptimizer", name: str) -> dict[str, Any]:
    """Torch's options for the steps. If torch cannot express them, there are none, and a warning says so."""
    [method] = [rule.method for rule in optimizer.chain if isinstance(rule, Polar)]
    if isinstance(method, Scheduled):
        schedule = method.schedule(2)
        rows = set() if schedule.rational else set(schedule.coefficients)
        if schedule.preparation == PLAIN and len(rows) == 1 and len(row := next(iter(rows))) == 3:
            return {"ns_coefficients": row, "ns_steps": schedule.steps}
    warnings.warn(
        f"{name}: torch repeats one quintic step, and the method here ({method or 'the default'}) is another. torch "
        "goes on with its own five steps.",
        stacklevel=4,
    )
    return {}
