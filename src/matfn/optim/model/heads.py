"""Heads: layers whose output is the model's. By the graph of an example, else by name, by order, by the vocabulary."""

import re

from torch import nn

from .candidate import Candidate, Decision, Model, place_of, weight_shape
from .families import HEAD, HEAD_AT_ROOT

__all__ = ["head"]


def head(c: Candidate) -> Decision | None:
    """The decision for a head, or None. The graph is stronger than names; where they disagree the plan says so."""
    if not c.is_layer:
        return _raw(c)
    adapter = re.search(r"(^|\.)lora_[AB](\.|$)", c.first.path)
    if adapter and c.first.place in c.model.heads:
        return Decision("head", "adamw", None, f"LoRA of the output {c.first.place}", "graph")
    place = c.fact.place if c.fact is not None and c.fact.kind in ("product", "both") else ""
    if place == "head":
        return Decision("head", "adamw", None, "its output reaches the outputs through no other matrix", "graph")
    reason = _by_name(c.model, c.first.place) or _by_vocabulary(c)
    if place == "hidden":
        return None
    if reason:
        out, n = weight_shape(c.first.module) or (0, 0)
        sure = reason.startswith("output by") or (reason.startswith("last layer") and out != n)
        return Decision("head", "adamw", None, reason, "name" if sure else "guess", look=not sure or c.fact is not None)
    if _ends_sequence(c.model, c.first.path):
        return Decision("head", "adamw", None, "the last layer of an nn.Sequential")
    return None if c.fact is not None else _last(c)


def _raw(c: Candidate) -> Decision | None:
    """A parameter that is no layer, but a head by the graph."""
    if c.fact is None or c.fact.place != "head" or c.fact.kind != "product" or c.first.is_a("MultiheadAttention"):
        return None
    if isinstance(c.first.module, nn.RNNBase | nn.RNNCellBase):
        return None
    return Decision("head", "adamw", None, "its output reaches the outputs through no other matrix", "graph")


def _by_name(model: Model, place: str) -> str:
    """The reason why the name of a layer, or of a container that ends with it, means an output; empty if none does."""
    parts = place.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            break
        root = ".".join(parts[:i]) in ("", "model", "module", "base_model.model")
        if not re.fullmatch(HEAD, part) and not (root and re.fullmatch(HEAD_AT_ROOT, part)):
            continue
        if i == len(parts) - 1:
            return f"output by its name ({part})"
        group = ".".join(parts[: i + 1])
        listed = parts[i + 1].isdigit() and not isinstance(model.at.get(group), nn.Sequential)
        group = f"{group}.{parts[i + 1]}" if listed else group
        inside = [inner for path in model.shapes if f"{(inner := place_of(path))}.".startswith(f"{group}.")]
        if inside and inside[-1] == place:
            return f"last layer of the output ({group})"
    return ""


def _by_vocabulary(c: Candidate) -> str:
    """The reason why a layer with one row for each token is an output; empty if it is none."""
    shape = weight_shape(c.first.module)
    if shape is None or c.first.numbered or shape[0] != c.model.vocabulary or shape[0] <= shape[1]:
        return ""
    return "as many rows as the vocabulary"


def _ends_sequence(model: Model, path: str) -> bool:
    """Whether a layer is the last one of the model, an nn.Sequential, whose order is that of the calculation."""
    inner, place = model.at.get(""), ""
    if not isinstance(inner, nn.Sequential) or len(model.shapes) < 2:
        return False
    while isinstance(inner, nn.Sequential):
        weighted = [
            (name, child)
            for name, child in inner.named_children()
            if any(weight_shape(module) is not None for module in child.modules())
        ]
        if not weighted:
            return False
        place, inner = f"{place}.{weighted[-1][0]}".lstrip("."), weighted[-1][1]
    return place == path and inner is not None and weight_shape(inner) is not None


def _last(c: Candidate) -> Decision | None:
    """The last layer of the model, if nothing else is an output: a head, if no layer reads so many values."""
    if not is_open_end(c) or any(part.isdigit() for part in c.first.parts[:-1]):
        return None
    out, _ = c.model.shapes[c.first.path]
    if any(n % out == 0 for _, n in c.model.shapes.values()) and out > 1:
        return None
    reason = "the last layer, and by the shapes no layer reads its output; an example shows it"
    return Decision("head", "adamw", None, reason, "guess", look=True)


def is_open_end(c: Candidate) -> bool:
    """Whether a layer is the last one of a model in which no name means an output, and no example shows its place."""
    paths = list(c.model.shapes)
    if c.fact is not None or not c.is_layer or c.first.path != paths[-1] or len(paths) < 2:
        return False
    return not any(_by_name(c.model, place_of(path)) for path in paths)
