"""Parameter groups: turns every form of `params` into one list of groups, and checks their parameters.

The groups are those of torch, dicts with "params" and options, plus "rule" ("matrix", or "adamw" for AdamW of torch).
Layouts stay outside the group: a group is saved in the state dict, which may hold only plain values.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .matrices.layout import Layout, linear
from .matrices.shards import is_dtensor, is_flattened, is_unmarked_shard
from .options import check_options, check_scale
from .rest import OPTIONS as REST_OPTIONS
from .words import ruled

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["as_groups", "check_used", "lent", "prepared"]


def as_groups(params: Any, optimizer: str) -> list[dict[str, Any]]:
    """Turn a Plan or an iterable of tensors, (name, tensor) pairs or dicts into torch's groups, new dicts.

    Raises:
        TypeError: If `params` is a module, a single tensor or a set, or mixes dicts and tensors.
        ValueError: If `params` is empty.
    """
    if isinstance(params, torch.nn.Module):
        raise TypeError(f"{optimizer} got a module. Pass plan(model), or groups of its parameters.")
    if isinstance(params, Tensor | Mapping | str):
        raise TypeError(f"{optimizer} got a single {type(params).__name__}. Put it into a list, or pass plan(model).")
    if isinstance(params, set | frozenset):
        raise TypeError(f"{optimizer} got its parameters as a set. Its order changes between runs, so pass a list.")
    if not hasattr(params, "__iter__"):
        raise TypeError(f"{optimizer} expects plan(model) or an iterable of parameters, got {params!r}.")
    groups = params.groups() if hasattr(params, "groups") else list(params)
    if not groups:
        raise ValueError(f"{optimizer} got an empty parameter list.")
    dicts = [isinstance(entry, Mapping) for entry in groups]
    if not any(dicts):
        return [{"params": groups}]
    if not all(dicts):
        raise TypeError(f"{optimizer} got dicts and tensors in one list. Put the tensors into a dict of their own.")
    return [dict(group) for group in groups]


def prepared(optimizer: "MatrixOptimizer", given: Any) -> tuple[dict[str, Any], list[Layout]]:
    """A copy of a given group with every option of its rule and (name, tensor) pairs, and the layouts of its matrices.

    Raises:
        TypeError, ValueError: See `MatrixOptimizer`. The message names optimizer and group; nothing has changed.
    """
    where = f"{type(optimizer).__name__}: group {len(optimizer.param_groups)}"
    if not isinstance(given, Mapping) or "params" not in given:
        raise TypeError(f'{where} must be a dict with "params", got {given!r}.')
    group = ruled(given, type(optimizer).__name__, optimizer.others, where)
    rule = group.setdefault("rule", "matrix")
    known = ("matrix", "adamw", *optimizer.others)
    if rule not in known:
        raise ValueError(f"{where} has rule {rule!r}; the rules are {known}. Give others in rules={{...}}.")
    own = optimizer.own_options(rule)
    other = {*REST_OPTIONS, *optimizer.defaults}.union(*(lender.defaults for lender in optimizer.others.values()))
    lender = optimizer if rule == "adamw" else optimizer.lender(rule)
    arguments = {name for each in (optimizer, lender) for name in inspect.signature(type(each)).parameters}
    check_options(group, own, other - set(own), f"{where} (rule {rule!r})", arguments)
    try:
        names, params = named(group["params"], len(optimizer.param_groups))
        taken = [pair for g in optimizer.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]
        check_parameters(names, params, taken, rule)
        layout = group.pop("layout", None)
        layouts = [] if rule == "adamw" else layouts_for(layout, names, params)
    except (TypeError, ValueError) as error:
        raise (TypeError if isinstance(error, TypeError) else ValueError)(f"{where}: {error}") from error
    group.pop("param_names", None)
    group |= {key: value for key, value in own.items() if key not in group}
    optimizer.check_group(group, where, {shape for layout in layouts for shape in layout.shapes})
    if layouts:
        check_scale(optimizer.scale_of(rule, group["scale"]), layouts, where)
    group["params"] = list(zip(names, params, strict=True))
    return group, layouts


def named(params: Any, index: int) -> tuple[list[str], list[Tensor]]:
    """Names and tensors of a group's "params". A tensor without a name is called "group{index}.{position}".

    Raises:
        TypeError: If an entry is no tensor, the collection has no order, or only some tensors have names.
    """
    if isinstance(params, set | frozenset):
        raise TypeError("parameters came as a set. Its order changes between runs, so pass a list.")
    entries = [params] if isinstance(params, Tensor) else list(params)
    pairs = [entry if isinstance(entry, tuple) else (None, entry) for entry in entries]
    for _, tensor in pairs:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"parameters must be tensors or (name, tensor) pairs; got a {type(tensor).__name__}.")
    unnamed = [name is None for name, _ in pairs]
    if any(unnamed) and not all(unnamed):
        raise TypeError(f"group {index} mixes named tensors with {sum(unnamed)} without a name; name all or none.")
    names = [f"group{index}.{j}" if name is None else str(name) for j, (name, _) in enumerate(pairs)]
    return names, [tensor for _, tensor in pairs]


def layouts_for(given: Any, names: Sequence[str], params: Sequence[Tensor]) -> list[Layout]:
    """The layout of each parameter of a matrix group.

    They are given by a function of the shape such as `layout.stack`, by a list, or by None for 2-D matrices.

    Raises:
        ValueError: If a parameter is not 2-D and has no layout, or the layouts do not fit.
        TypeError: If `given` has another type.
    """
    if given is None:
        for name, param in zip(names, params, strict=True):
            if param.ndim != 2:
                raise ValueError(
                    f"parameter {name!r} of shape {tuple(param.shape)} is not a matrix. Pass plan(model), or give the "
                    'group "rule": "adamw", or a "layout" (see matfn.optim.matrices.layout).'
                )
        given = linear
    if not callable(given) and (isinstance(given, str) or not isinstance(given, Sequence)):
        raise TypeError(f'"layout" must be a function of the shape or one Layout per parameter, got {given!r}.')
    function: Any = given
    layouts = [function(tuple(param.shape)) for param in params] if callable(given) else list(given)
    for layout in layouts:
        if not isinstance(layout, Layout):
            raise TypeError(f'"layout" must give a Layout (matfn.optim.matrices.layout) per parameter, got {layout!r}.')
    if len(layouts) != len(params):
        raise ValueError(f'"layout" has {len(layouts)} entries, but there are {len(params)} parameters.')
    for name, param, layout in zip(names, params, layouts, strict=True):
        if layout.shape != tuple(param.shape):
            raise ValueError(f"parameter {name!r} is {tuple(param.shape)}, but its layout is for {layout.shape}.")
    return layouts


def check_parameters(
    names: Sequence[str], params: Sequence[Tensor], taken: Sequence[tuple[str, Tensor]], rule: str
) -> None:
    """Refuse parameters that cannot be optimized, and names and tensors that appear twice.

    `taken` has the name and tensor of all parameters in earlier groups.
    """
    known, earlier, seen = {name for name, _ in taken}, {id(param) for _, param in taken}, dict[int, str]()
    for name, param in zip(names, params, strict=True):
        if name in known:
            raise ValueError(f"two parameters are called {name!r}. Checkpoints need different names, so rename one.")
        if id(param) in earlier:
            raise ValueError(f"parameter {name!r} appears in more than one parameter group. Leave it in one.")
        if id(param) in seen:
            raise ValueError(f"parameters {seen[id(param)]!r} and {name!r} are the same tensor. Pass it once.")
        _check_parameter(name, param, rule)
        known.add(name)
        seen[id(param)] = name


def _check_parameter(name: str, param: Tensor, rule: str) -> None:
    """Refuse a tensor that no rule can move: TypeError for its type or dtype, ValueError if it is no leaf."""
    refused = f"parameter {name!r}"
    if is_lazy(param):
        raise TypeError(f"{refused} has no shape yet. Run the model once on an example batch, then make the optimizer.")
    if is_flattened(param):
        raise TypeError(
            f"{refused} belongs to FullyShardedDataParallel (FSDP1), which flattens parameters, so that their matrices "
            "are lost. Shard the model with torch.distributed.fsdp.fully_shard, and make the optimizer after that."
        )
    if is_unmarked_shard(param):
        raise TypeError(
            f"{refused} is a part of a matrix: DistributedDataParallel over tensor parallel keeps the parts as plain "
            "parameters. Use fully_shard(model, mesh=...) in place of DDP, and make the optimizer after that."
        )
    if is_dtensor(param) and any(placement.is_partial() for placement in param.placements):
        raise TypeError(
            f"{refused} is a DTensor with the placements {param.placements}: partial sums are no weights. Redistribute "
            "it to Shard or Replicate before you make the optimizer."
        )
    if param.is_meta:
        raise TypeError(
            f"{refused} is on the meta device and has no values. Make the optimizer after the weights exist."
        )
    if param.layout is not torch.strided or param.is_nested or param.is_quantized:
        kind = "quantized" if param.is_quantized else "nested" if param.is_nested else "sparse"
        raise TypeError(f"{refused} is {kind}; the rules need a dense tensor of floating-point numbers.")
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if param.dtype not in dtypes and not (rule == "adamw" and param.is_complex()):
        need = "the matrix rule needs a real" if rule != "adamw" else "AdamW needs a"
        raise TypeError(f"{refused} is {param.dtype}; {need} floating-point dtype of 16, 32 or 64 bits.")
    if not param.is_leaf:
        raise ValueError(
            f"{refused} is no leaf: it is the result of an operation, so its gradient is not kept. Pass the parameter "
            "it was made of, or a detached tensor."
        )


def lent(rules: Any, kind: type[Optimizer], optimizer: str) -> dict[str, Any]:
    """{name: optimizer without parameters} for further `rules`, functions from parameters to a `kind` of optimizer.

    Raises:
        TypeError: If `rules` is no mapping, or a value is no such function.
        ValueError: If a name is taken or is no word, or an option of an optimizer is out of range.
    """
    if rules is not None and not isinstance(rules, Mapping):
        raise TypeError(
            f"{optimizer}: rules must map names to functions such as partial(PolarGrad, lr=1.0), got {rules!r}."
        )
    made: dict[str, Any] = {}
    for name, make in (rules or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("matrix", "adamw", "frozen"):
            raise ValueError(
                f'{optimizer}: the name of a rule must be a word other than "matrix", "adamw", "frozen"; got {name!r}.'
            )
        lender = make([{"params": []}]) if callable(make) else make
        if not isinstance(lender, kind) or not callable(make):
            raise TypeError(
                f"{optimizer}: rules[{name!r}] must be a function from parameters to an optimizer of matrices, such as "
                f"functools.partial(PolarGrad, lr=1.0); got {make!r}."
            )
        made[name] = lender
    return made


def check_used(groups: Sequence[Mapping[str, Any]], rules: Iterable[str], rest: bool, optimizer: str) -> None:
    """Raise ValueError if no group uses one of the further `rules`, or `rest` (whether ``rest=`` was given)."""
    idle = [rule for rule in rules if all(group["rule"] != rule for group in groups)]
    if idle:
        raise ValueError(
            f'{optimizer}: rules={idle} were given, but no group has them. Give a group "rule": {idle[0]!r}, or name '
            "it in plan(model, overrides={pattern: rule}), or leave out rules=."
        )
    if rest and all(group["rule"] != "adamw" for group in groups):
        raise ValueError(
            f"{optimizer}: rest= was given, but no parameter would use it: every group has the matrix rule. Pass "
            'plan(model), give the groups of embeddings, head, norms and biases "rule": "adamw", or leave out rest=.'
        )
