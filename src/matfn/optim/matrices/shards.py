"""Shards: the part of a parameter that this process holds. A sharded parameter is a DTensor, a whole one is plain.

FSDP2, HSDP, tensor and expert parallel turn parameters into DTensors. DDP keeps them plain. Nothing here communicates.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["is_dtensor", "like_shard", "local"]


def is_dtensor(x: object) -> "TypeGuard[DTensor]":
    """Whether x is a DTensor. The module of DTensor is not imported, because without it there is no DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local(x: Tensor) -> Tensor:
    """The part of x that this process holds, in the same memory; x itself if it is a plain tensor.

    The shard of a gradient may still be on its way, so it is awaited. No graph is recorded.
    """
    if not is_dtensor(x):
        return x
    with torch.no_grad():
        shard: Any = x.to_local()
    return shard.wait() if hasattr(shard, "wait") else shard  # AsyncCollectiveTensor has `wait`


def like_shard(values: Tensor, param: Tensor) -> Tensor:
    """Local values as a tensor placed as the parameter is: a DTensor for a DTensor, else the values themselves.

    Args:
        values: This process's part, of the shape of ``local(param)``. The result shares its memory.
        param: The parameter.
    """
    if not is_dtensor(param):
        return values
    return type(param).from_local(
        values, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
    )
