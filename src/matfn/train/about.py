"""Facts about a run: machine, versions, the plan of the model, and how its matrices are computed, with reasons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matfn.optim import MatrixOptimizer, plan
from matfn.optim.model.table import rows
from matfn.optim.telemetry.choices import choice_rows, run_plans
from matfn.train import files
from matfn.train.checkpoint import damaged
from matfn.train.provenance import conditions

__all__ = ["ABOUT", "About", "recorded", "write"]

ABOUT = "about.json"
_MOST = 2**24  # bytes


@dataclass(frozen=True)
class About:
    """The content of `about.json`; empty for the run of an earlier version, which has no such file.

    Attributes:
        conditions: Machine and versions at the last start of the run.
        plan: The rows of the plan of the model, for the matrix optimizers of the recipe.
        layers: The names of the parameters, in the model's order.
        choices: {arm: for each run plan what it computes, and its decisions}.
    """

    conditions: dict[str, str]
    plan: list[list[str]]
    layers: list[str]
    choices: dict[str, list[tuple[str, list[tuple[str, str, str]]]]]


def write(
    folder: Path, model: torch.nn.Module, arms: Iterable[tuple[str, Sequence[torch.optim.Optimizer]]], device: Any
) -> None:
    """Write `about.json` into the folder of a run, whole or not at all.

    Args:
        folder: The folder of the run.
        model: The model, for its plan.
        arms: The label and the optimizers of each arm.
        device: The device of the training.

    Raises:
        TrainError: The file cannot be written.
    """
    entries = plan(model).entries
    choices = {}
    for label, members in arms:
        plans = [one for member in members if isinstance(member, MatrixOptimizer) for one in run_plans(member)]
        choices[label] = choice_rows(plans)
    about = {
        "conditions": conditions(device),
        "plan": rows(entries) if any(choices.values()) else [],
        "layers": [entry.name for entry in entries],
        "choices": choices,
    }
    files.replace_text(folder / ABOUT, json.dumps(about, indent=1, ensure_ascii=False))


def recorded(folder: Path) -> About:
    """Read `about.json` of a run.

    Raises:
        TrainError: The file is damaged.
    """
    path = folder / ABOUT
    try:
        known = json.loads(files.read(path, most=_MOST))
        return About(**{name: type(known[name])(known[name]) for name in ("conditions", "plan", "layers", "choices")})
    except FileNotFoundError:
        return About({}, [], [], {})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise damaged(path, str(error)) from None
