"""Rules that recognise a parameter by its module, its name and its shape, and give the reason.

A rule is a function from a `Candidate` to a `Decision`, or to None if it does not apply. The first decision in the
order of `RULES` counts. If no rule knows a parameter of two or more axes, the user must decide (plan.py). The rules
assume one thing, and the plan says so: expert weights of three axes are (number, out, in).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..matrices.layout import Layout, convolution, linear, stack, transposed, transposed_convolution, transposed_stack

__all__ = ["RULES", "Candidate", "Decision", "Model", "Owner", "is_linear", "recognise"]


@dataclass(frozen=True)
class Owner:
    """A module that holds a parameter: the module's path, the parameter's name in it, the module, its parent."""

    path: str
    leaf: str
    module: nn.Module
    parent: nn.Module | None

    @property
    def parts(self) -> list[str]:
        """The names along the path."""
        return self.path.split(".") if self.path else []

    @property
    def numbered(self) -> bool:
        """Whether a name along the path is a number, as in the blocks of a network."""
        return any(part.isdigit() for part in self.parts)

    def is_a(self, pattern: str) -> bool:
        """Whether the name of the module's class, or of a base class, matches as a whole."""
        return _named(self.module, pattern)


@dataclass(frozen=True)
class Model:
    """Facts about the whole model: shapes of embeddings, the last linear layer, the last one in each container."""

    embeddings: frozenset[tuple[int, ...]] = frozenset()
    last_linear: str = ""
    last_linear_in: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A parameter, all modules that hold it, and the facts about the model."""

    param: Tensor
    owners: tuple[Owner, ...]
    model: Model

    @property
    def first(self) -> Owner:
        """The module that gives the parameter its name."""
        return self.owners[0]


@dataclass(frozen=True)
class Decision:
    """The role of a parameter, the rule that moves it, its layout as matrices, and the reason."""

    role: str
    rule: str
    layout: Layout | None
    reason: str


_RAW_EMBEDDING = re.compile(
    r"(^|_)(pos|position|positional|cls|class|tokens?|emb|embed|embeds|embeddings?|prompt)(_|$)"
)
_BIAS = re.compile(r"(^|_)bias(es)?(_|$)")
_HEAD = re.compile(r"(lm_?|out_|.*_)?heads?|classifier|unembed(ding)?|embed_out|(to_)?logits|score")
_HEAD_AT_ROOT = re.compile(r"output(_layer|_proj|_projection)?|out|final(_layer)?|fc")
_THIRDS = re.compile(r"(to_|w|W)?qkv(_proj)?|c_attn|(attn_)?in_proj|W_pack")
_ASSUMED = "assumed (number, out, in); else overrides={name: transposed_stack}"
# Their rows go head by head (q, k, v of head 0, then q, k, v of head 1, ...), so a cut into thirds would mix heads.
_INTERLEAVED = r"(GPTBigCode|CodeGen|InternLM2|GPTNeoX|Bloom|Falcon|Persimmon|ChatGLM|Glm)\w*Attention"


def _embedding(c: Candidate) -> Decision | None:
    tables = [o for o in c.owners if o.is_a(r"\w*Embedding(Bag)?") and o.leaf == "weight" and c.param.ndim == 2]
    if tables and len(c.owners) > len(tables):
        return Decision("tied head", "adamw", None, "shared by embedding and output")
    if tables:
        return Decision("embedding", "adamw", None, "rows are looked up by token")
    if c.first.leaf != "weight" and _RAW_EMBEDDING.search(c.first.leaf):
        return Decision("position", "adamw", None, f"an embedding by its name ({c.first.leaf})")
    return None


def _vector(c: Candidate) -> Decision | None:
    if c.first.is_a(r"\w*Norm(\d?d)?"):
        return Decision("norm", "adamw", None, "gain or bias of a norm")
    if _BIAS.search(c.first.leaf):
        return Decision("bias", "adamw", None, "bias")
    if c.param.ndim < 2:
        return Decision("vector", "adamw", None, "no matrix: fewer than two axes")
    return None


def _attention(c: Candidate) -> Decision | None:
    if c.first.is_a("MultiheadAttention") and c.first.leaf == "in_proj_weight":
        return Decision("qkv", "matrix", linear(c.param.shape).cut(3), "q, k, v of MultiheadAttention")
    if c.first.is_a("MultiheadAttention") and re.fullmatch("[qkv]_proj_weight", c.first.leaf):
        return Decision("linear", "matrix", linear(c.param.shape), "projection of MultiheadAttention")
    return None


def _head(c: Candidate) -> Decision | None:
    owner = c.first
    if not _is_linear(c) or not owner.parts:
        return None
    name, above = owner.parts[-1], ".".join(owner.parts[:-1])
    if not owner.numbered and _HEAD.fullmatch(name):
        return Decision("head", "adamw", None, f"output by its name ({name})")
    if len(owner.parts) == 1 and _HEAD_AT_ROOT.fullmatch(name):
        return Decision("head", "adamw", None, f"output by its name ({name}, at the root)")
    in_head = name.isdigit() and above and _HEAD.fullmatch(owner.parts[-2]) and not re.search(r"(^|\.)\d+(\.|$)", above)
    if in_head and c.model.last_linear_in.get(above) == owner.path:
        return Decision("head", "adamw", None, f"last layer of the output ({above})")
    outside = not owner.numbered or owner.path == c.model.last_linear
    if outside and tuple(c.param.shape) in c.model.embeddings:
        return Decision("head", "adamw", None, "output by its shape, the embedding's")
    return None


def _linear(c: Candidate) -> Decision | None:
    name = c.first.parts[-1] if c.first.parts else ""
    if c.first.is_a("Conv1D") and hasattr(c.first.module, "nf") and c.first.leaf == "weight":
        return _maybe_fused(c, name, transposed(c.param.shape), "Conv1D, stored (in, out)")
    if _is_linear(c):
        last = len(c.first.parts) == 1 and c.first.path == c.model.last_linear
        note = '; the last layer: if it is the output, "adamw" by overrides=' if last else ""
        return _maybe_fused(c, name, linear(c.param.shape), f"stored (out, in){note}")
    return None


def _maybe_fused(c: Candidate, name: str, layout: Layout, reason: str) -> Decision:
    """A linear weight. It is cut into q, k and v if name and shape leave no doubt."""
    _, m, n = layout.matrices[0]
    if name == "query_key_value" or (_THIRDS.fullmatch(name) and _named(c.first.parent, _INTERLEAVED)):
        return Decision("qkv", "matrix", layout, "q, k, v interleaved by head: taken whole")
    if _THIRDS.fullmatch(name) and m == 3 * n:
        return Decision("qkv", "matrix", layout.cut(3), f"q, k, v by name and shape; {reason}")
    if _THIRDS.fullmatch(name):
        return Decision("linear", "matrix", layout, "fused by name, but out != 3 in: taken whole; cut it with qkv=")
    return Decision("linear", "matrix", layout, reason)


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


def _experts(c: Candidate) -> Decision | None:
    where = f"{c.first.path}.{c.first.leaf} {type(c.first.module).__name__}"
    if c.param.ndim != 3 or not re.search("expert|moe", where, re.IGNORECASE):
        return None
    fused = "; gate and up uncut (see qkv=)" if "gate_up" in c.first.leaf else ""
    if getattr(c.first.module, "is_transposed", False):
        return Decision("experts", "matrix", transposed_stack(c.param.shape), f"stored (number, in, out){fused}")
    return Decision("experts", "matrix", stack(c.param.shape), _ASSUMED + fused)


Rule = Callable[[Candidate], Decision | None]
RULES: tuple[Rule, ...] = (_embedding, _vector, _attention, _head, _linear, _convolution, _recurrent, _experts)


def recognise(candidate: Candidate) -> Decision | None:
    """The first decision that a rule makes, or None if no rule knows the parameter."""
    decided = next((found for rule in RULES if (found := rule(candidate)) is not None), None)
    if decided is None or decided.layout is None:
        return decided
    if candidate.param.is_complex():
        return Decision(decided.role, "adamw", None, "complex; the matrix rule is for real matrices")
    if all(min(b, m, n) == 0 for b, m, n in decided.layout.matrices):
        return Decision(decided.role, "adamw", None, "no entries")
    if all(min(m, n) <= 1 for _, m, n in decided.layout.matrices):
        return Decision(decided.role, "adamw", None, "one row or column: no matrix")
    return decided


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: its class or a base is called ...Linear or ...Router, its weight is 2-D."""
    weight: object = getattr(module, "weight", None)
    return _named(module, r"\w*(Linear|Router)") and isinstance(weight, Tensor) and weight.ndim == 2


def _is_linear(c: Candidate) -> bool:
    return is_linear(c.first.module) and c.first.leaf == "weight"


def _named(module: nn.Module | None, pattern: str) -> bool:
    return any(re.fullmatch(pattern, cls.__name__) for cls in type(module).__mro__)
