"""One function for each kind of matfn's optimizers: from the recipe's table and `params` to the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from matfn.train.errors import TrainError
from matfn.train.rules import EmbeddingsTable, OptimizerTable

Maker = Callable[[OptimizerTable, Any], torch.optim.Optimizer]


def muon(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """Muon, with its options and AdamW for the rest."""
    from matfn.optim import Muon

    return Muon(params, **_common(table), momentum=table.momentum, **table.given("nesterov"))


def normuon(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """NorMuon, with its options and AdamW for the rest."""
    from matfn.optim import NorMuon

    options = {"momentum": table.momentum, "nesterov": table.nesterov, **table.given("beta2")}
    return NorMuon(params, **_common(table), **options)


def polargrad(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """PolarGrad, with its options and AdamW for the rest."""
    from matfn.optim import PolarGrad

    # The recipe's momentum always has a value, which "vanilla" has no use for.
    momentum = None if table.variant == "vanilla" else table.momentum
    options = {"momentum": momentum, **table.given("variant", "power", "growth")}
    return PolarGrad(params, **_common(table), **options)


def shampoo(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """Shampoo, with its options and AdamW for the rest."""
    from matfn.optim import Shampoo, minimax

    method = minimax if table.method == "minimax" else method_of(table.method)
    options = table.given("beta2", "graft", "ridge", "root", "root_every", "start")
    return Shampoo(params, **_factored(table), method=method, **options)


def soap(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """SOAP, with its options and AdamW for the rest."""
    from matfn.optim import SOAP

    return SOAP(params, **_factored(table), **table.given("beta2", "basis_every"))


MAKERS: dict[str, Maker] = {
    "muon": muon,
    "normuon": normuon,
    "polargrad": polargrad,
    "shampoo": shampoo,
    "soap": soap,
}


def embeddings(table: EmbeddingsTable, params: Any) -> torch.optim.Optimizer:
    """PolarGrad for embeddings and head alone."""
    from matfn.optim import PolarGrad

    return PolarGrad(
        params,
        table.lr,
        variant=table.variant,
        momentum=None if table.variant == "vanilla" else table.momentum,
        scale=table.scale,
        growth=table.growth,
        weight_decay=table.weight_decay,
        method=method_of(table.method),
    )


def method_of(text: str | None) -> Any:
    """The method that a recipe names; None for None.

    Raises:
        TrainError: There is no such method, or an option of it is wrong.
    """
    import matfn

    try:
        return matfn.method(text) if text else None
    except (ValueError, TypeError) as error:
        raise TrainError(f"method = {text!r}: {error}") from None


def _common(table: OptimizerTable) -> dict[str, Any]:
    """The options that all of those share whose direction is a polar factor."""
    return {
        **_shared(table),
        "method": method_of(table.method),
        "precision": getattr(torch, table.precision) if table.precision else None,
        **table.given("scale"),
    }


def _factored(table: OptimizerTable) -> dict[str, Any]:
    """The options that Shampoo and SOAP share."""
    from matfn.optim import Cutting

    cutting = None if table.block is None else Cutting(block=table.block)
    return {**_shared(table), "momentum": table.momentum, "nesterov": table.nesterov, "cutting": cutting}


def _shared(table: OptimizerTable) -> dict[str, Any]:
    """The options that all of them share."""
    rest = table.rest
    betas = (rest.beta1, rest.beta2)
    return {
        "lr": table.lr,
        "weight_decay": table.weight_decay,
        "rest": {"lr": rest.lr, "weight_decay": rest.weight_decay, "betas": betas, "eps": rest.eps},
    }
