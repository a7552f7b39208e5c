"""What a run learns: the next token of a text, by a GPT."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from matfn.train.data import Batches, Corpus, load_corpus, validation_windows
from matfn.train.model import loss, make_model, skeleton
from matfn.train.recipe import MATFN, Recipe

Forward = Callable[[Tensor], Tensor]


class Task:
    """The data, the network for it and the loss.

    Args:
        recipe: Names the text, the network and the batches.
        corpus: The text, where it has been read already.

    Attributes:
        unit: What is counted: "byte" or "token".
        facts: Source, counts, sha256, split: recorded with every result.
        validation: Inputs and targets of every evaluation, (windows, context) each.

    Raises:
        TrainError: The text is missing, damaged, or too short.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus | None = None) -> None:
        self.recipe, self.corpus = recipe, corpus or load_corpus(recipe.data)
        self.unit, self.facts = self.corpus.unit, self.corpus.facts
        self.validation = validation_windows(self.corpus, recipe.data.context, recipe.train.eval_windows)

    def model(self, seed: int) -> nn.Module:
        """The network, on the CPU, with weights that depend on `seed` alone."""
        recipe = self.recipe
        return make_model(recipe.model, self.corpus.vocabulary, context=recipe.data.context, seed=seed)

    def batches(self, seed: int) -> Batches:
        """The training data, in an order that depends on `seed` alone."""
        return Batches(self.corpus.train, self.recipe.data.context, batch=self.recipe.train.batch, seed=seed)

    def loss(self, forward: Forward, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over all tokens in nats, a scalar in float32."""
        return loss(forward, inputs, targets)

    def unlike(self) -> str:
        """How the arms of the recipe differ beside their optimizers, in words; empty if they do not."""
        return unlike(self.recipe, self.corpus.vocabulary)


def tokens_per_step(recipe: Recipe) -> int:
    """Tokens between two optimizer steps."""
    return recipe.train.batch * recipe.train.accumulate * recipe.data.context


def network(recipe: Recipe) -> str:
    """The network in words."""
    model = recipe.model
    name = {"gpt": "GPT", "gpt2": "GPT2"}[model.name]
    return f"{name} of {model.layers} layers and width {model.width} (context {recipe.data.context})"


def unlike(recipe: Recipe, vocabulary: int) -> str:
    """In what the arms are not like for like, in a few sentences; empty where they are.

    Two things depend on how a model stores its weights. A fused matrix (GPT-2's q, k and v) is one matrix to torch's
    Muon and several to ours. And a weight stored (in, out) has its sides swapped in torch's "jordan" scale.

    Args:
        recipe: The model and the arms.
        vocabulary: Number of different tokens.
    """
    theirs = [arm for arm in recipe.arms if arm.kind == "torch-muon"]
    ours = [arm for arm in recipe.arms if arm.kind in MATFN]
    if not theirs or not ours:
        return ""
    from matfn.optim import plan

    model = skeleton(recipe.model, vocabulary, context=recipe.data.context)
    layouts = {entry.name: entry.layout for entry in plan(model) if entry.layout is not None}
    fused = [name for name, layout in layouts.items() if len(layout.cuts) > 1]
    swapped = [n for n, layout in layouts.items() if layout.rows == 1 and layout.shape[0] != layout.shape[1]]
    parts, mine = [], _names([arm.label for arm in ours])
    if fused:
        whole = _names([arm.label for arm in theirs])
        parts.append(
            f"{whole} orthogonalizes {_such(fused)} whole, {mine} cuts it into {_blocks(layouts[fused[0]].cuts)}"
        )
    if swapped and (jordan := [arm.label for arm in theirs if arm.scale == "jordan"]):
        parts.append(f"{_such(swapped)} is stored (in, out), and the scale of {_names(jordan)} takes in for out")
    return f"Not like for like: {'; '.join(parts)}." if parts else ""


def _names(labels: list[str]) -> str:
    return " and ".join(labels)


def _such(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _blocks(cuts: tuple[int, ...]) -> str:
    return f"{len(cuts)} matrices"
