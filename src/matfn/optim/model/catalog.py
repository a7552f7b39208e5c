"""Catalog: public models by the shapes of their parameters, as modules without memory, for plans of meshes.

The shapes are data, in shapes.toml: a new model is a new table there.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import nn

from ..matrices.layout import stack
from .plan import Plan, plan

__all__ = ["active", "known_model", "names", "planned", "published"]


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return tomllib.loads((files("matfn.optim.model") / "shapes.toml").read_text(encoding="utf-8"))


def names() -> tuple[str, ...]:
    """The names of the models."""
    return tuple(_tables())


def known_model(name: str) -> nn.Module:
    """A model of the catalog on the meta device. It has parameters and names, and cannot run.

    Raises:
        ValueError: If the catalog has no such model.
    """
    table = _table(name)
    with torch.device("meta"):
        return _Model(table)


def planned(name: str) -> Plan:
    """The plan of a model of the catalog. Stacks of experts are stored as (number, out, in).

    Raises:
        ValueError: If the catalog has no such model.
    """
    experts = any("experts" in block for block in _table(name)["blocks"])
    return plan(known_model(name), overrides={"*.experts.*": stack} if experts else None)


def published(name: str) -> tuple[str, int]:
    """The title of a model, and the number of its parameters that its authors state."""
    table = _table(name)
    return table["title"], table["parameters"]


def active(name: str) -> int:
    """The parameters that one token uses: all but the experts that are not chosen."""
    table = _table(name)
    idle = 0
    for block in table["blocks"]:
        for number, rows, columns in block.get("experts", {}).values():
            idle += block["repeat"] * (number - block["chosen"]) * rows * columns
    return table["parameters"] - idle


def _table(name: str) -> dict[str, Any]:
    tables = _tables()
    if name not in tables:
        near = difflib.get_close_matches(name.lower(), tables, n=1)
        raise ValueError(
            f"the catalog has the models {', '.join(tables)}, not {name!r}"
            + (f": did you mean {near[0]}?" if near else ".")
        )
    return tables[name]


class _Experts(nn.Module):
    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(*shape)))


class _Block(nn.Module):
    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for width in table["norms"])
        for name, (rows, columns) in table["linear"].items():
            self.add_module(name, nn.Linear(columns, rows, bias=False))
        if "experts" in table:
            self.experts = _Experts(table["experts"])
        if "router_bias" in table:
            self.router_bias = nn.Parameter(torch.empty(table["router_bias"]))


class _Model(nn.Module):
    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(*table["embedding"])
        self.layers = nn.ModuleList(_Block(block) for block in table["blocks"] for _ in range(block["repeat"]))
        self.norm = nn.ModuleList(nn.RMSNorm(width) for width in table["norms"])
        rows, columns = table["head"]
        self.lm_head = nn.Linear(columns, rows, bias=False)
