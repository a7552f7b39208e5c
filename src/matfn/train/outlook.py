"""Outlook: what a step costs each process of a mesh, for the model of a recipe or of the catalog, from a command."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from typing import Any

import torch

from matfn.optim import plan
from matfn.optim.model.catalog import active, planned, published
from matfn.optim.model.meshes import mesh_of
from matfn.optim.model.outlook import Outlook
from matfn.run.machine import PROFILES, machine, probe
from matfn.train import TrainError
from matfn.train.model import skeleton
from matfn.train.optimizers import CLASSES, on_a_matrix
from matfn.train.recipe import OptimizerTable, Recipe
from matfn.train.settings import brief

__all__ = ["as_data", "of_model", "of_recipe", "use_profile"]

_BYTES = 256  # the vocabulary of a text that is no shards


def use_profile(name: str | None) -> str:
    """Decide as on machines of this profile, or as here for None; the name of the profile.

    Raises:
        TrainError: There is no such profile.
    """
    if name is not None and name not in PROFILES:
        raise TrainError(f"--machine must be one of {', '.join(PROFILES)}, got {brief(name)}")
    if name is not None:
        os.environ["MATFN_MACHINE"] = name
    return machine(torch.device("cpu")).name


def probed() -> float:
    """10^12 floating-point operations per second of this CPU's products: of float32, or of a quicker half precision."""
    return 2 * 256**3 / min(probe(torch.device("cpu")).values()) / 1e12


def of_model(name: str, kind: str, mesh: str, pace: dict[str, float | None]) -> tuple[str, Outlook]:
    """A title, and the outlook of an optimizer with the options of a default recipe on a model of the catalog.

    Raises:
        TrainError: The model, the optimizer, the mesh or a number is wrong.
    """
    if kind not in ("adamw", "torch-muon", *CLASSES):
        raise TrainError(f"--optimizer must be one of {', '.join(CLASSES)}, got {brief(kind)}")
    title, count = _checked(published, name)
    where, optimizer = _checked(mesh_of, mesh, "--mesh"), _optimizer(OptimizerTable(kind=kind))
    found = _checked(planned(name).outlook, where, optimizer, active=active(name), **pace)
    return f"{title}, {count / 1e9:.4g}B parameters", found


def of_recipe(recipe: Recipe, arm: str | None, mesh: str, pace: dict[str, float | None]) -> tuple[str, Outlook]:
    """A title, and the outlook of a recipe's optimizer on its model, without memory for the model.

    Args:
        recipe: The recipe.
        arm: The name of one of its arms; None if it has only one.
        mesh: As `mesh_of` takes it; a number alone is spread as `[parallel]` says.
        pace: The options of `Plan.outlook`. Without tokens, those of a step of the recipe.

    Raises:
        TrainError: The arm, the mesh or a number is wrong, or the optimizer is torch's own.
    """
    table = recipe.arm(arm)
    vocabulary = recipe.data.vocabulary if recipe.data.source == "shards" else _BYTES
    model = skeleton(recipe.model, vocabulary, context=recipe.data.context)
    pace = {**pace, "tokens": recipe.tokens_per_step if pace["tokens"] is None else pace["tokens"]}
    where = _checked(mesh_of, _spread(recipe, mesh), "--mesh")
    return recipe.title, _checked(plan(model).outlook, where, _optimizer(table), **pace)


def _spread(recipe: Recipe, mesh: str) -> str:
    """The mesh; a number alone is the number of processes, over which `[parallel]` says how the model is spread."""
    kind, tp, number = recipe.parallel.kind, recipe.parallel.tp, mesh.strip()
    if kind == "none" or not re.fullmatch("[1-9][0-9]{0,17}", number):
        return mesh
    if kind != "fsdp":
        return f"{'replicate' if kind == 'ddp' else 'tp'}={number}"
    if int(number) % tp:
        raise TrainError(f"--mesh: parallel.tp = {tp} does not divide the {number} processes")
    return f"fsdp={int(number) // tp},tp={tp}"


def as_data(title: str, profile: str, found: Outlook) -> dict[str, Any]:
    """The numbers of an outlook as plain values."""
    ranks = {}
    for field in fields(found.ranks):
        values = getattr(found.ranks, field.name)
        ranks[field.name] = {"least": values.min().item(), "mean": values.mean().item(), "most": values.max().item()}
    return {
        "title": title,
        "machine": profile,
        "optimizer": found.optimizer,
        "mesh": {"ranks": found.mesh.ranks, **found.mesh.sizes},
        "matrices": [dict(vars(kind)) for kind in found.kinds],
        "ranks": ranks,
        "seconds": found.seconds(),
        "messages": found.messages(),
        "training": found.training(),
        "share": found.share(),
    }


def _optimizer(table: OptimizerTable) -> Any:
    if table.kind not in CLASSES:
        raise TrainError(f"a mesh is planned for {', '.join(CLASSES)}, not for {brief(table.kind)}: choose one of them")
    return on_a_matrix(table)


def _checked(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result of a function; its complaints about values as a user's mistake."""
    try:
        return function(*arguments, **options)
    except (ValueError, TypeError) as error:
        raise TrainError(str(error).replace("Plan.outlook: ", "--", 1)) from None  # its arguments are options here
