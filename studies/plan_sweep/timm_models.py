"""Plans one model of each family of timm. What timm itself calls the classifier is the expectation.

timm needs torchvision, and a torchvision works only with the torch that it was built for. So timm is no dependency of
this project, and the sweep runs where both are installed.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matfn.optim import PlanError, plan

from .models import limited
from .run import entries

__all__ = ["sweep_timm"]


def sweep_timm(out: Path, seconds: int = 60) -> None:
    """Plan one small model of each module of timm, on meta, with and without an example batch."""
    import timm

    warnings.simplefilter("ignore")
    with out.open("w") as file:
        for family in timm.list_modules():
            names = timm.list_models(module=family)
            if not names:
                continue
            row: dict[str, Any] = {"class": f"{family}.{names[0]}"}
            try:
                with limited(seconds), torch.device("meta"):
                    row |= _planned(timm.create_model(names[0], num_classes=10))
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            file.write(json.dumps(row) + "\n")
            file.flush()


def _planned(model: Any) -> dict[str, Any]:
    given = model.get_classifier()
    layers = [
        [module for module in part.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        for part in (given if isinstance(given, tuple | list) else [given])
    ]
    weights = [found[-1].weight for found in layers if found]  # the last layer, if the classifier has several
    row: dict[str, Any] = {
        "device": "meta",
        "expected": [name for name, param in model.named_parameters() if any(param is w for w in weights)],
    }
    channels, height, width = model.default_cfg["input_size"]
    for key, batch in (("names", None), ("graph", torch.empty(2, channels, height, width))):
        try:
            row[key] = entries(plan(model, batch, allow=("empty",)))
        except PlanError as error:
            row[f"{key}_failed"] = " ".join(str(error).split())[:300]
    return row
