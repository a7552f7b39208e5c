"""The walk over a model: finds every parameter once, every module that holds it, and its name without wrappers.

Wrappers are recognised by class, not by attribute name: a model may have a layer of its own called "module".
"""

import re
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .candidate import Candidate, Model, Owner, weight_shape

__all__ = ["PlanError", "aliases", "candidates", "made_from", "unwrapped"]

# {class name of a torch wrapper: attribute that holds the model}. Names, because some builds of torch lack some of the
# classes, and because importing the compiler takes seconds.
_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}
# {class of one of torch's parametrizations: its name}.
_NAMES = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm", "Orthogonal": "orthogonal"}
# torch's hooks for reparametrized weights: {ending of the stored parameter: what it is}. A hook computes the weight
# from the stored parameters before each call of the module.
_STORED = {"_v": "weight_norm", "_g": "the magnitudes of weight_norm", "_orig": "spectral_norm"}


class PlanError(ValueError):
    """No plan can be made, or the plan is almost surely a mistake. The message says what to do."""


def candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every parameter of a model once, as {name: candidate}. The name is the first one found, without wrappers.

    Raises:
        PlanError: If there are no parameters, a lazy one, two of one name, if a part is wrapped by FSDP1 or is
            tensor parallel under DDP, or if `named_parameters()` differs.
    """
    _refuse_flattened(model)
    _refuse_unmarked_shards(model)
    placed = list(_modules(model))
    at = dict(placed)  # a wrapper and its inner module share a path; the inner module comes last and stays
    owners: dict[Tensor, list[Owner]] = {}
    for path, module in placed:
        for leaf, param in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(param, []).append(_owner(at, path, leaf, module))
    if not owners:
        raise PlanError(f"{type(model).__name__} has no parameters.")
    context = _context(placed, at, owners)
    found: dict[str, Candidate] = {}
    for param, places in owners.items():
        candidate = Candidate(param, tuple(places), context)
        name = aliases(candidate)[0]
        _refuse_unreadable(name, param)
        if name in found:
            raise PlanError(
                f"without wrappers, two parameters are called {name!r}: one in {type(places[0].module)}, one in "
                f"{type(found[name].first.module)}. Plan the inner model, or rename the wrapper's parameter."
            )
        found[name] = candidate
    _refuse_difference(model, found)
    return found


def aliases(c: Candidate) -> list[str]:
    """All names of a parameter. The first is its name in the plan."""
    return [owner.name for owner in c.owners]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch's wrappers."""
    while (attribute := _inner(model)) is not None:
        model = getattr(model, attribute)
    return model


def made_from(module: nn.Module) -> dict[str, Tensor]:
    """{weight: the parameter that stands for it} for weights that a module computes from its parameters."""
    found: dict[str, Tensor] = {}
    lists = dict(module.named_children()).get("parametrizations")
    if isinstance(lists, nn.ModuleDict):
        for leaf, originals in lists.items():
            held = list(originals.parameters(recurse=False))
            found |= {leaf: max(held, key=lambda param: param.numel())} if held else {}
    for stored, param in module._parameters.items():
        leaf, _, ending = stored.rpartition("_")
        if param is not None and ending in ("v", "orig") and isinstance(module.__dict__.get(leaf), Tensor):
            found[leaf] = param
    return found


def _owner(at: dict[str, nn.Module], path: str, leaf: str, module: nn.Module) -> Owner:
    """The owner of a parameter. A reparametrized weight belongs to the layer that uses it, under the weight's name."""
    name = f"{path}.{leaf}".lstrip(".")
    owner, made = path, ""
    if type(module).__name__ == "ParametrizationList":
        owner, _, weight = path.removesuffix("parametrizations").rpartition(".parametrizations.")
        owner, weight = (owner, weight) if weight else ("", path.rpartition(".")[2])
        made = " and ".join(re.sub(r"^_", "", type(step).__name__) for step in module.children())
        made = _NAMES.get(made, made)
        made = f"the magnitudes of {made}" if made == "weight_norm" and leaf == "original0" else made
        module, leaf = at[owner], weight
    elif (ending := re.search(r"_(v|g|orig)$", leaf)) and isinstance(
        module.__dict__.get(leaf[: ending.start()]), Tensor
    ):
        made, leaf = _STORED[ending[0]], leaf[: ending.start()]
    parent = at.get(owner.rpartition(".")[0]) if owner else None
    return Owner(owner, leaf, module, parent, name, made)


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its path. A wrapped module has the path of its wrapper."""
    paths: dict[str, str] = {}
    by_path: dict[str, nn.Module] = {}
    for full, module in model.named_modules():
        above, _, leaf = full.rpartition(".")
        if not full:
            paths[full] = ""
        elif _inner(by_path[above]) == leaf:
            paths[full] = paths[above]
        else:
            paths[full] = f"{paths[above]}.{leaf}".lstrip(".")
        by_path[full] = module
        yield paths[full], module


def _inner(module: nn.Module) -> str | None:
    """The attribute that holds the wrapped model, or None if the module is no wrapper of torch."""
    classes = [cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.")]
    return next((_INNER[cls.__name__] for cls in classes if cls.__name__ in _INNER), None)


def _context(placed: list[tuple[str, nn.Module]], at: dict[str, nn.Module], owners: dict[Tensor, list[Owner]]) -> Model:
    shapes = {path: shape for path, module in placed if (shape := weight_shape(module)) is not None}
    tables = [param for param, found in owners.items() if any(o.is_a(r"\w*Embedding(Bag)?") for o in found)]
    words = [t for t in tables if t.ndim == 2 and not any(re.search("pos|type|segment", o.path) for o in owners[t])]
    vocabulary = max((table.shape[0] for table in words), default=0)
    return Model(at, shapes, vocabulary)


def _refuse_flattened(model: nn.Module) -> None:
    """Refuse modules in FullyShardedDataParallel (FSDP1), also where it keeps the names of the parameters."""
    for path, module in model.named_modules():
        names = {cls.__name__ for cls in type(module).__mro__ if cls.__module__.startswith("torch.")}
        if "FullyShardedDataParallel" in names:
            where = f"its module {path!r}" if path else "it"
            raise PlanError(
                f"{type(model).__name__} cannot be planned: {where} is wrapped in FullyShardedDataParallel (FSDP1), "
                "which flattens parameters, so that their matrices are lost. Shard the model with "
                "torch.distributed.fsdp.fully_shard, then plan it."
            )


def _refuse_unmarked_shards(model: nn.Module) -> None:
    """Refuse DDP over tensor parallel, which keeps the parts of matrices as plain parameters, or hides them."""
    for path, module in model.named_modules():
        if any(getattr(hook, "__name__", "") == "_localize_dtensor" for hook in module._forward_hooks.values()):
            where = f"its module {path!r}" if path else "it"
            raise PlanError(
                f"{type(model).__name__} cannot be planned: {where} is tensor parallel under DistributedDataParallel "
                "(or replicate), which keeps the parts of its matrices as plain parameters. Use fully_shard(model, "
                "mesh=...) in place of DDP, then plan it."
            )


def _refuse_unreadable(name: str, param: Tensor) -> None:
    if is_lazy(param):
        raise PlanError(f"parameter {name!r} is lazy and has no shape yet. Run one forward pass, then plan.")
    if param.is_inference():
        raise PlanError(
            f"parameter {name!r} was made in inference mode and can never be trained. Make the model outside of "
            "torch.inference_mode()."
        )


def _refuse_difference(model: nn.Module, found: dict[str, Candidate]) -> None:
    """Raise unless the walk found exactly the parameters of `model.named_parameters()`."""
    listed = {id(param): name for name, param in model.named_parameters()}
    planned = {id(c.param): name for name, c in found.items()}
    lost = [name for key, name in listed.items() if key not in planned]
    more = [name for key, name in planned.items() if key not in listed]
    if lost or more:
        raise PlanError(
            f"{type(model).__name__}.named_parameters() and the parameters of its modules differ: only listed "
            f"{lost}, only held {more}. Some module overrides named_parameters(). Plan the module inside it."
        )
