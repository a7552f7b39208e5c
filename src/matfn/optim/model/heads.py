"""Heads: layers whose output is the model's. By the graph of an example, else by name, by order, by the vocabulary."""

import re
from collections.abc import Collection, Iterator

from torch import nn

from .candidate import Candidate, Decision, Model, place_of, weight_shape
from .families import HEAD, HEAD_AT_ROOT, HEAD_PERHAPS

__all__ = ["head", "is_open_end"]


def head(c: Candidate) -> Decision | None:
    """The decision for a head, or None. The graph counts first; names count where it leaves the place open."""
    adapter = re.search(r"(^|\.)lora_[AB](\.|$)", c.first.path)
    if adapter and c.first.place in c.model.heads:
        return Decision("head", "adamw", None, f"LoRA of the output {c.first.place}", "graph")
    if not c.is_layer:
        return _raw(c)
    if any(isinstance(c.model.at.get(above), nn.AdaptiveLogSoftmaxWithLoss) for above in _above(c.first.place)):
        return Decision("head", "adamw", None, "AdaptiveLogSoftmaxWithLoss gives the output")
    place = c.fact.place if c.fact is not None and c.fact.kind in ("product", "both") else ""
    if place == "head":
        return Decision("head", "adamw", None, "its output reaches the outputs through no other matrix", "graph")
    if place == "hidden":
        return None
    reason, sure = _by_name(c.model, c.first.place)
    reason = reason or _by_vocabulary(c)
    if reason:
        return Decision("head", "adamw", None, reason, "name" if sure else "guess", not sure or c.model.read)
    if _ends_sequence(c.model, c.first.path):
        return Decision("head", "adamw", None, "the last layer of an nn.Sequential")
    return _unread(c)


def _above(path: str) -> Iterator[str]:
    """The paths of the modules that hold a module, the nearest first; "" is the model."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _raw(c: Candidate) -> Decision | None:
    """A parameter that is no layer's weight, but a head by the graph, or by the name of its module."""
    if c.first.is_a("MultiheadAttention") or isinstance(c.first.module, nn.RNNBase | nn.RNNCellBase):
        return None
    if c.fact is not None:
        if c.fact.place != "head" or c.fact.kind != "product":
            return None
        return Decision("head", "adamw", None, "its output reaches the outputs through no other matrix", "graph")
    reason, _ = _by_name(c.model, c.first.place) if c.first.leaf in ("weight", "kernel") else ("", False)
    return Decision("head", "adamw", None, reason, "guess", look=True) if reason else None


def _by_name(model: Model, place: str) -> tuple[str, bool]:
    """The reason why the name of a layer, or of a container that ends with it, means an output; and how sure it is.

    A container is sure at the root of the model, with a last layer that changes the width: others often end in a
    layer before a norm, or serve another purpose.
    """
    parts = place.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            break
        root = ".".join(parts[:i]) in ("", "model", "module", "base_model.model")
        group = ".".join(parts[: i + 1])
        sequence = isinstance(model.at.get(group), nn.Sequential)
        last = i == len(parts) - 1
        at_root = root and (last or sequence) and re.fullmatch(HEAD_AT_ROOT, part)
        if last and re.fullmatch(HEAD_PERHAPS, part):
            return f"perhaps an output by its name ({part})", False
        if not re.fullmatch(HEAD, part) and not at_root:
            continue
        if last:
            return ("", False) if _read_by_head(model, place) else (f"output by its name ({part})", True)
        each = isinstance(model.at.get(group), nn.ModuleList | nn.ModuleDict) or parts[i + 1].isdigit()
        group = f"{group}.{parts[i + 1]}" if each and not sequence else group
        inside = [inner for path in model.shapes if f"{(inner := place_of(path))}.".startswith(f"{group}.")]
        named = any(re.fullmatch(HEAD, inner.rpartition(".")[2]) for inner in inside[:-1])
        if inside and inside[-1] == place and not named and not _read_by_head(model, place):
            out, n = model.shapes.get(place, (0, 0))
            return f"last layer of the output ({group})", root and out != n and not part.startswith("proj")
    return "", False


def _read_by_head(model: Model, place: str) -> bool:
    """Whether a convolution is called a head, but a linear layer after it reads all its channels."""
    if place not in model.shapes or not isinstance(model.at.get(place), nn.modules.conv._ConvNd):
        return False
    paths, (out, _) = list(model.shapes), model.shapes[place]
    after = [path for path in paths[paths.index(place) + 1 :] if model.shapes[path][1] == out]
    return any(not isinstance(model.at.get(path), nn.modules.conv._ConvNd) for path in after)


def _by_vocabulary(c: Candidate) -> str:
    """The reason why a layer with one row for each token is an output; empty if it is none."""
    shape = c.model.shapes.get(f"{c.first.place}.base_layer") or weight_shape(c.first.module)
    if shape is None or c.param.ndim > 2 or c.first.numbered or shape[0] != c.model.vocabulary or shape[0] <= shape[1]:
        return ""
    return "as many rows as the vocabulary"


def _ends_sequence(model: Model, path: str) -> bool:
    """Whether a layer is the last one of the model, an nn.Sequential, whose order is that of the calculation."""
    inner, place = model.at.get(""), ""
    if not isinstance(inner, nn.Sequential) or len(model.shapes) < 2:
        return False
    while isinstance(inner, nn.Sequential):
        children = reversed(list(inner.named_children()))
        last = next(((name, child) for name, child in children if _has_matrix(child)), None)
        if last is None:
            return False
        place, inner = f"{place}.{last[0]}".lstrip("."), last[1]
    return place == path and inner is not None and weight_shape(inner) is not None


def _has_matrix(module: nn.Module) -> bool:
    return any(sum(size > 1 for size in param.shape) > 1 for param in module.parameters())


def _unread(c: Candidate) -> Decision | None:
    """Guess a head: by the shapes no layer reads its output or that of any later layer, and no name means an output."""
    if c.model.read or any(part.isdigit() for part in c.first.parts[:-1]) or len(c.model.shapes) < 2:
        return None
    paths = list(c.model.shapes)
    if any(_is_read(c.model, path, c.model.inputs) for path in paths[paths.index(c.first.path) :]) or _named(c.model):
        return None
    reason = "by the shapes no layer reads its output; an example shows it"
    return Decision("head", "adamw", None, reason, "guess", look=True)


def _is_read(model: Model, path: str, inputs: Collection[int]) -> bool:
    """Whether `inputs` has the number of outputs of a layer, or a half or a third of it."""
    out, _ = model.shapes[path]
    flat = isinstance(model.at.get(path), nn.modules.conv._ConvNd)  # its channels may be read with their places
    return any(n in (out, out / 2, out / 3) or (flat and n % out == 0) for n in inputs)


def is_open_end(c: Candidate) -> bool:
    """Whether a layer may be the output: no example shows its place, no name in the model means an output."""
    if c.model.read or not c.is_layer:
        return False
    last = c.first.path == next(reversed(c.model.shapes))
    read = c.first.numbered or _is_read(c.model, c.first.path, c.model.later_inputs)
    return (last or not read) and not _named(c.model)


def _named(model: Model) -> bool:
    """Whether the name of some layer means an output."""
    return any(_by_name(model, place_of(path))[0] for path in model.shapes)
