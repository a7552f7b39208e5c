"""plan(model): for every parameter of a model, what it is, which rule moves it, as which matrices, and why.

Two mistakes of matrix optimizers are silent: an embedding or head that is orthogonalized, and a model of which
nothing is (a wrapper flattened the weights, a name filter missed). Here both are errors, and the plan prints.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..matrices.layout import Layout, linear, stack
from .hints import Override, Pattern, check_arguments, first, refuse_idle_patterns
from .recognise import Candidate, Decision, recognise
from .table import render
from .walk import PlanError, candidates

__all__ = ["Entry", "Plan", "PlanError", "plan"]

_ASKED = {"embedding": "embedding", "position": "embedding", "tied head": "embedding", "head": "head"}
_ALLOW = ("empty", "embedding", "head")


@dataclass(frozen=True)
class Entry:
    """One parameter of a plan.

    Attributes:
        name: without what torch.compile, DDP and FSDP add.
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

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {tuple(self.parameter.shape)}, {self.role!r}, {self.rule!r}, {self.reason!r})"

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

    def __repr__(self) -> str:
        rules = [f"{sum(e.rule == rule for e in self)} {rule}" for rule in ("matrix", "adamw", "frozen")]
        return f"<Plan of {len(self)} parameters: {', '.join(rules)}; print() shows it>"

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
    heads: Mapping[Pattern, int] | None = None,
    allow: Collection[str] = (),
) -> Plan:
    """Decide for every parameter of a model whether it is orthogonalized, and as which matrices.

    Args:
        model: plain, compiled or wrapped in DDP.
        overrides: {pattern: decision} where rules do not know, or know wrongly. A decision is "matrix", "adamw",
            "frozen" (left out of the optimizer), a Layout, or a function from shape to Layout (`matfn.optim.layout`). A
            string is a glob on names, a compiled ``re.Pattern`` must match the whole name; the first match counts.
            Weights of experts with three axes are assumed to be (number, out, in), as the plan says of each; for
            (number, in, out) say ``{"*.experts.*": matfn.optim.layout.transposed_stack}``. What depends on it is the
            scale, that of the transpose otherwise: the polar factor itself turns with the matrix.
        qkv: {pattern: blocks} for fused matrices: the row sizes of each block, as (q, k, v), or the number of equal
            blocks.
        heads: {pattern: number of heads} for projections into heads, so that each head is a matrix of its own. Of fused
            q, k, v it is the number of query heads; k and v are cut into heads of the same size. The projection out of
            the heads has them among its inputs: ``overrides={pattern: lambda shape: linear(shape).tiled(columns=8)}``;
            ``tiled`` cuts any matrix into a grid of blocks.
        allow: what is an error otherwise: "embedding" and "head" (orthogonalized by an override), "empty" (nothing
            orthogonalized).

    Raises:
        TypeError: `model` is no module, a hint no mapping, or a pattern or decision of another type.
        PlanError: a parameter with two or more axes is of no known kind; a pattern matches nothing; a cut does not fit;
            the plan is one of those that `allow` names; or a parameter would be lost or named like another.
    """
    check_arguments(model, overrides, qkv, heads)
    _check_allowed(allow)
    found = candidates(model)
    refuse_idle_patterns([*(overrides or {}), *(qkv or {}), *(heads or {})], found)
    decided = {n: _decide(n, c, first(overrides, c), first(qkv, c), first(heads, c)) for n, c in found.items()}
    entries = _entries(found, decided)
    _refuse_mistakes(entries, allow)
    return Plan(tuple(entries))


def _check_allowed(allow: object) -> None:
    if isinstance(allow, str) or not isinstance(allow, Collection) or not set(allow) <= set(_ALLOW):
        raise PlanError(f"allow must be a collection of {_ALLOW}, got {allow!r}.")


def _entries(found: Mapping[str, Candidate], decided: Mapping[str, Decision | None]) -> list[Entry]:
    """The parameters with what was decided of them; all that nobody could decide are one error."""
    unknown = [
        f"{name} {tuple(c.param.shape)} of {type(c.first.module).__name__}"
        for name, c in found.items()
        if decided[name] is None
    ]
    if unknown:
        raise PlanError(
            "no rule knows these parameters; decide in plan(model, overrides={pattern: ...}) with "
            '"matrix", "adamw", "frozen" or a Layout:\n  ' + "\n  ".join(unknown)
        )
    return [Entry(name, found[name].param, d.role, d.rule, d.layout, d.reason) for name, d in decided.items() if d]


def _decide(
    name: str, c: Candidate, override: Override | None, blocks: int | Sequence[int] | None, heads: int | None
) -> Decision | None:
    """The decision for one parameter: frozen, else override, else hint, else the rules; None when nobody knows."""
    found = recognise(c)
    role = found.role if found else "other"
    if not c.param.requires_grad:
        return Decision(role, "frozen", None, "requires_grad is False")
    if override in ("adamw", "frozen"):
        return Decision(role, str(override), None, "by override")
    if override is None and blocks is None and heads is None:
        return found
    try:
        layout = _layout(c, override, found)
        layout = layout if blocks is None else layout.cut(blocks)
        if heads is not None:
            return Decision(role, "matrix", _by_head(layout, heads, role), "each head apart, by the heads= hint")
    except ValueError as error:
        raise PlanError(f"parameter {name!r}: {error}") from error
    if blocks is not None:
        return Decision("qkv", "matrix", layout, "cut by the qkv= hint")
    assumed = found is None and override == "matrix" and c.param.ndim == 3
    return Decision(role, "matrix", layout, "by override" + (", read as (number, out, in)" if assumed else ""))


def _by_head(layout: Layout, heads: int, role: str) -> Layout:
    """The layout with the heads as matrices; those of the first row block say how high each is."""
    if role == "qkv" and len(layout.cuts) == 1:
        raise ValueError(
            "q, k and v are interleaved by head here, so heads= would put one head's three into one matrix; cut them "
            f"all by qkv={{...: {3 * heads}}}."
        )
    height, left = divmod(layout.cuts[0], heads)
    if left or not height or any(cut % height for cut in layout.cuts):
        raise ValueError(f"row blocks of {layout.cuts} cannot be cut into heads of one size, {heads} in the first.")
    return layout.tiled(rows=sum(layout.cuts) // height)


def _layout(c: Candidate, override: Override | None, found: Decision | None) -> Layout:
    """The layout of a parameter that shall be matrices: as overridden, as recognised, or by its number of axes."""
    shape = tuple(c.param.shape)
    if callable(override):
        made: object = override(shape)
        if not isinstance(made, Layout):
            raise ValueError(f"the override's function must return a Layout, for {shape} it gave {made!r}.")
        override = made
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


def _pairs(entries: Sequence[Entry]) -> list[tuple[str, Tensor]]:
    return [(entry.name, entry.parameter) for entry in entries]
