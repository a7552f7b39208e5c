"""plan(model): for every parameter of a model, what it is, which rule moves it, as which matrices, and why.

Two mistakes of matrix optimizers are silent: an embedding or head that is orthogonalized, and a model of which
nothing is (a wrapper flattened the weights, a name filter missed). Here both are errors, and the plan prints.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .groups import clean_name
from .layout import Layout, linear, stack
from .recognise import Candidate, Decision, Model, Owner, is_linear, recognise
from .table import render

__all__ = ["Entry", "Plan", "PlanError", "plan"]

Pattern = str | re.Pattern[str]
Override = str | Layout | Callable[[tuple[int, ...]], Layout]
_ASKED = {"embedding": "embedding", "position": "embedding", "tied head": "embedding", "head": "head"}
_ALLOW = ("empty", "embedding", "head")


class PlanError(ValueError):
    """A plan that cannot be made, or that is almost surely not what was meant; the message says what to do."""


@dataclass(frozen=True)
class Entry:
    """One parameter of a plan.

    Attributes:
        name: without the prefixes of torch.compile and DDP.
        parameter: the tensor.
        role: what it is: linear, qkv, conv, embedding, head, norm, ...
        rule: "matrix", "adamw" or "frozen".
        layout: which matrices it is made of, for the matrix rule.
        reason: why.
    """

    name: str
    parameter: Tensor
    role: str
    rule: str
    layout: Layout | None
    reason: str

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: not to norms, biases and other vectors (the convention of nanoGPT)."""
        return self.rule == "matrix" or (self.parameter.ndim >= 2 and self.role not in ("norm", "bias"))


@dataclass(frozen=True)
class Plan:
    """The entries of a model, in its order. Iterable; prints as a table; `Muon` takes it as `params`."""

    entries: tuple[Entry, ...]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"no parameter {name!r} in this plan")

    def __str__(self) -> str:
        return render(self.entries)

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: matrices; the rest; the rest without weight decay (norms, biases, other vectors)."""
        matrices = [entry for entry in self if entry.rule == "matrix"]
        rest = [entry for entry in self if entry.rule == "adamw" and entry.decays]
        plain = [entry for entry in self if entry.rule == "adamw" and not entry.decays]
        groups = [
            {"params": _pairs(matrices), "rule": "matrix", "layout": [entry.layout for entry in matrices]},
            {"params": _pairs(rest), "rule": "adamw"},
            {"params": _pairs(plain), "rule": "adamw", "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def plan(
    model: nn.Module,
    *,
    overrides: Mapping[Pattern, Override] | None = None,
    qkv: Mapping[Pattern, int | Sequence[int]] | None = None,
    allow: Collection[str] = (),
) -> Plan:
    """Decide for every parameter of a model whether it is orthogonalized, and as which matrices.

    Args:
        model: plain, compiled or wrapped in DDP.
        overrides: {pattern: decision} where rules do not know, or know wrongly. A decision is "matrix", "adamw",
            "frozen" (left out of the optimizer), a Layout, or a function from shape to Layout (`matfn.optim.layout`). A
            string is a glob on names, a compiled ``re.Pattern`` must match the whole name; the first match counts.
        qkv: {pattern: blocks} for fused matrices: the row sizes of each block, as (q, k, v), or the number of equal
            blocks.
        allow: what is an error otherwise: "embedding" and "head" (orthogonalized by an override), "empty" (nothing
            orthogonalized).

    Raises:
        PlanError: a parameter with two or more axes is of no known kind; a pattern matches nothing; a cut does not fit;
            or the plan is one of those that `allow` names.
    """
    if isinstance(allow, str) or not set(allow) <= set(_ALLOW):
        raise PlanError(f"allow must be a collection of {_ALLOW}, got {allow!r}.")
    candidates = _candidates(model)
    _refuse_idle_patterns([*(overrides or {}), *(qkv or {})], candidates)
    entries, unknown = [], []
    for name, c in candidates.items():
        decided = _decide(name, c, _first(overrides, c), _first(qkv, c))
        if decided is None:
            unknown.append(f"{name} {tuple(c.param.shape)} of {type(c.first.module).__name__}")
        else:
            entries.append(Entry(name, c.param, decided.role, decided.rule, decided.layout, decided.reason))
    if unknown:
        raise PlanError(
            "no rule knows these parameters; decide in plan(model, overrides={pattern: ...}) with "
            '"matrix", "adamw", "frozen" or a Layout:\n  ' + "\n  ".join(unknown)
        )
    _refuse_mistakes(entries, allow)
    return Plan(tuple(entries))


def _decide(name: str, c: Candidate, override: Override | None, blocks: int | Sequence[int] | None) -> Decision | None:
    """The decision for one parameter: frozen, else override, else hint, else the rules; None when nobody knows."""
    found = recognise(c)
    role = found.role if found else "other"
    if not c.param.requires_grad:
        return Decision(role, "frozen", None, "requires_grad is False")
    if override in ("adamw", "frozen"):
        return Decision(role, str(override), None, "by override")
    if override is None and blocks is None:
        return found
    try:
        layout = _layout(c, override, found)
        if blocks is not None:
            return Decision("qkv", "matrix", layout.cut(blocks), "cut by the qkv= hint")
    except ValueError as error:
        raise PlanError(f"parameter {name!r}: {error}") from error
    return Decision(role, "matrix", layout, "by override")


def _layout(c: Candidate, override: Override | None, found: Decision | None) -> Layout:
    """The layout of a parameter that shall be matrices: as overridden, as recognised, or by its number of axes."""
    shape = tuple(c.param.shape)
    if callable(override):
        return override(shape)
    if isinstance(override, Layout):
        if override.shape != shape:
            raise ValueError(f"the overriding layout is for shape {override.shape}, the parameter has {shape}.")
        return override
    if override not in ("matrix", None):
        raise ValueError(f'an override is "matrix", "adamw", "frozen", a Layout or a function; got {override!r}.')
    if found is not None and found.layout is not None:
        return found.layout
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has fewer than two axes and is no matrix.")
    return stack(shape) if len(shape) == 3 else linear(shape)


def _refuse_idle_patterns(patterns: Sequence[Pattern], candidates: Mapping[str, Candidate]) -> None:
    """Raise for a pattern that matches nothing: a typing error there would silently change what is optimized."""
    names = [name for c in candidates.values() for name in _aliases(c)]
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in names):
            text = pattern if isinstance(pattern, str) else pattern.pattern
            raise PlanError(f"pattern {text!r} matches no parameter; there are {len(names)}, such as {names[:3]}.")


def _refuse_mistakes(entries: Sequence[Entry], allow: Collection[str]) -> None:
    """Raise for an orthogonalized embedding or head, and for a plan without matrices, unless asked for."""
    for entry in entries:
        asked = _ASKED.get(entry.role)
        if entry.rule == "matrix" and asked and asked not in allow:
            raise PlanError(
                f"{entry.name} has the role {entry.role!r} and would be orthogonalized by override or hint. That makes "
                f'rare and frequent tokens move alike and is rarely meant; pass allow=("{asked}",) if it is.'
            )
    if "empty" not in allow and not any(entry.rule == "matrix" for entry in entries):
        raise PlanError(
            "nothing would be orthogonalized:\n"
            + render(entries)
            + "\nIf a wrapper flattened or froze the weights, plan "
            'before wrapping; name the matrices in overrides=; or pass allow=("empty",).'
        )


def _candidates(model: nn.Module) -> dict[str, Candidate]:
    """Every parameter once, by the cleaned name of its first owner, with all its owners."""
    modules = {clean_name(f"{path}.").rstrip("."): module for path, module in model.named_modules()}
    owners: dict[Tensor, list[Owner]] = {}
    for path, module in modules.items():
        for leaf, param in module.named_parameters(recurse=False, remove_duplicate=False):
            parent = modules.get(path.rpartition(".")[0]) if path else None
            owners.setdefault(param, []).append(Owner(path, leaf, module, parent))
    if not owners:
        raise PlanError(f"{type(model).__name__} has no parameters.")
    linears = [path for path, module in modules.items() if is_linear(module)]
    tables = [
        o.module for found in owners.values() for o in found if o.is_a(r"\w*Embedding(Bag)?") and o.leaf == "weight"
    ]
    context = Model(
        embeddings=frozenset(tuple(table.weight.shape) for table in tables if isinstance(table.weight, Tensor)),
        last_linear=linears[-1] if linears else "",
        last_linear_in={path.rpartition(".")[0]: path for path in linears},
    )
    found = {}
    for param, places in owners.items():
        candidate = Candidate(param, tuple(places), context)
        name = _aliases(candidate)[0]
        if is_lazy(param):
            raise PlanError(f"parameter {name!r} is lazy and has no shape yet; run one forward pass, then plan.")
        found[name] = candidate
    return found


def _aliases(c: Candidate) -> list[str]:
    return [f"{owner.path}.{owner.leaf}" if owner.path else owner.leaf for owner in c.owners]


def _first(decisions: Mapping[Pattern, Any] | None, c: Candidate) -> Any:
    """What the first pattern that matches the parameter, by any of its names, says; None if none does."""
    names = _aliases(c)
    return next((v for p, v in (decisions or {}).items() if any(_matches(p, name) for name in names)), None)


def _matches(pattern: Pattern, name: str) -> bool:
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.fullmatch(name) is not None


def _pairs(entries: Sequence[Entry]) -> list[tuple[str, Tensor]]:
    return [(entry.name, entry.parameter) for entry in entries]
