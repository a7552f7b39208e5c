"""Sizes: whether a recipe can fit into memory at all, checked before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from matfn.train import TrainError, processes
from matfn.train.data import Corpus
from matfn.train.loop import pick_device
from matfn.train.recipe import OptimizerTable, Recipe

_FLOAT, _TOKEN = 4, 8  # bytes of a float32 number and of a token index


def check(recipe: Recipe, arms: Sequence[OptimizerTable], corpus: Corpus) -> None:
    """Refuse a recipe whose least possible need is more than the memory of the device or of the machine.

    The need is a lower bound: a recipe that is refused cannot run, and one that passes may still be too large. Counted
    on the device are the weights of all models that take turns, the gradients of one, and the logits of a batch with
    their gradient; several processes share both. Counted in the memory of the machine are the tokens of a batch and of
    an evaluation.

    Args:
        recipe: The sizes.
        arms: The optimizers; those that take turns have their models in memory together.
        corpus: The text, with its vocabulary and number of tokens.

    Raises:
        TrainError: It does not fit; the message has both numbers.
    """
    model, train, context, device = recipe.model, recipe.train, recipe.data.context, pick_device(recipe.train.device)
    together = len(arms) if recipe.compare.order == "interleaved" else 1
    tables = corpus.vocabulary + (context if model.positions == "learned" else 0)
    weights = _FLOAT * (together + 1) * (12 * model.layers * model.width**2 + tables * model.width)
    if recipe.parallel.kind in ("fsdp", "tp"):
        weights //= processes.count()
    logits = 2 * _FLOAT * train.batch * context * corpus.vocabulary // processes.count()
    tokens = 2 * _TOKEN * context * (train.batch + min(train.eval_windows, corpus.val.size - context))
    fits(
        weights + logits,
        device,
        "the weights and logits of this recipe",
        "model.layers, model.width, train.batch or data.context",
    )
    fits(
        tokens,
        torch.device("cpu"),
        "the windows of tokens of this recipe",
        "train.batch, train.eval_windows or data.context",
    )


def fits(need: int, device: torch.device, what: str, remedy: str) -> None:
    """Refuse work that needs more bytes than the memory of the device has.

    Args:
        need: Bytes, a lower bound.
        device: Where they are needed.
        what: What takes the memory, a plural for the message.
        remedy: The keys of the recipe to lower, for the message.

    Raises:
        TrainError: The memory is too small.
    """
    memory = _memory(device)
    if memory is not None and need > memory:
        raise TrainError(
            f"{what} take at least {need / 2**30:,.0f} GiB, and the memory of {device} has "
            f"{memory / 2**30:,.0f} GiB: lower {remedy}"
        )


def _memory(device: torch.device) -> int | None:
    """Bytes of memory of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
