"""plan(model): for every parameter of a model its role, its rule, its matrices, the reason, and how certain that is.

The sources, the strongest first: the user's overrides, the class of a module, the autograd graph of one example, names
and shapes. Two mistakes with matrix optimizers give no sign: an embedding or head is orthogonalized, or no weight is (a
wrapper flattened the weights, a name filter missed). `plan` raises an error for both, and prints as a table.
"""

import difflib
import re
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ..matrices.exchange import group_of_mesh
from ..matrices.layout import Layout, linear, stack
from . import html
from .candidate import Candidate, Decision
from .example import check_example, read_example
from .hints import Override, Pattern, check_arguments, first, refuse_idle_patterns
from .meshes import Mesh, mesh_of
from .outlook import Outlook, Pace, outlook
from .places import Fact
from .recognise import as_matrix, recognise
from .table import render
from .walk import PlanError, candidates

__all__ = ["Entry", "Plan", "PlanError", "plan"]

# {role: the word in `allow` without which a matrix of this role is an error}.
_NEEDS_ALLOW = {"embedding": "embedding", "position": "embedding", "tied head": "embedding", "head": "head"}
_ALLOW = ("empty", "embedding", "head")
_FROZEN = ("leave", "keep")
_VECTORS = ("norm", "bias", "gain", "vector")


@dataclass(frozen=True)
class Entry:
    """One parameter of a plan.

    Attributes:
        name: The name without the prefixes of torch.compile, DDP and FSDP.
        parameter: The tensor.
        role: The kind of parameter: embedding, position, head, tied head, input, linear, qkv, fused, conv, depthwise,
            gates, expert, router, parametrized, norm, gain, bias, vector or other.
        rule: "matrix", "adamw", "frozen", or the name of another rule for matrices.
        layout: How the parameter is read as matrices; None under "adamw" and "frozen".
        reason: Why this role and rule were chosen.
        certainty: The source of the decision: "told" (an override or hint), "class", "graph", "name" or "guess".
        look: Whether a person should look at the decision: it is a guess, or two sources disagree.
    """

    name: str
    parameter: Tensor
    role: str
    rule: str
    layout: Layout | None
    reason: str
    certainty: str = "told"
    look: bool = False

    def __repr__(self) -> str:
        return (
            f"Entry({self.name!r}, {tuple(self.parameter.shape)}, {self.role!r}, {self.rule!r}, {self.reason!r}, "
            f"{self.certainty!r}{', look=True' * self.look})"
        )

    @property
    def is_matrix(self) -> bool:
        """Whether a rule for matrices moves it."""
        return self.rule not in ("adamw", "frozen")

    @property
    def decays(self) -> bool:
        """Whether weight decay applies.

        Norms, biases, gains and other vectors do not decay, as in nanoGPT. Nor does a parameter of AdamW with the
        attribute ``_no_weight_decay``, which models of state spaces set.
        """
        if self.is_matrix:
            return True
        token = self.role == "position" and sum(size > 1 for size in self.parameter.shape) < 2
        kept = self.role in _VECTORS or token or getattr(self.parameter, "_no_weight_decay", False)
        return self.parameter.ndim >= 2 and not kept


@dataclass(frozen=True)
class Plan:
    """The entries of a model, in the model's order. It can be iterated, printed, and passed to `Muon` as `params`.

    Attributes:
        entries: One entry for each parameter.
        model: A weak reference to the model, by which an optimizer notices parameters that were replaced.
        mesh: The processes for which it prints what a step costs each of them; None for no such table.
    """

    entries: tuple[Entry, ...]
    model: weakref.ReferenceType[nn.Module] | None = field(default=None, compare=False, repr=False)
    mesh: Mesh | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries}  # a weak reference cannot be pickled

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        near = difflib.get_close_matches(str(name), [entry.name for entry in self.entries], n=3)
        raise KeyError(f"this plan has no parameter {name!r}" + (f"; near are {near}" if near else ""))

    @property
    def looks(self) -> tuple[Entry, ...]:
        """The entries that want a look: guesses, and decisions on which two sources disagree."""
        return tuple(entry for entry in self.entries if entry.look)

    @property
    def processes(self) -> Any:
        """The process group whose processes hold equal plain parameters: of DDP, or of a DeviceMesh given as `mesh`."""
        if self.mesh is not None and self.mesh.device_mesh is not None:
            return group_of_mesh(self.mesh.device_mesh)
        model = self.model() if self.model is not None else None
        model = getattr(model, "_orig_mod", model)  # torch.compile around DDP
        return model.process_group if isinstance(model, nn.parallel.DistributedDataParallel) else None

    def __repr__(self) -> str:
        known = dict.fromkeys(("matrix", "adamw", "frozen", *(e.rule for e in self)))
        rules = [f"{sum(e.rule == rule for e in self)} {rule}" for rule in known]
        return f"<Plan of {len(self)} parameters: {', '.join(rules)}; print() shows it>"

    def __str__(self) -> str:
        return render(self.entries) + (f"\n\n{self.outlook()}" if self.mesh is not None else "")

    def _repr_html_(self) -> str:
        return html.fragment(self)  # notebooks call it

    def to_html(self) -> str:
        """A self-contained page: the numbers that each rule moves, every decision with its reason, the outlook."""
        return html.page(self)

    def outlook(
        self,
        mesh: Any = None,
        optimizer: Any = None,
        *,
        gbps: float | None = None,
        tflops: float | None = None,
        tokens: float | None = None,
        active: float | None = None,
    ) -> Outlook:
        """What a step costs each process of a mesh: matrices, work, bytes, memory, and time if speeds are given.

        Args:
            mesh: As in `plan`; None is the mesh of the plan, or the processes of DDP, or else the largest mesh of its
                sharded parameters.
            optimizer: The optimizer, for its rules and options; None is Muon with its defaults.
            gbps: Gigabits per second that each process sends, and receives at the same time.
            tflops: The speed of each process's matrix products, in 10^12 operations per second.
            tokens: Tokens of all processes in one training step, for the optimizer's share of a step.
            active: Parameters that a token uses; None is all of them.

        Raises:
            TypeError: If `optimizer` is none of matfn.
            ValueError: If there is no mesh, or a number is not above 0.
        """
        mesh = self.mesh if mesh is None else mesh
        if mesh is None and (group := self.processes) is not None:
            mesh = Mesh({"replicate": group.size()}, group)
        return outlook(self.entries, mesh, optimizer, Pace(gbps, tflops, tokens, active))

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: matrices, one for each rule; AdamW with decay; AdamW without (norms, biases, vectors)."""
        matrices: dict[str, list[Entry]] = {"matrix": []}
        for entry in self:
            if entry.is_matrix:
                matrices.setdefault(entry.rule, []).append(entry)
        rest = [entry for entry in self if entry.rule == "adamw" and entry.decays]
        plain = [entry for entry in self if entry.rule == "adamw" and not entry.decays]
        groups = [
            *(
                {"params": _pairs(some), "rule": rule, "layout": [entry.layout for entry in some]}
                for rule, some in matrices.items()
            ),
            {"params": _pairs(rest), "rule": "adamw"},
            {"params": _pairs(plain), "rule": "adamw", "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]


def plan(
    model: nn.Module,
    example: Any = None,
    *,
    overrides: Mapping[Pattern, Override] | None = None,
    qkv: Mapping[Pattern, int | Sequence[int]] | None = None,
    heads: Mapping[Pattern, int] | None = None,
    frozen: str = "leave",
    allow: Collection[str] = (),
    mesh: Any = None,
) -> Plan:
    """Decide for every parameter of a model whether it is orthogonalized, and how it is read as matrices.

    With an example batch the model runs once (twice, if some weights take part in training only), and the autograd
    graph shows what names can only suggest: the heads, the layers that read the data, the blocks of fused projections,
    the order of axes. The model is left as it was: its mode, buffers, gradients and the random numbers.

    Args:
        model: A module, which may be compiled or wrapped in DDP.
        example: One batch, as small as the model takes: a tensor, a tuple of positional arguments, a mapping of keyword
            arguments, or a function from the model to its loss or outputs. If the outputs have a field "loss" that
            is a tensor, it alone counts; else all outputs do. None (the default) reads no graph.
        overrides: {pattern: decision}, stronger than the rules. A decision is "matrix", "adamw", "frozen" (not in the
            optimizer), the name of another rule for matrices (which the optimizer gets in its ``rules=``), a Layout, or
            a function from shape to Layout (see `matfn.optim.layout`). A string pattern is a glob on names, or
            "role:" and a role, such as "role:head", "role:input" or "role:router". An ``re.Pattern`` must match the
            whole name. The first match counts.
        qkv: {pattern: blocks} for fused matrices. `blocks` is the number of rows of each block, as (q, k, v), or the
            number of equal blocks.
        heads: {pattern: number of heads} for projections into heads: each head becomes a matrix. For fused q, k, v give
            the number of query heads; k and v are cut into heads of the same size. The projection out of the heads has
            its heads in the columns: use ``overrides={pattern: lambda shape: linear(shape).tiled(columns=8)}``.
        frozen: "leave" (the default) leaves parameters with ``requires_grad=False`` out of the optimizer. They would
            not train if they were unfrozen later. "keep" gives them the rule they would have, for gradual unfreezing;
            without a gradient an optimizer does not move them.
        allow: Plans that are accepted instead of raising: "embedding" and "head" (an override orthogonalizes one),
            "empty" (nothing is orthogonalized).
        mesh: Processes; the plan then prints what a step costs each of them. A DeviceMesh, on which plain parameters
            are equal, and whose processes own their matrices as under DDP. Or a mesh that need not exist, over which
            plain parameters are taken as spread: "8x8" or (8, 8) is FSDP over 8 times tensor parallel over 8,
            "replicate=2,fsdp=32,tp=8,ep=64" names the axes. Experts are spread over `ep` of the fsdp x tp processes.

    Raises:
        TypeError: If `model` is no module, a hint is no mapping, a pattern or decision has a wrong type, or the example
            is a list.
        PlanError: If no rule knows a parameter of two or more axes, a pattern matches nothing, a cut does not fit, the
            plan needs `allow`, two parameters share a name, a parameter would be lost or is sharded, or the model does
            not run on the example.
    """
    check_arguments(model, overrides, qkv, heads)
    if isinstance(allow, str) or not isinstance(allow, Collection) or not set(allow) <= set(_ALLOW):
        raise PlanError(f"allow must be a collection of {_ALLOW}, got {allow!r}.")
    if frozen not in _FROZEN:
        raise PlanError(f"frozen must be one of {_FROZEN}, got {frozen!r}.")
    spread = None if mesh is None else mesh_of(mesh, "plan: mesh")
    check_example(example)
    found = candidates(model)
    if example is not None:
        found = _informed(found, read_example(model, example))
    recognised = {name: recognise(c) for name, c in found.items()}
    roles = {name: decision.role if decision else "other" for name, decision in recognised.items()}
    refuse_idle_patterns([*(overrides or {}), *(qkv or {}), *(heads or {})], found, roles)
    decided: dict[str, Decision | None] = {}
    for name, c in found.items():
        hints = (first(given, c, roles[name]) for given in (overrides, qkv, heads))
        decided[name] = _decide(name, c, recognised[name], frozen, *hints)
    entries = _entries(found, decided)
    _refuse_mistakes(entries, allow)
    if spread is not None:
        spread.refuse_others(entries)
    return Plan(tuple(entries), weakref.ref(model), spread)


def _informed(found: Mapping[str, Candidate], facts: Mapping[Tensor, Fact]) -> dict[str, Candidate]:
    """The candidates with the facts of the graph. Experts that the example did not choose get the facts of others."""

    def kind(name: str, c: Candidate) -> tuple[object, ...]:
        return (re.sub(r"\d+", "#", name), tuple(c.param.shape))

    alike = {kind(name, c): facts[c.param] for name, c in found.items() if c.param in facts}
    known = {c.param: alike[kind(name, c)] for name, c in found.items() if kind(name, c) in alike} | dict(facts)
    heads = {c.first.place for c in found.values() if c.param in known and known[c.param].place == "head"}
    model = replace(next(iter(found.values())).model, facts=known, heads=heads, read=True)
    return {name: replace(c, model=model) for name, c in found.items()}


def _entries(found: Mapping[str, Candidate], decided: Mapping[str, Decision | None]) -> list[Entry]:
    """One entry per decision. All parameters without a decision are reported in one error."""
    unknown = [
        f"{name} {tuple(c.param.shape)} of {type(c.first.module).__name__}"
        for name, c in found.items()
        if decided[name] is None
    ]
    if unknown:
        raise PlanError(
            "no rule knows these parameters. Pass an example batch, plan(model, example), which shows their use, or "
            'plan(model, overrides={pattern: decision}) with a decision "matrix", "adamw", "frozen" or a Layout for '
            "each:\n  " + "\n  ".join(unknown)
        )
    return [
        Entry(name, found[name].param, d.role, d.rule, d.layout, d.reason, d.certainty, d.look)
        for name, d in decided.items()
        if d
    ]


def _decide(
    name: str,
    c: Candidate,
    found: Decision | None,
    frozen: str,
    override: Override | None,
    blocks: int | Sequence[int] | None,
    heads: int | None,
) -> Decision | None:
    """The decision for one parameter: frozen, else the override, else the hint, else the rules; or None."""
    role = found.role if found else "other"
    if not c.param.requires_grad and frozen == "leave":
        return Decision(role, "frozen", None, 'requires_grad is False: left out; frozen="keep" keeps it')
    if override in ("adamw", "frozen"):
        return Decision(role, str(override), None, "by override", "told")
    if override is None and blocks is None and heads is None:
        if found is not None and not c.param.requires_grad:
            return replace(found, reason=f"frozen now; {found.reason}")
        return found
    rule, matrix = override if isinstance(override, str) else "matrix", as_matrix(c)
    if found is not None and found.certainty == "guess" and found.layout is None and matrix is not None:
        role = matrix.role  # the guess was a head; the user says that it is a matrix
    if blocks is not None and matrix is not None:
        found = matrix  # the hint cuts all rows, not those of one repeat
    try:
        layout = _layout(c, override, found)
        layout = layout if blocks is None else layout.cut(blocks)
        if heads is not None:
            return Decision(role, rule, _by_head(layout, heads, role), "each head apart, by the heads= hint", "told")
    except ValueError as error:
        raise PlanError(f"parameter {name!r}: {error}") from error
    if blocks is not None:
        return Decision("qkv", rule, layout, "cut by the qkv= hint", "told")
    assumed = found is None and isinstance(override, str) and c.param.ndim == 3
    return Decision(role, rule, layout, "by override" + (", read as (number, out, in)" if assumed else ""), "told")


def _by_head(layout: Layout, heads: int, role: str) -> Layout:
    """The layout with one matrix per head. The first row block holds `heads` heads, which gives the height of all."""
    if layout.outer or (role == "qkv" and len(layout.cuts) == 1):
        raise ValueError(
            "q, k and v are interleaved by head, so heads= would put the q, k and v of a head into one matrix. "
            f"Cut all of them with qkv={{...: {3 * heads}}}."
        )
    height, left = divmod(layout.cuts[0], heads)
    if left or not height or any(cut % height for cut in layout.cuts):
        raise ValueError(f"row blocks of {layout.cuts} cannot be cut into heads of one size, {heads} in the first.")
    return layout.tiled(rows=sum(layout.cuts) // height)


def _layout(c: Candidate, override: Override | None, found: Decision | None) -> Layout:
    """The layout of a matrix parameter: from the override, else from the rules, else from the number of axes."""
    shape = tuple(c.param.shape)
    if callable(override):
        made: object = override(shape)
        if not isinstance(made, Layout):
            raise ValueError(f"the override's function must return a Layout, but for {shape} it returned {made!r}.")
        override = made
    if isinstance(override, Layout):
        if override.shape != shape:
            raise ValueError(f"the override is a layout for shape {override.shape}, the parameter has {shape}.")
        return override
    if isinstance(override, str) and override != "matrix":
        meant = difflib.get_close_matches(override.lower(), ("matrix", "adamw", "frozen"), n=1)
        if meant or not override.isidentifier():
            raise ValueError(
                f'an override is "matrix", "adamw", "frozen", a rule\'s name, a Layout or a function; got {override!r}'
                + (f", did you mean {meant[0]!r}?" if meant else ".")
            )
    known = found if found is not None and found.layout is not None else as_matrix(c)
    if known is not None and known.layout is not None:
        return known.layout
    if len(shape) < 2:
        raise ValueError(f"shape {shape} has fewer than two axes, so it is no matrix.")
    return stack(shape) if len(shape) == 3 else linear(shape)


def _refuse_mistakes(entries: Sequence[Entry], allow: Collection[str]) -> None:
    """Raise for an orthogonalized embedding or head, and for a plan without matrices, unless `allow` names it."""
    for entry in entries:
        needed = _NEEDS_ALLOW.get(entry.role)
        if entry.is_matrix and needed and needed not in allow:
            raise PlanError(
                f"{entry.name} has the role {entry.role!r}, and an override or hint would orthogonalize it. Rare and "
                f'frequent tokens would then move alike. If you want this, pass allow=("{needed}",).'
            )
    if "empty" not in allow and not any(entry.is_matrix for entry in entries):
        raise PlanError(
            f"nothing would be orthogonalized:\n{render(entries)}\nUnfreeze weights that shall train, name "
            'matrices in overrides=, or pass allow=("empty",).'
        )


def _pairs(entries: Sequence[Entry]) -> list[tuple[str, Tensor]]:
    return [(entry.name, entry.parameter) for entry in entries]
