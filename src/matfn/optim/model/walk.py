"""The walk over a model: every parameter once, with all places that hold it, by names that no wrapper changes.

What is a wrapper is asked of its class, not of its name: a model may well have a layer called "module".
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .recognise import Candidate, Model, Owner, is_linear

__all__ = ["PlanError", "aliases", "candidates"]

# The attribute in which a wrapper of torch keeps the model, by the wrapper's class (by name: not every build of torch
# has all of them, and importing the compiler to ask costs seconds).
_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}


class PlanError(ValueError):
    """A plan that cannot be made, or that is almost surely not what was meant; the message says what to do."""


def candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every parameter of a model once, by the name of its first place without wrappers.

    Raises:
        PlanError: no parameters, a lazy one, two of one name, or a model that lists others than its modules hold.
    """
    placed = list(_modules(model))
    at = dict(placed)  # of a wrapper and what it wraps, which have one path, the inner
    owners: dict[Tensor, list[Owner]] = {}
    for path, module in placed:
        for leaf, param in module.named_parameters(recurse=False, remove_duplicate=False):
            parent = at.get(path.rpartition(".")[0]) if path else None
            owners.setdefault(param, []).append(Owner(path, leaf, module, parent))
    if not owners:
        raise PlanError(f"{type(model).__name__} has no parameters.")
    context = _context(placed, owners)
    found: dict[str, Candidate] = {}
    for param, places in owners.items():
        candidate = Candidate(param, tuple(places), context)
        name = aliases(candidate)[0]
        if is_lazy(param):
            raise PlanError(f"parameter {name!r} is lazy and has no shape yet; run one forward pass, then plan.")
        if name in found:
            raise PlanError(
                f"two parameters are called {name!r} once wrappers are set aside: one in {type(places[0].module)}, one "
                f"in {type(found[name].first.module)}. Plan the inner model, or rename what was added to the wrapper."
            )
        found[name] = candidate
    _refuse_difference(model, found)
    return found


def aliases(c: Candidate) -> list[str]:
    """All names of a parameter; the first is the one it goes by."""
    return [f"{owner.path}.{owner.leaf}" if owner.path else owner.leaf for owner in c.owners]


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, with its path; what a wrapper holds has the path of the wrapper."""
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
    """The attribute that holds the wrapped model; None for what is no wrapper of torch's."""
    classes = [cls for cls in type(module).__mro__ if cls.__module__.startswith("torch.")]
    return next((_INNER[cls.__name__] for cls in classes if cls.__name__ in _INNER), None)


def _context(placed: list[tuple[str, nn.Module]], owners: dict[Tensor, list[Owner]]) -> Model:
    linears = [path for path, module in placed if is_linear(module)]
    tables = [
        o.module for found in owners.values() for o in found if o.is_a(r"\w*Embedding(Bag)?") and o.leaf == "weight"
    ]
    return Model(
        embeddings=frozenset(tuple(table.weight.shape) for table in tables if isinstance(table.weight, Tensor)),
        last_linear=linears[-1] if linears else "",
        last_linear_in={path.rpartition(".")[0]: path for path in linears},
    )


def _refuse_difference(model: nn.Module, found: dict[str, Candidate]) -> None:
    """Raise unless the parameters found are those that the model lists: none lost, none more."""
    listed = {id(param): name for name, param in model.named_parameters()}
    planned = {id(c.param): name for name, c in found.items()}
    lost = [name for key, name in listed.items() if key not in planned]
    more = [name for key, name in planned.items() if key not in listed]
    if lost or more:
        raise PlanError(
            f"{type(model).__name__}.named_parameters() and the parameters its modules hold differ: only listed "
            f"{lost}, only held {more}. A module that overrides named_parameters() does that; plan the module inside."
        )
