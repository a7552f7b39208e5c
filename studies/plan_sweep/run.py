"""Plans every class with and without an example, and writes what was decided, one JSON line a class."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matfn.optim import Plan, PlanError, plan

from .models import class_names, examples, limited, small_models
from .oracle import answers

__all__ = ["entries", "sweep"]


def sweep(out: Path, only: str = "", every: int = 1, seconds: int = 40) -> None:
    """Plan each `every`-th class whose name contains `only`, each within `seconds`; skip classes that `out` holds."""
    warnings.simplefilter("ignore")
    done = {json.loads(line)["class"] for line in out.read_text().splitlines()} if out.exists() else set()
    with out.open("a") as file:
        for name in [name for name in class_names() if only in name][::every]:
            if name in done:
                continue
            row: dict[str, Any] = {"class": name}
            try:
                with limited(seconds):
                    for model in small_models(name):
                        row |= _planned(model)
                        if "graph" in row:
                            break
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            file.write(json.dumps(row) + "\n")
            file.flush()


def _planned(model: nn.Module) -> dict[str, Any]:
    row: dict[str, Any] = {"device": next(model.parameters()).device.type, "output": _output_weight(model)}
    for key, batches in (("names", [None]), ("graph", examples(model))):
        for batch in batches:
            try:
                row[key] = entries(plan(model, batch, allow=("empty",)))
            except PlanError as error:
                row[f"{key}_failed"] = " ".join(str(error).split())[:300]
                continue
            row.pop(f"{key}_failed", None)
            if batch is not None:
                row["example"] = {name: list(x.shape) for name, x in batch.items()}
                row["oracle"] = _answers(model, batch, row)
            break
    return row


def entries(planned: Plan) -> dict[str, Any]:
    """What was decided for each parameter of two or more axes: shape, role, rule, certainty, look, matrices, reason."""
    return {
        e.name: [
            list(e.parameter.shape),
            e.role,
            e.rule,
            e.certainty,
            e.look,
            list(e.layout.matrices) if e.layout else None,
            [list(e.layout.split), list(e.layout.cuts), list(e.layout.outer)] if e.layout else None,
            e.reason,
        ]
        for e in planned
        if e.parameter.ndim > 1
    }


def _output_weight(model: Any) -> str | None:
    """The name of the weight that the library itself calls the output embeddings."""
    try:
        weight = model.get_output_embeddings().weight
    except Exception:
        return None
    return next((name for name, param in model.named_parameters() if param is weight), None)


def _answers(model: nn.Module, batch: dict[str, torch.Tensor], row: dict[str, Any]) -> dict[str, str] | None:
    """The oracle's answers for at most 40 weights: those that a plan calls a head, and those outside of block 0.

    Weights of a module named "1" are left out. None without values (a model on meta), or if the oracle fails.
    """
    if row["device"] == "meta":
        return None
    asked = [
        name
        for name, entry in row["graph"].items()
        if entry[1] in ("head", "tied head")
        or row.get("names", {}).get(name, entry)[1] == "head"
        or ".0." not in f".{name}"
    ]
    try:
        return answers(model, batch, [name for name in asked if name.split(".")[-2:-1] != ["1"]][:40])
    except Exception:
        return None
