"""Optimizers from recipe tables. One plan decides for all of them which parameters are matrices: a fair split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from matfn.train.chosen import torch_muon_dtype
from matfn.train.errors import TrainError
from matfn.train.recipe import EmbeddingsTable, OptimizerTable, RestTable, TrainTable

if TYPE_CHECKING:
    from matfn.optim import Entry


_TABLES = ("embedding", "position", "tied head", "head")  # the roles that an embeddings table is about


class Optimizers:
    """One or two torch optimizers that step, rest and are checkpointed together, each under the same schedule."""

    def __init__(self, members: Iterable[torch.optim.Optimizer], train: TrainTable) -> None:
        """Args: the optimizers (two for torch's Muon, which refuses what is no matrix) and the schedule's table."""
        self.members = tuple(members)
        self.schedules = tuple(LambdaLR(member, lambda step: wsd(step, train)) for member in self.members)

    def step(self) -> None:
        """One step of each."""
        for member in self.members:
            member.step()

    def finish(self) -> None:
        """Drop the gradients and move the schedules on."""
        for member, schedule in zip(self.members, self.schedules, strict=True):
            member.zero_grad(set_to_none=True)
            schedule.step()

    def lr(self) -> float:
        """The present learning rate of the first group: the matrices', or AdamW's."""
        return float(self.schedules[0].get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values of all members and schedules."""
        # LambdaLR also lists its functions (as None, since they are no objects); the recipe already holds them.
        schedules = [{k: v for k, v in s.state_dict().items() if k != "lr_lambdas"} for s in self.schedules]
        return {"members": [member.state_dict() for member in self.members], "schedules": schedules}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, for optimizers made from the same recipe."""
        for member, saved in zip(self.members, state["members"], strict=True):
            member.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict({**saved, "lr_lambdas": [None] * len(schedule.base_lrs)})


def wsd(step: int, train: TrainTable) -> float:
    """Warm-up, stable, decay: the factor on the learning rate at `step` = 0, 1, ... of `train.steps`.

    Linear up over `warmup` steps, 1, then linear down over the last `cooldown` share, never quite 0 within the run.

    References:
        Hu et al., MiniCPM, arXiv 2404.06395 (the schedule); Haegele et al., arXiv 2405.18392 (linear cooldown).
    """
    decay = round(train.cooldown * train.steps)
    up = (step + 1) / train.warmup if step < train.warmup else 1.0
    down = (train.steps - step) / decay if decay and step >= train.steps - decay else 1.0
    return max(0.0, min(up, down))


def check(table: OptimizerTable, where: str, device: torch.device) -> None:
    """Make the optimizer and step it once on a small matrix: what matfn refuses is known before anything is written.

    Args:
        table: The optimizer. Torch's own take everything the recipe's ranges allow.
        where: Where it stands in the recipe, for the message.
        device: Where it will run: not every device has products in every precision.

    Raises:
        TrainError: The method is unknown, or does not go with the other options.
    """
    if table.kind not in MAKERS and table.embeddings is None:
        return
    weight, bias = nn.Parameter(torch.eye(4, device=device)), nn.Parameter(torch.ones(4, device=device))
    weight.grad, bias.grad = weight.detach().clone(), bias.detach().clone()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if table.kind in MAKERS:
                MAKERS[table.kind](table, [{"params": [weight]}, {"params": [bias], "rule": "adamw"}]).step()
            if table.embeddings is not None:
                where = f"{where}.embeddings"
                embeddings(table.embeddings, [weight]).step()
    except TrainError as error:
        raise TrainError(f"{where}.{error}") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise TrainError(f"{where}: {' '.join(str(error).split())}") from error


def make_optimizers(table: OptimizerTable, model: nn.Module, train: TrainTable) -> Optimizers:
    """Build what the table describes for the parameters of `model`.

    Raises:
        TrainError: The method is unknown, torch's Muon is asked for a matrix stored in more than two dimensions, or
            there is nothing for an embeddings table.
    """
    from matfn.optim import Plan, plan

    entries = [entry for entry in plan(model) if entry.rule != "frozen"]
    tables = [e for e in entries if table.embeddings is not None and e.role in _TABLES and e.parameter.ndim == 2]
    taken = {entry.name for entry in tables}
    entries = [entry for entry in entries if entry.name not in taken]
    members = [MAKERS[table.kind](table, Plan(tuple(entries)))] if table.kind in MAKERS else _torchs(table, entries)
    if table.embeddings is not None:
        if not tables:
            raise TrainError("this model has no embedding and no head for the embeddings table: drop it")
        members.append(embeddings(table.embeddings, [(entry.name, entry.parameter) for entry in tables]))
    return Optimizers(members, train)


def _torchs(table: OptimizerTable, entries: Sequence[Entry]) -> list[torch.optim.Optimizer]:
    """Torch's own AdamW, alone or beside torch's own Muon."""
    matrices = [entry for entry in entries if entry.rule == "matrix"]
    others = [entry.parameter for entry in entries if entry.rule == "adamw"]
    if table.kind == "torch-muon":
        deep = [entry.name for entry in matrices if entry.parameter.ndim != 2]
        if deep:
            raise TrainError(
                f"torch.optim.Muon takes weights with two axes only; {deep[0]} has more: use kind = 'muon'"
            )
        return [_torch_muon(table, [e.parameter for e in matrices]), _adamw(others, table.rest)]
    rule = RestTable(lr=table.lr, weight_decay=table.weight_decay, **_moments(table.rest))
    return [_adamw([entry.parameter for entry in entries], rule)]


def _moments(rest: RestTable) -> dict[str, float]:
    return {"beta1": rest.beta1, "beta2": rest.beta2, "eps": rest.eps}


def _adamw(parameters: Sequence[torch.Tensor], rest: RestTable) -> torch.optim.Optimizer:
    # Norms and biases are not decayed: a gain pulled to 0 is no simpler a network. Muon's `rest` does the same.
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    kept = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    betas = (rest.beta1, rest.beta2)
    return torch.optim.AdamW(groups, lr=rest.lr, weight_decay=rest.weight_decay, betas=betas, eps=rest.eps)


def _torch_muon(table: OptimizerTable, matrices: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    """torch.optim.Muon, or its steps in float32 where bfloat16 is slow."""
    from matfn.train.float32_muon import Float32Muon  # torch 2.8 has no Muon to derive from

    device = matrices[0].device if matrices else torch.device("cpu")
    kind = torch.optim.Muon if torch_muon_dtype(device) == torch.bfloat16 else Float32Muon
    return kind(
        matrices,
        lr=table.lr,
        weight_decay=table.weight_decay,
        momentum=table.momentum,
        nesterov=bool(table.nesterov),
        adjust_lr_fn="original" if table.scale == "jordan" else "match_rms_adamw",
    )


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


def adamuon(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """AdaMuon, with its options and AdamW for the rest."""
    from matfn.optim import AdaMuon

    options = {"momentum": table.momentum, "nesterov": table.nesterov, **table.given("beta2")}
    return AdaMuon(params, **_common(table), **options)


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
    "adamuon": adamuon,
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
    """The options that Muon, NorMuon, AdaMuon and PolarGrad share."""
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
