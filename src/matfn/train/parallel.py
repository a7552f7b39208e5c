"""Parallel: a model over several processes as `[parallel]` says, by torch's own DDP, FSDP2 and tensor parallelism."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from matfn.optim.matrices.shards import is_dtensor, local
from matfn.train import TrainError, processes
from matfn.train.data import Corpus
from matfn.train.model import GPT, Block
from matfn.train.recipe import Recipe

__all__ = ["check", "check_text", "clip", "data_part", "sharded_like", "spread", "summed", "whole"]


def check(recipe: Recipe) -> None:
    """Check that `[parallel]` fits the number of processes, the model and the batch.

    Raises:
        TrainError: It does not; the message says what to type.
    """
    kind, number, arguments = recipe.parallel.kind, processes.count(), shlex.join(sys.argv[1:])
    if kind == "none":
        if number > 1:
            raise TrainError(
                f'{number} processes would each train the whole run, because parallel.kind = "none": add '
                "--set parallel.kind=ddp (or fsdp, or tp), or start matfn without torchrun"
            )
        return
    if not processes.joined():
        command = processes.line(arguments, processes=max(2, recipe.parallel.tp))
        raise TrainError(
            f'parallel.kind = "{kind}" needs torchrun: {command} (or one process: --set parallel.kind=none)'
        )
    here, found = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > found > 0 and recipe.train.device != "cpu":
        raise TrainError(
            f"each process takes a GPU, and {here} processes on this machine have {found}: start fewer, "
            'or set train.device = "cpu"'
        )
    if number % recipe.parallel.tp:
        raise TrainError(f"parallel.tp = {recipe.parallel.tp} does not divide the {number} processes: start a multiple")
    if recipe.telemetry.every:
        raise TrainError(f'telemetry works in one process, not with parallel.kind = "{kind}": set telemetry.every = 0')
    shares = _shares(recipe)
    if recipe.train.batch % shares:
        raise TrainError(
            f"train.batch = {recipe.train.batch} cannot be divided by {shares}, the number of shares: take a multiple"
        )
    tensor = number // shares
    if tensor > 1 and recipe.model.name != "gpt":
        raise TrainError(f'tensor parallelism takes model.name = "gpt", not "{recipe.model.name}": use kind = "fsdp"')
    if recipe.model.heads % tensor:
        raise TrainError(f"model.heads = {recipe.model.heads} cannot be divided by {tensor} processes: take a multiple")


def _shares(recipe: Recipe) -> int:
    """The number of shares that a batch is divided into."""
    return {"none": 1, "tp": 1}.get(recipe.parallel.kind, processes.count() // recipe.parallel.tp)


def data_part(recipe: Recipe) -> tuple[int, int]:
    """The share of each batch that this process takes, and the number of shares."""
    shares = _shares(recipe)
    rank = torch.distributed.get_rank() if processes.count() > 1 else 0
    return rank * shares // processes.count(), shares


def check_text(corpus: Corpus) -> None:
    """Check that this process reads the text of the first process; they may be on different machines.

    Raises:
        TrainError: It reads another.
    """
    if processes.from_first(lambda: corpus.order) != corpus.order:
        raise TrainError(
            f"process {torch.distributed.get_rank()} reads another text than process 0, from {corpus.facts['source']}: "
            "copy data.path to every machine; the built-in text depends on Python's version"
        )


def spread(model: nn.Module, recipe: Recipe, device: torch.device) -> nn.Module:
    """Spread a model, the same in each process, over all of them. Returns the module to call.

    FSDP2 and tensor parallelism change `model` itself: its parameters become DTensors. DDP wraps it. Embeddings, head
    and norms are whole in each process of a tensor-parallel group.

    Raises:
        TrainError: As for `check`.
    """
    check(recipe)
    kind, tensor = recipe.parallel.kind, recipe.parallel.tp
    if kind == "none":
        return model
    if kind == "ddp":
        devices = [device] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)
    if kind == "tp":
        _split(model, init_device_mesh(device.type, (processes.count(),), mesh_dim_names=("tp",)))
        return model
    mesh = init_device_mesh(device.type, (processes.count() // tensor, tensor), mesh_dim_names=("dp", "tp"))
    if tensor > 1:
        _split(model, mesh["tp"])
    for blocks in [module for module in model.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    return model


def summed(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """The context of one of several passes whose gradients are added; DDP sends their sum in the last one only.

    FSDP2 sends the gradients of each pass, because whole gradients would take the memory that it saves.
    """
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()


def _split(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the heads of attention and the hidden units of the MLP among the processes of a mesh."""
    assert isinstance(model, GPT)
    columns, rows = ("q", "k", "v", "up"), ("out", "down")
    for block in model.blocks:
        assert isinstance(block, Block)
        styles: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in columns}
        styles |= {name: RowwiseParallel() for name in rows}
        parallelize_module(block, mesh, styles)


def whole(state: Any) -> Any:
    """A state dict in which each DTensor is whole. All processes call it; only the first one keeps the tensors."""
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if processes.first() else None
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def sharded_like(value: Any, parameter: Tensor) -> Any:
    """A whole tensor of the parameter's shape, divided as the parameter is; any other value unchanged."""
    if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
        moved = value.to(parameter.to_local().device)
        return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def clip(parameters: Iterable[Tensor], most: float) -> None:
    """Scale all gradients down together, so that their norm over the whole model is at most `most`."""
    parameters = list(parameters)
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        nn.utils.clip_grad_norm_(parameters, most)
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    shares = [local(gradient).float().square().sum() / _holders(gradient) for gradient in gradients]
    squares = processes.mean(torch.stack(shares).sum()) * processes.count()
    factor = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # as in clip_grad_norm_
    for gradient in gradients:
        local(gradient).mul_(factor)


def _holders(x: Tensor) -> int:
    """The number of processes that hold each entry of a tensor."""
    if not is_dtensor(x):
        return processes.count()
    # FSDP's _StridedShard answers False to is_shard().
    parts = [x.device_mesh.size(axis) for axis, place in enumerate(x.placements) if not place.is_replicate()]
    return processes.count() // math.prod(parts)
