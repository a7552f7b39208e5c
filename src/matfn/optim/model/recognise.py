"""Rules that recognise a parameter by its module, the graph of an example, its name and its shape, and give the reason.

A rule is a function from a `Candidate` to a `Decision`, or to None if it does not apply. The first decision in the
order of `RULES` counts. If no rule knows a parameter of two or more axes, the user must decide (plan.py). A decision
that rests on a guess, or on which the sources disagree, wants a look.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..matrices.layout import Layout, convolution, linear, stack, transposed, transposed_convolution, transposed_stack
from .candidate import Candidate, Decision, place_of
from .families import ADAPTER, FUSED, INPUT, KNOWN, ROUTER, STATE, TABLE, Known
from .heads import head, is_open_end
from .places import Fact

__all__ = ["as_matrix", "recognise"]

_BIAS = re.compile(r"(^|_)bias(es)?(_|$)")
_ORDERS = "assumed (number, out, in); else overrides={name: transposed_stack}"


def _reparametrized(c: Candidate) -> Decision | None:
    """Parameters from which a weight is computed. weight_norm, spectral_norm and pruning keep theirs a matrix."""
    made = c.first.made
    names = (*c.first.path.split("."), c.first.leaf)
    if c.long > 1 and (adapter := next((name for name in names if re.fullmatch(ADAPTER, name)), None)):
        return Decision("parametrized", "adamw", None, f"{adapter} of an adapter: not the matrix itself", "name")
    if made.startswith("the magnitudes of"):
        return Decision("gain", "adamw", None, made)
    if not made or made in ("weight_norm", "spectral_norm", "a pruned weight"):
        return None
    what = "an orthogonal weight" if made == "orthogonal" else f"a weight computed by {made}"
    reason = f"parameter of {what}: not the matrix itself"
    return Decision("parametrized", "adamw", None, reason, look=made != "orthogonal")


def _embedding(c: Candidate) -> Decision | None:
    tables = [o for o in c.owners if o.is_a(r"\w*Embedding(Bag)?") and o.leaf == "weight" and c.param.ndim == 2]
    output = c.fact is not None and c.fact.kind == "both" and c.fact.place != "hidden"
    if tables and (len(c.owners) > len(tables) or output):
        by = "graph" if output else "class"
        return Decision("tied head", "adamw", None, "shared by embedding and output", by)
    if tables:
        return Decision("embedding", "adamw", None, "rows are looked up by token")
    if re.search(r"(^|\.)lora_embedding_[AB](\.|$)", c.first.path):
        return Decision("embedding", "adamw", None, "LoRA of an embedding")
    if c.fact is not None and c.fact.kind == "lookup" and c.param.ndim == 2:
        return Decision("embedding", "adamw", None, "the example looks up its rows", "graph")
    return None


def _vector(c: Candidate) -> Decision | None:
    if c.first.is_a(r"\w*Norm(\d?d)?"):
        return Decision("norm", "adamw", None, "gain or bias of a norm")
    if _BIAS.search(c.first.leaf) and not c.is_layer:
        return Decision("bias", "adamw", None, "bias")
    if c.param.ndim < 2:
        return Decision("vector", "adamw", None, "no matrix: fewer than two axes")
    if not (c.fact is not None and c.fact.kind == "product") and (table := _table(c)) is not None:
        return table
    if c.long < 2 and not c.is_layer:
        return Decision("vector", "adamw", None, "no matrix: at most one axis is longer than 1")
    return None


def _table(c: Candidate) -> Decision | None:
    """A raw parameter that is called a table or a token, or lies in a module that is."""
    if c.first.leaf == "weight":
        return None
    called = next((name for name in (c.first.leaf, *c.first.parts[-1:]) if re.search(TABLE, name)), None)
    return (
        None if called is None else Decision("position", "adamw", None, f"an embedding by its name ({called})", "name")
    )


def _elementwise(c: Candidate) -> Decision | None:
    """Raw parameters that act entry by entry, or are data. The weight of a layer stays a matrix."""
    if c.is_layer or isinstance(c.first.module, nn.modules.conv._ConvNd):
        return None
    if c.fact is not None and c.fact.kind == "elementwise":
        return Decision("gain", "adamw", None, "acts entry by entry in the example", "graph")
    if c.fact is not None and c.fact.kind == "token":
        return Decision("position", "adamw", None, "is data of a product in the example, as learned queries", "graph")
    if c.fact is None and re.fullmatch(STATE, c.first.leaf) and c.param.ndim <= 3:
        return Decision("gain", "adamw", None, f"acts entry by entry, by its name ({c.first.leaf})", "name")
    return None


def _attention(c: Candidate) -> Decision | None:
    if c.first.is_a("MultiheadAttention") and c.first.leaf == "in_proj_weight":
        return Decision("qkv", "matrix", linear(c.param.shape).cut(3), "q, k, v of MultiheadAttention")
    if c.first.is_a("MultiheadAttention") and re.fullmatch("[qkv]_proj_weight", c.first.leaf):
        return Decision("linear", "matrix", linear(c.param.shape), "projection of MultiheadAttention")
    return None


def _linear(c: Candidate) -> Decision | None:
    if not c.is_layer and c.param.ndim == 2 and re.search(r"(^|\.)lora_[AB]$", c.first.path):
        return Decision("linear", "matrix", linear(c.param.shape), "factor of a low rank adapter, stored (out, in)")
    if isinstance(c.first.module, nn.Bilinear) and c.first.leaf == "weight":
        return Decision("linear", "matrix", linear(c.param.shape), "bilinear, (out, in x in)")
    if not c.is_layer or c.param.ndim != 2:
        return None
    if c.first.is_a("Conv1D"):
        return Decision("linear", "matrix", transposed(c.param.shape), "Conv1D, stored (in, out)")
    return Decision("linear", "matrix", linear(c.param.shape), "stored (out, in)")


def _convolution(c: Candidate) -> Decision | None:
    module = c.first.module
    if not isinstance(module, nn.modules.conv._ConvNd) or c.first.leaf != "weight":
        return None
    groups = module.groups
    if groups > 1 and module.in_channels == groups:
        return Decision("depthwise", "adamw", None, "one filter per channel: no matrix")
    layout = transposed_convolution if module.transposed else convolution
    reason = "transposed convolution" if module.transposed else "convolution"
    each = f", one for each of {groups} groups" if groups > 1 else ""
    return Decision("conv", "matrix", layout(c.param.shape, groups), f"{reason}, (out, in x kernel){each}")


def _recurrent(c: Candidate) -> Decision | None:
    module = c.first.module
    if not isinstance(module, nn.RNNBase | nn.RNNCellBase) or not c.first.leaf.startswith("weight_"):
        return None
    layout = linear(c.param.shape)
    if c.first.leaf.startswith("weight_hr"):
        return Decision("linear", "matrix", layout, "projection of an LSTM")
    gates = c.param.shape[0] // module.hidden_size
    return Decision("gates", "matrix", layout.cut(gates), f"{gates} gates stacked" if gates > 1 else "recurrent weight")


def _used(c: Candidate) -> Decision | None:
    """A raw parameter whose output and input axes the graph shows."""
    stacked = int(c.param.ndim == 3 and _beside_experts(c))  # how many first axes number matrices
    layout = None if c.fact is None else _layout_of(c.fact, tuple(c.param.shape), stacked)
    if layout is None:
        return None
    number = "(number, out, in)" if layout == stack(c.param.shape) else "(out, in)"
    if layout not in (stack(c.param.shape), linear(c.param.shape)):
        number = "(number, in, out)" if layout == transposed_stack(c.param.shape) else "with its outputs last"
    role = "expert" if layout.batch and stacked else "linear"
    reason = f"stored {number}, by its use in the example"
    if c.param.ndim == 2 and _beside_experts(c):
        reason = f"perhaps several experts in one parameter, taken whole: cut it with overrides=; {reason}"
        return Decision("expert", "matrix", layout, reason, "guess", look=True)
    return Decision(role, "matrix", layout, reason, "graph")


def _layout_of(fact: Fact, shape: tuple[int, ...], stacked: int) -> Layout | None:
    """The layout with the axes that the graph shows; axes that are neither output nor input number matrices.

    The first axis of experts numbers them also where one product computes all of them.
    """
    rows = tuple(axis for axis in fact.rows if axis >= stacked)
    if not rows or not fact.columns or set(rows) & set(fact.columns):
        return None
    batch = tuple(axis for axis in range(len(shape)) if axis not in (*rows, *fact.columns))
    return Layout(shape, shape, batch, rows[-1], fact.columns, (), rows[:-1])


def _experts(c: Candidate) -> Decision | None:
    if c.param.ndim != 3 or not _beside_experts(c):
        return None
    if getattr(c.first.module, "is_transposed", False):
        return Decision("expert", "matrix", transposed_stack(c.param.shape), "stored (number, in, out)")
    ordered = _order(c)
    if ordered is not None:
        return Decision("expert", "matrix", *ordered, "name")
    return Decision("expert", "matrix", stack(c.param.shape), _ORDERS, "guess", look=True)


def _beside_experts(c: Candidate) -> bool:
    where = f"{c.first.path}.{c.first.leaf} {type(c.first.module).__name__}"
    return re.search("expert|moe", where, re.IGNORECASE) is not None


def _order(c: Candidate) -> tuple[Layout, str] | None:
    """The axes of experts by a bias as long as the output, or by the neighbour that projects back; None if open."""
    held, shape = c.first.module._parameters, tuple(c.param.shape)
    bias = held.get(f"{c.first.leaf}_bias")
    others = [tuple(p.shape) for p in held.values() if p is not None and p.ndim == 3 and p is not c.param]
    orders = [order for order in ((1, 2), (2, 1)) if _agrees(shape, order, others)]
    if bias is not None and shape[1] != shape[2] and bias.shape[-1] in shape[1:]:
        orders = [order for order in ((1, 2), (2, 1)) if shape[order[0]] == bias.shape[-1]]
    if len(orders) != 1:
        return None
    if orders[0] == (1, 2):
        return stack(shape), "stored (number, out, in), by the shapes beside it"
    return transposed_stack(shape), "stored (number, in, out), by the shapes beside it"


def _agrees(shape: tuple[int, ...], order: tuple[int, int], others: list[tuple[int, ...]]) -> bool:
    """Whether another weight projects back, if (output, input) are the axes `order`. Gate and up may be one weight."""
    out, n = (shape[axis] for axis in order)
    back = [tuple(other[axis] for axis in order) for other in others]
    return any(
        out_2 in (n, 2 * n) and out in (n_2, 2 * n_2) and (out_2, out) != (2 * n, 2 * n_2) for out_2, n_2 in back
    )


def _router(c: Candidate, found: Decision) -> Decision:
    """The role of a layer that chooses experts, or that reads the data."""
    if found.role not in ("linear", "conv") or found.layout is None:
        return found
    last = c.first.parts[-1] if c.first.parts else ""
    children = dict(c.first.parent.named_children()) if c.first.parent is not None else {}
    near = any(re.search("expert", f"{name} {type(m).__name__}", re.IGNORECASE) for name, m in children.items())
    raw = c.first.parent._parameters.values() if c.first.parent is not None else ()
    near = near or any(p is not None and p.ndim == 3 and p.shape[0] == c.param.shape[0] for p in raw)
    if c.first.is_a(r"\w*(Router|TopKGate)") or (near and re.fullmatch(ROUTER, last)):
        return replace(found, role="router", reason=f"chooses experts; {found.reason}")
    if c.fact is not None and c.fact.kind == "product" and c.fact.shallow and "lora_" not in c.first.path:
        return replace(found, role="input", reason=f"reads the data; {found.reason}", certainty="graph")
    if not c.model.read and _reads_by_name(c):
        return replace(found, role="input", reason=f"reads the data, by its name; {found.reason}", certainty="name")
    return found


def _reads_by_name(c: Candidate) -> bool:
    """Whether a layer is called an input, or is the first of a container that is."""
    found = re.fullmatch(INPUT, c.first.place)
    if found is None or not (within := found.groupdict().get("rest")):
        return found is not None
    above = c.first.place.removesuffix(within)
    return next(path for path in c.model.shapes if f"{place_of(path)}.".startswith(f"{above}.")) == c.first.path


def _fused(c: Candidate, found: Decision) -> Decision:
    """The matrices of a projection that holds several: by the graph, else by its class, else by name and shapes."""
    if found.role not in ("linear", "conv", "expert", "input", "router") or found.layout is None:
        return found
    last = c.first.parts[-1] if c.first.parts and c.first.leaf == "weight" else c.first.leaf
    names = [last, *(part for part in c.first.parts[-2:-1] if not _neighbours(c))]  # qkv, or the one layer in a qkv
    known = [(name, count) for name in names for pattern, count in FUSED.items() if re.fullmatch(pattern, name)]
    last, count = known[0] if known else (last, None)
    qkv = "qkv" if re.search("qkv|key_value|c_attn|W_pack", last) else "fused"
    role = found.role if found.role in ("expert", "input", "router") else qkv
    if "lora_A" in c.first.path:
        return found
    if c.fact is not None and c.fact.kind in ("product", "both"):
        return _cut_by_graph(c, found, role, count)
    row = next((row for row in KNOWN if _fits(row, c, last)), None)
    if row is not None:
        return _cut_by_class(c, found, role, row)
    return _perhaps(c, found) if count is None else _cut_by_name(c, found, role, count)


def _cut_by_class(c: Candidate, found: Decision, role: str, known: Known) -> Decision:
    repeats = known.repeats if isinstance(known.repeats, int) else _attribute(_holder(c), known.repeats)
    count = repeats if isinstance(repeats, int) else 0
    layout = None if found.layout is None else _cut(found.layout, known.blocks, count)
    if layout is None:
        reason = f"{known.blocks} blocks in each head by its class, but their number is not clear: taken whole"
        return replace(found, role=role, reason=f"{reason}; {found.reason}", certainty="guess", look=True)
    named = "q, k, v" if known.blocks == 3 else "k, v" if role == "qkv" else "gate and up"
    how = f" in each of {count} repeats" if count > 1 else ""
    return replace(found, role=role, layout=layout, reason=f"{named}{how}, by its class; {found.reason}")


def _cut_by_graph(c: Candidate, found: Decision, role: str, count: int | None) -> Decision:
    cut = c.fact.cut if c.fact is not None else None
    if cut is None:
        if count is None:
            return found
        reason = f"{found.reason}; named like a fused matrix, but the example takes its output whole"
        return replace(found, reason=reason, certainty="graph", look=True)
    layout = _cut(found.layout, cut.sizes, cut.repeats) if found.layout is not None else None
    if layout is None and found.layout is not None and found.layout.matrices[0][0] == cut.repeats:
        layout = _cut(found.layout, cut.sizes, 1)  # one product computed all matrices, one after the other
    sizes = ", ".join(str(size) for size in cut.sizes[:6]) + (", ..." if len(cut.sizes) > 6 else "")
    how = f" in each of {cut.repeats} repeats" if cut.repeats > 1 else ""
    if layout is None:
        reason = f"{found.reason}; the example cuts its output into {sizes}{how}: taken whole"
        return replace(found, reason=reason, look=True)
    reason = f"the example cuts its output into {sizes}{how}; {found.reason}"
    return replace(found, role=role, layout=layout, reason=reason, certainty="graph")


def _cut(layout: Layout, sizes: int | tuple[int, ...], repeats: int) -> Layout | None:
    """The layout with its rows cut, or None if this cut does not fit."""
    total = layout.split[layout.rows]
    if repeats < 1 or total % repeats or (not isinstance(sizes, int) and sum(sizes) * repeats != total):
        return None
    try:
        return layout.cut(sizes, repeats)
    except ValueError:
        return None


def _fits(row: Known, c: Candidate, layer: str) -> bool:
    holder = _holder(c)
    classes = type(holder).__mro__
    if not re.fullmatch(row.layer, layer) or not any(
        re.fullmatch(row.parent, f"{cls.__module__}.{cls.__name__}") for cls in classes
    ):
        return False
    if row.unless and _attribute(holder, row.unless):
        return False
    return not row.when or bool(_attribute(holder, row.when))


def _holder(c: Candidate) -> nn.Module | None:
    """The module that holds a layer, or that holds a raw parameter."""
    return c.first.parent if c.first.leaf == "weight" else c.first.module


def _attribute(module: nn.Module | None, name: str) -> object:
    """An attribute of a module or of its config."""
    for holder in (module, getattr(module, "config", None)):
        value = getattr(holder, name, None)
        if value is not None and not isinstance(value, nn.Module):
            return value
    return None


def _cut_by_name(c: Candidate, found: Decision, role: str, count: int) -> Decision:
    """A cut by name, if the shapes of the weight and its neighbours agree. Whether heads interleave is not known."""
    assert found.layout is not None
    _, m, n = found.layout.matrices[0]
    beside = _neighbours(c)
    advice = "an example shows its blocks, or cut it with qkv="
    plain = count == 3 and m == 3 * n and role == "qkv" and m not in beside
    if count and m % count == 0 and (m // count in beside or plain):
        reason = f"{count} blocks by name and shapes, assumed one after the other; {advice}"
        return replace(found, role=role, layout=found.layout.cut(count), reason=reason, certainty="guess", look=True)
    if m in beside:
        return found  # a neighbour reads the whole output: no fused matrix
    role = role if role == "qkv" else found.role
    return replace(found, role=role, reason=f"fused by name, taken whole: {advice}", certainty="guess", look=True)


def _perhaps(c: Candidate, found: Decision) -> Decision:
    """Mark a layer as perhaps fused: a neighbour reads a half or a third of its output, and none reads all of it."""
    layer = found.role in ("linear", "conv") and c.is_layer and bool(c.first.parts[1:])
    if found.layout is None or not (layer or found.role == "expert"):
        return found
    m = c.model.shapes[c.first.path][0] if layer else found.layout.matrices[0][1]
    above = c.first.place.rpartition(".")[0].rpartition(".")[0]
    beside = _neighbours(c)
    if not beside and found.role == "linear":
        beside = set(c.model.inside.get(above, {}).values())
    parts = [count for count in (2, 3) if m % count == 0 and m // count in beside]
    if m in beside or not parts:
        return found
    reason = f"{found.reason}; perhaps {parts[0]} matrices by the shapes beside it, taken whole: an example shows it"
    return replace(found, reason=reason, certainty="guess", look=True)


def _neighbours(c: Candidate) -> set[int]:
    """The numbers of inputs of the other weights in the same module."""
    if c.param.ndim == 3:
        held = [p for p in c.first.module._parameters.values() if p is not None and p.ndim == 3 and p is not c.param]
        return {size for p in held for size in p.shape[1:]} - ({c.param.shape[2]} if len(held) != 1 else set())
    above = c.first.place.rpartition(".")[0]
    return {n for place, n in c.model.inside.get(above, {}).items() if place != c.first.place}


Rule = Callable[[Candidate], Decision | None]
MATRICES: tuple[Rule, ...] = (_linear, _convolution, _recurrent, _used, _experts)
RULES: tuple[Rule, ...] = (_reparametrized, _embedding, _vector, _attention, head, _elementwise, *MATRICES, _table)


def as_matrix(c: Candidate) -> Decision | None:
    """The decision for a parameter as a matrix, whatever its place; None if no rule knows its layout."""
    return next((found for rule in MATRICES if (found := rule(c)) is not None), None)


def recognise(candidate: Candidate) -> Decision | None:
    """The first decision that a rule makes, or None if no rule knows the parameter."""
    decided = next((found for rule in RULES if (found := rule(candidate)) is not None), None)
    if candidate.param.is_complex() and (decided is None or decided.layout is not None):
        role = decided.role if decided is not None else "other"
        return Decision(role, "adamw", None, "complex; the matrix rule is for real matrices")
    if decided is None or decided.layout is None:
        return decided
    if all(min(b, m, n) == 0 for b, m, n in decided.layout.matrices):
        return Decision(decided.role, "adamw", None, "no entries")
    decided = _fused(candidate, _router(candidate, decided))
    assert decided.layout is not None
    if all(min(m, n) <= 1 for _, m, n in decided.layout.matrices):
        return Decision(decided.role, "adamw", None, "one row or column: no matrix", decided.certainty)
    if candidate.first.made:
        decided = replace(decided, reason=f"parameter of {candidate.first.made}; {decided.reason}")
    if is_open_end(candidate):
        note = 'the last layer, or no layer reads its output: if it is the output, "adamw" by overrides='
        return replace(decided, reason=f"{decided.reason}; {note}", certainty="guess", look=True)
    if candidate.fact is not None and candidate.fact.place == "hidden" and decided.certainty in ("class", "name"):
        decided = replace(decided, certainty="graph")
    note = candidate.fact.note if candidate.fact is not None else ""
    if note and not (note.startswith("perhaps") and candidate.first.numbered):
        decided = replace(decided, reason=f"{note}; {decided.reason}", look=True)
    if candidate.model.read and candidate.fact is None:
        decided = replace(decided, reason=f"the example does not reach it; {decided.reason}", look=True)
    return decided
