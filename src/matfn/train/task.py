"""What a run learns, as a value: the data, the network for it, the loss and what is measured. Text, or images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matfn.train.data import Batches, Corpus, load_corpus, validation_windows
from matfn.train.fairness import unlike
from matfn.train.images import CLASSES, ImageBatches, load_digits
from matfn.train.model import loss, make_model
from matfn.train.recipe import Recipe
from matfn.train.resnet import make_resnet

__all__ = ["Images", "Task", "Text", "load_task", "network", "per_step"]

Forward = Callable[[Tensor], Tensor]


class Drawn(Protocol):
    """Batches from a generator whose state is all there is to checkpoint."""

    generator: torch.Generator

    def draw(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the next batch."""
        ...


class Task(Protocol):
    """What a trainer asks of a task.

    Attributes:
        unit: What is counted: "byte", "token", "image".
        facts: Source, counts, sha256, split: recorded with every result.
        validation: Inputs and targets of every evaluation.
    """

    unit: str
    facts: dict[str, Any]
    validation: tuple[Tensor, Tensor]

    def model(self, seed: int) -> nn.Module:
        """The network, on the CPU, with weights that depend on `seed` alone."""
        ...

    def batches(self, seed: int) -> Drawn:
        """The training data, in an order that depends on `seed` alone."""
        ...

    def loss(self, forward: Forward, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss in nats, a scalar in float32."""
        ...

    def measures(self, forward: Forward, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over a part of the validation data: "val_loss" at least."""
        ...

    def unlike(self) -> str:
        """In what the arms are not like for like, in words."""
        ...


class Text:
    """The next token of a text, by a GPT."""

    def __init__(self, recipe: Recipe, corpus: Corpus | None = None) -> None:
        """Args: the recipe, and its text where it has been read already."""
        self.recipe, self.corpus = recipe, corpus or load_corpus(recipe.data)
        self.unit, self.facts = self.corpus.unit, self.corpus.facts
        self.validation = validation_windows(self.corpus, recipe.data.context, recipe.train.eval_windows)

    def model(self, seed: int) -> nn.Module:
        """See `Task`."""
        recipe = self.recipe
        return make_model(recipe.model, self.corpus.vocabulary, context=recipe.data.context, seed=seed)

    def batches(self, seed: int) -> Drawn:
        """See `Task`."""
        return Batches(self.corpus.train, self.recipe.data.context, batch=self.recipe.train.batch, seed=seed)

    def loss(self, forward: Forward, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task`; the mean over all tokens."""
        return loss(forward, inputs, targets)

    def measures(self, forward: Forward, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `Task`."""
        return {"val_loss": loss(forward, inputs, targets)}

    def unlike(self) -> str:
        """See `Task`."""
        return unlike(self.recipe, self.corpus.vocabulary)


class Images:
    """Ten digits, by a ResNet."""

    unit = "image"

    def __init__(self, recipe: Recipe) -> None:
        """Args: the recipe; `train.eval_windows` is the number of test images."""
        self.recipe, self._digits = recipe, load_digits(recipe.data)
        self.facts = self._digits.facts
        images, labels = self._digits.val
        self.validation = (images[: recipe.train.eval_windows], labels[: recipe.train.eval_windows])

    def model(self, seed: int) -> nn.Module:
        """See `Task`."""
        return make_resnet(self.recipe.model, CLASSES, seed=seed)

    def batches(self, seed: int) -> Drawn:
        """See `Task`."""
        return ImageBatches(*self._digits.train, batch=self.recipe.train.batch, seed=seed)

    def loss(self, forward: Forward, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `Task`."""
        return F.cross_entropy(forward(inputs).float(), targets)

    def measures(self, forward: Forward, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `Task`; "accuracy" is the share of images named rightly."""
        logits = forward(inputs).float()
        right = (logits.argmax(dim=-1) == targets).float().mean()
        return {"val_loss": F.cross_entropy(logits, targets), "accuracy": right}

    def unlike(self) -> str:
        """See `Task`: torch's Muon does not take convolutions, so all arms have the same matrices."""
        return ""


def load_task(recipe: Recipe) -> Task:
    """Read the data that a recipe names.

    Raises:
        TrainError: It is missing, damaged, or too small.
    """
    return Images(recipe) if recipe.data.source == "mnist5k" else Text(recipe)


def per_step(recipe: Recipe) -> int:
    """Tokens or images between two optimizer steps."""
    each = 1 if recipe.data.source == "mnist5k" else recipe.data.context
    return recipe.train.batch * recipe.train.accumulate * each


def network(recipe: Recipe) -> str:
    """The network in words."""
    model = recipe.model
    words = f"{_NAMES[model.name]} of {model.layers} layers and width {model.width}"
    return words if model.name == "resnet" else f"{words} (context {recipe.data.context})"


_NAMES = {"gpt": "GPT", "gpt2": "GPT2", "resnet": "ResNet"}
