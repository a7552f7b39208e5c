"""Optimizers from recipe tables. One plan splits the parameters for all optimizers, so that the comparison is fair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import matfn
from matfn.optim import SOAP, AdaMuon, Cutting, Entry, Muon, NorMuon, Plan, PolarGrad, Shampoo, minimax, plan
from matfn.run.machine import machine
from matfn.train import TrainError
from matfn.train.model import skeleton
from matfn.train.recipe import MATFN, EmbeddingsTable, OptimizerTable, Recipe, RestTable, TrainTable
from matfn.train.settings import brief

CLASSES: dict[str, Any] = {
    "muon": Muon,
    "normuon": NorMuon,
    "adamuon": AdaMuon,
    "polargrad": PolarGrad,
    "shampoo": Shampoo,
    "soap": SOAP,
}
_TABLES = ("embedding", "position", "tied head", "head")  # the roles that an embeddings table takes


class Optimizers:
    """One or two torch optimizers that step and are checkpointed together, under one schedule."""

    def __init__(self, members: Iterable[torch.optim.Optimizer], train: TrainTable) -> None:
        """Args: the optimizers (two for torch's Muon, which takes matrices only) and the schedule's table."""
        self.members = tuple(members)
        self.schedules = tuple(LambdaLR(member, lambda step: wsd(step, train)) for member in self.members)

    def step(self) -> None:
        """One step of each."""
        for member in self.members:
            member.step()

    def finish(self) -> None:
        """Drop the gradients and advance the schedules."""
        for member, schedule in zip(self.members, self.schedules, strict=True):
            member.zero_grad(set_to_none=True)
            schedule.step()

    def lr(self) -> float:
        """The present learning rate of the first group: of the matrices, or of AdamW."""
        return float(self.schedules[0].get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values of all members and schedules."""
        # LambdaLR also saves its functions, as None; the recipe already determines them.
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
    """Make the optimizer and step it once on a small matrix, so that a mistake shows before any file is written.

    Some devices lack products in some precisions. Torch's own optimizers take everything that a recipe allows.
    `where` is the place in the recipe, for the message.

    Raises:
        TrainError: The method is unknown, or does not go with the other options, or this torch has no Muon.
    """
    if table.kind == "torch-muon" and not hasattr(torch.optim, "Muon"):
        raise TrainError(f'{where}.kind = "torch-muon" needs torch 2.9 or newer, this is {torch.__version__}')
    if table.kind not in CLASSES and table.embeddings is None:
        return
    weight, bias = nn.Parameter(torch.eye(4, device=device)), nn.Parameter(torch.ones(4, device=device))
    weight.grad, bias.grad = weight.detach().clone(), bias.detach().clone()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if table.kind in CLASSES:
                _matfn(table, [{"params": [weight]}, {"params": [bias], "rule": "adamw"}]).step()
            if table.embeddings is not None:
                where = f"{where}.embeddings"
                _embeddings(table.embeddings, [weight]).step()
    except TrainError as error:
        raise TrainError(f"{where}.{error}") from None
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise TrainError(f"{where}: {' '.join(str(error).split())}") from error


def make_optimizers(table: OptimizerTable, model: nn.Module, train: TrainTable) -> Optimizers:
    """Build what the table describes for the parameters of `model`.

    Raises:
        TrainError: The method is unknown, a weight has more than two axes and torch's Muon is asked for, or the model
            has no embedding for an embeddings table.
    """
    entries = [entry for entry in plan(model) if entry.rule != "frozen"]
    tables = [e for e in entries if table.embeddings is not None and e.role in _TABLES and e.parameter.ndim == 2]
    taken = {entry.name for entry in tables}
    entries = [entry for entry in entries if entry.name not in taken]
    members = [_matfn(table, Plan(tuple(entries)))] if table.kind in CLASSES else _torchs(table, entries)
    if table.embeddings is not None:
        if not tables:
            raise TrainError("this model has no embedding and no head for the embeddings table: drop it")
        members.append(_embeddings(table.embeddings, [(entry.name, entry.parameter) for entry in tables]))
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
    rest = replace(table.rest, lr=table.lr, weight_decay=table.weight_decay)
    return [_adamw([entry.parameter for entry in entries], rest)]


def _adamw(parameters: Sequence[torch.Tensor], rest: RestTable) -> torch.optim.Optimizer:
    # Gains of norms and biases are not decayed, as in the `rest` of matfn's optimizers.
    decayed = {"params": [parameter for parameter in parameters if parameter.ndim >= 2]}
    kept = {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0}
    return torch.optim.AdamW([group for group in (decayed, kept) if group["params"]], **_adamw_options(rest))


def _adamw_options(rest: RestTable) -> dict[str, Any]:
    betas = (rest.beta1, rest.beta2)
    return {"lr": rest.lr, "weight_decay": rest.weight_decay, "betas": betas, "eps": rest.eps}


def _torch_muon(table: OptimizerTable, matrices: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    """torch.optim.Muon, or its steps in float32 where bfloat16 is slow."""
    from matfn.train.float32_muon import Float32Muon  # torch 2.8 has no Muon to derive from

    device = matrices[0].device if matrices else torch.device("cpu")
    kind = torch.optim.Muon if machine(device).working(torch.bfloat16) == torch.bfloat16 else Float32Muon
    return kind(
        matrices,
        lr=table.lr,
        weight_decay=table.weight_decay,
        momentum=table.momentum,
        nesterov=bool(table.nesterov),
        adjust_lr_fn="original" if table.scale == "jordan" else "match_rms_adamw",
    )


def _matfn(table: OptimizerTable, params: Any) -> torch.optim.Optimizer:
    """An optimizer of matfn with the options that the recipe gives, and AdamW for the rest."""
    options = {"momentum": table.momentum, "nesterov": table.nesterov, **table.own}
    if table.kind == "polargrad":
        del options["nesterov"]
        if table.variant == "vanilla":
            del options["momentum"]
    if (method := options.get("method")) is not None:
        options["method"] = minimax if (table.kind, method) == ("shampoo", "minimax") else _method(method)
    if "precision" in options:
        options["precision"] = getattr(torch, options["precision"])
    if "block" in options:
        options["cutting"] = Cutting(block=options.pop("block"))
    rest = _adamw_options(table.rest)
    return CLASSES[table.kind](params, lr=table.lr, weight_decay=table.weight_decay, rest=rest, **options)


def on_a_matrix(table: OptimizerTable) -> Any:
    """The optimizer of matfn that the table describes, on a small matrix and a vector: for its rules and options."""
    return _matfn(table, [{"params": [torch.zeros(2, 2)]}, {"params": [torch.zeros(2)], "rule": "adamw"}])


def _embeddings(table: EmbeddingsTable, params: Any) -> torch.optim.Optimizer:
    """PolarGrad for embeddings and head alone."""
    method = _method(table.method) if table.method is not None else None
    decay = table.weight_decay
    return PolarGrad(params, table.lr, momentum=table.momentum, scale=table.scale, weight_decay=decay, method=method)


def _method(text: str) -> Any:
    try:
        return matfn.method(text)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise TrainError(f"method = {brief(text)}: {error}") from None


def unlike(recipe: Recipe, vocabulary: int) -> str:
    """The differences between the arms beside their optimizers, in a sentence; empty if there are none.

    Two depend on how a model stores its weights. A fused matrix (GPT-2's q, k and v) is one matrix to torch's Muon and
    several to matfn's. For a weight stored (in, out), torch's "jordan" scale swaps the sides.
    """
    theirs = [arm for arm in recipe.arms if arm.kind == "torch-muon"]
    ours = " and ".join(arm.label for arm in recipe.arms if arm.kind in MATFN)
    if not theirs or not ours:
        return ""
    model = skeleton(recipe.model, vocabulary, context=recipe.data.context)
    layouts = {entry.name: entry.layout for entry in plan(model) if entry.layout is not None}
    fused = [name for name, layout in layouts.items() if len(layout.cuts) > 1]
    swapped = [n for n, layout in layouts.items() if layout.rows == 1 and layout.shape[0] != layout.shape[1]]
    jordan = " and ".join(arm.label for arm in theirs if arm.scale == "jordan")
    parts = []
    if fused:
        whole, matrices = " and ".join(arm.label for arm in theirs), f"{len(layouts[fused[0]].cuts)} matrices"
        parts.append(f"{whole} orthogonalizes {_first(fused)} whole, {ours} cuts it into {matrices}")
    if swapped and jordan:
        parts.append(f"{_first(swapped)} is stored (in, out), and the scale of {jordan} takes in for out")
    return f"Not like for like: {'; '.join(parts)}." if parts else ""


def _first(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
