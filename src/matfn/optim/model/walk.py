"""The walk over a model: finds every parameter once, every module that holds it, and its name without wrappers.

Wrappers are recognised by class, not by attribute name: a model may have a layer of its own called "module".
"""

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .recognise import Candidate, Model, Owner, is_linear

__all__ = ["PlanError", "aliases", "candidates"]

# {class name of a torch wrapper: attribute that holds the model}. Names, because some builds of torch lack some of the
# classes, and because importing the compiler takes seconds.
_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
    "CheckpointWrapper": "_checkpoint_wrapped_module",
    "OffloadWrapper": "_checkpoint_wrapped_module",
}


class PlanError(ValueError):
    """No plan can be made, or the plan is almost surely a mistake. The message says what to do."""


def candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every parameter of a model once, as {name: candidate}. The name is the first one found, without wrappers.

    Raises:
        PlanError: If there are no parameters, a lazy one, two of one name, or if `named_parameters()` differs.
    """
    placed = list(_modules(model))
    at = dict(placed)  # a wrapper and its inner module share a path; the inner module comes last and stays
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
            raise PlanError(f"parameter {name!r} is lazy and has no shape yet. Run one forward pass, then plan.")
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
    return [f"{owner.path}.{owner.leaf}" if owner.path else owner.leaf for owner in c.owners]


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
