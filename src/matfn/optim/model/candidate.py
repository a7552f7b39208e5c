"""What the rules look at and what they answer: a parameter with its modules, the facts about its model, a decision."""

import re
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from ..matrices.layout import Layout
from .places import Fact

__all__ = ["Candidate", "Decision", "Model", "Owner", "is_a", "place_of", "weight_shape"]

# Parts of a path that adapters and wrappers add between a layer and its weights. They say nothing about its place.
_INSERTED = re.compile(r"\.(modules_to_save|original_module|base_layer|lora_\w+|adapter_\w+)(\.[^.]+)?(?=\.|$)")
_FACTOR = re.compile(r"(^|\.)(lora|adapter)_\w+(\.|$)")  # the path of a layer that belongs to an adapter


@dataclass(frozen=True)
class Owner:
    """A module that holds a parameter: its path, the parameter's name in it, the module, its parent.

    Attributes:
        path: The path of the layer. For a reparametrized weight it is the layer that uses the weight.
        leaf: The name in the layer, "weight" for a reparametrized weight.
        module: The layer.
        parent: The module that holds the layer.
        name: The full name of the parameter.
        made: The reparametrization, such as "weight_norm"; empty for a plain parameter.
    """

    path: str
    leaf: str
    module: nn.Module
    parent: nn.Module | None
    name: str
    made: str = ""

    @property
    def place(self) -> str:
        """The path without the parts that adapters insert, so that an adapter has the place of its layer."""
        return place_of(self.path)

    @property
    def parts(self) -> list[str]:
        """The names along the place."""
        return self.place.split(".") if self.place else []

    @property
    def numbered(self) -> bool:
        """Whether a name along the path is a number, as in the blocks of a network."""
        return any(part.isdigit() for part in self.parts)

    def is_a(self, pattern: str) -> bool:
        """Whether the name of the module's class, or of a base class, matches as a whole."""
        return is_a(self.module, pattern)


@dataclass(frozen=True, eq=False)
class Model:
    """Facts about the whole model.

    Attributes:
        at: {path: module}, wrappers set aside.
        shapes: {path: (out, in)} of linear layers and convolutions, in the model's order.
        vocabulary: The number of rows of the largest table of tokens, 0 without one.
        facts: {parameter: its fact from the graph of an example}; empty without an example.
        heads: Places of layers that the graph found to be heads.
        read: Whether there was an example.
    """

    at: dict[str, nn.Module] = field(default_factory=dict)
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)
    vocabulary: int = 0
    facts: dict[Tensor, Fact] = field(default_factory=dict)
    heads: set[str] = field(default_factory=set)
    read: bool = False

    @cached_property
    def inside(self) -> dict[str, dict[str, int]]:
        """{place of a module: {place: inputs} of the layers directly in it}, without factors of adapters.

        Kept, as models have thousands of layers.
        """
        found: dict[str, dict[str, int]] = {}
        for path, (_, n) in self.shapes.items():
            if not _FACTOR.search(path):
                place = place_of(path)
                found.setdefault(place.rpartition(".")[0], {})[place] = n
        return found

    @cached_property
    def inputs(self) -> frozenset[int]:
        """All numbers of inputs of the layers."""
        return frozenset(n for _, n in self.shapes.values())

    @cached_property
    def later_inputs(self) -> frozenset[int]:
        """The numbers of inputs without the first layer, which reads the data."""
        return frozenset(n for _, n in list(self.shapes.values())[1:])


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

    @property
    def fact(self) -> Fact | None:
        """The fact that the graph of the example gives about it; None if the example does not reach it."""
        return self.model.facts.get(self.param)

    @property
    def long(self) -> int:
        """The number of axes longer than 1."""
        return sum(size > 1 for size in self.param.shape)

    @property
    def is_layer(self) -> bool:
        """Whether it is the weight of a linear layer or of a convolution."""
        return self.first.leaf == "weight" and weight_shape(self.first.module) is not None


@dataclass(frozen=True)
class Decision:
    """The role of a parameter, the rule that moves it, its layout as matrices, and the reason.

    Attributes:
        certainty: The source of the decision: "told", "class", "graph", "name" or "guess".
        look: Whether a person should look at it: a guess, or two sources disagree.
    """

    role: str
    rule: str
    layout: Layout | None
    reason: str
    certainty: str = "class"
    look: bool = False


def place_of(path: str) -> str:
    """A path without the parts that adapters insert."""
    return _INSERTED.sub("", f".{path}")[1:]


def is_a(module: nn.Module | None, pattern: str) -> bool:
    """Whether the name of a module's class, or of a base class, matches as a whole."""
    names = [cls.__name__ for cls in type(module).__mro__]
    if "ScriptModule" in names:
        names.append(str(getattr(module, "original_name", "")))  # torch.jit hides the class
    return any(re.fullmatch(pattern, name) for name in names)


def weight_shape(module: nn.Module) -> tuple[int, int] | None:
    """(out, in) of a linear layer or a convolution; None for other modules and for depthwise convolutions."""
    weight = _stored(module)
    if weight is None:
        return None
    if isinstance(module, nn.modules.conv._ConvNd):
        single = module.groups > 1 and module.in_channels == module.groups
        return None if single else (module.out_channels, module.in_channels)
    if weight.ndim != 2 or not is_a(module, r"\w*(Linear|Router|Conv1D)"):
        return None
    out, n = weight.shape
    return (n, out) if is_a(module, "Conv1D") else (out, n)


def _stored(module: nn.Module) -> Tensor | None:
    """The weight of a module or, without computing it, the parameter of its shape from which it is computed."""
    weight: object = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is None:
        lists = dict(module.named_children()).get("parametrizations")
        held = list(lists["weight"].parameters()) if isinstance(lists, nn.ModuleDict) and "weight" in lists else []
        weight = max(held, key=lambda param: param.numel(), default=module.__dict__.get("weight"))
    return weight if isinstance(weight, Tensor) else None
