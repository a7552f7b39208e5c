"""Needs: what the plan of the exchange must know of a matrix parameter, from its optimizer, without its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .matrices.buckets import working_dtype
from .matrices.exchange_plan import Matrix, Split, aligned
from .matrices.layout import linear
from .matrices.padding import work
from .rules.polar import Polar
from .state import kinds_of

if TYPE_CHECKING:
    from .member import Member
    from .optimizer import MatrixOptimizer

__all__ = ["group_lines", "member_line", "needs", "rule_state"]


def needs(
    optimizer: "MatrixOptimizer",
    group: Mapping[str, Any],
    name: str,
    param: Tensor,
    mesh: Sequence[int],
    placements: tuple[Split | None, ...],
    device: torch.device,
    *,
    sharded: bool,
) -> tuple[Matrix, torch.dtype]:
    """What the plan of the exchange must know of a parameter, and the dtype in which its matrices travel.

    Args:
        optimizer: The optimizer, which knows the layout of the parameter.
        group: The options of the parameter's group.
        name: The name of the parameter.
        param: The parameter, which may be on the meta device.
        mesh: The sizes of the mesh axes.
        placements: For each mesh axis how it cuts the parameter.
        device: Where the matrices are computed.
        sharded: Whether the parameter is a DTensor, so that state of the matrix rules stays with the owner.
    """
    layout, dtype = optimizer.layouts[param], working_dtype(param)
    rules, state = optimizer.lender(group["rule"]).chain[1:], rule_state(optimizer, param, group)
    _, m, n = layout.matrices[0]
    wire = rules[0].wire((m, n), dtype, device)
    cut = {s.axis for s, size in zip(placements, mesh, strict=True) if s is not None and size > 1}
    kinds = [kinds_of(rules, shape, group) for shape in layout.shapes]
    sides = [kind[1] for each in kinds for kind in each.values() if not isinstance(kind, str)]
    numbered = 0 in layout.batch and layout.split[0] == layout.shape[0]
    # Replicas of whole matrices share them out, unless rules keep state, which is placed as the matrices are.
    copies = any(split is None and size > 1 for split, size in zip(placements, mesh, strict=True))
    batched = cut == {0} and numbered and (bool(state) or not copies)
    polar = rules[0] if len(rules) == 1 and layout == linear(layout.shape) and m and n else None
    gram = isinstance(polar, Polar) and polar.bears_gram((m, n), dtype, device)
    matrix = Matrix(
        name,
        tuple(param.shape),
        placements,
        itemsize=wire.itemsize,
        work=sum(b * work(m, n) for b, m, n in layout.matrices),
        tensors=1 + any(rule.reads_gradients for rule in rules),
        extra=0 if sharded else sum(aligned(math.prod(s) * d.itemsize) for s, d in state.values()),
        # Under DDP every process keeps the factors of Shampoo and SOAP, which are larger than what they save.
        whole=batched and not sides if sharded else max(sides, default=1) > 1,
        gram=gram,
        symmetric=gram and isinstance(polar, Polar) and polar.symmetric((m, n), dtype, device),
        width=dtype.itemsize,
        stack=numbered and not state,
    )
    return matrix, wire


def rule_state(
    optimizer: "MatrixOptimizer", param: Tensor, group: Mapping[str, Any]
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """{key: (shape, dtype)} of the state of the matrix rules of a parameter."""
    layout, rules = optimizer.layouts[param], optimizer.lender(group["rule"]).chain[1:]
    kept = {key for shape in layout.shapes for key, kind in kinds_of(rules, shape, group).items() if kind != "counter"}
    like = optimizer.state_like(param, group)
    return {key: (shape, dtype) for key, (shape, dtype) in like.items() if key in kept and dtype is not None}


def group_lines(optimizer: "MatrixOptimizer", index: int) -> tuple[str, str]:
    """Two lines with the rules and the options of a group. They are equal on processes that compute the same."""
    group = optimizer.param_groups[index]
    plain = {key: value for key, value in group.items() if key not in ("params", "param_names", "rule")}
    options = ", ".join(f"{key}={_shown(plain[key])}" for key in sorted(plain))
    chain = "torch's AdamW" if group["rule"] == "adamw" else _shown(optimizer.lender(group["rule"]).chain)
    return f"group {index} with the rule {group['rule']!r}: {chain}", f"group {index} with {options}"


def member_line(name: str, param: Tensor, rule: str, member: "Member | None") -> str:
    """A line with what the plan of the exchange knows of a parameter; `member` is None for a rule without matrices."""
    placements = tuple(getattr(param, "placements", ()))
    line = f"{name} of shape {tuple(param.shape)} in {param.dtype}, rule {rule!r}, placements {placements}"
    if member is None:
        return line
    matrix = member.matrix
    return (
        f"{line}, read as {member.layout.matrices}, {matrix.tensors} x {matrix.itemsize} bytes an entry in messages "
        f"of {member.wire}, {matrix.extra} bytes of state, work {matrix.work:g}, whole={matrix.whole}, "
        f"gram={matrix.gram}, symmetric={matrix.symmetric}, width={matrix.width}, stack={matrix.stack}"
    )


def _shown(value: Any, depth: int = 3) -> str:
    """A value as text without addresses: an object whose text is an address by its type and public attributes.

    Attributes that are None or False are left out.
    """
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_shown(each, depth) for each in value)})"
    text = "" if isinstance(value, Tensor) else repr(value)
    known = value if isinstance(value, dict) else getattr(value, "__dict__", {}) if " at 0x" in text else None
    if text and known is None:
        return text
    public = {k: v for k, v in (known or {}).items() if v is not None and v is not False and str(k)[0] != "_"}
    inner = ", ".join(f"{k}={_shown(v, depth - 1)}" for k, v in public.items() if depth)
    return f"{getattr(value, '__qualname__', type(value).__name__)}({inner})"
