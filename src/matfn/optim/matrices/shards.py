"""Shards: the part of a parameter that this process holds. A sharded parameter is a DTensor, a whole one is plain.

FSDP2, HSDP, tensor and expert parallel turn parameters into DTensors. DDP keeps them plain. Only `local_gradient` may
communicate.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["is_dtensor", "is_flattened", "like_shard", "local", "local_gradient", "offset"]


def is_dtensor(x: object) -> "TypeGuard[DTensor]":
    """Whether x is a DTensor. The module of DTensor is not imported, because without it there is no DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def is_flattened(param: Tensor) -> bool:
    """Whether a parameter belongs to FullyShardedDataParallel (FSDP1), which flattens parameters into one."""
    return getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)


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


def local_gradient(param: Tensor) -> Tensor | None:
    """The gradient of this process's part of a parameter; None without a gradient.

    Sequence parallelism leaves gradients of replicated parameters as partial sums. A gradient that is placed in another
    way than its parameter is redistributed, which is a collective call: all processes of the mesh must make it.
    """
    gradient = param.grad
    if is_dtensor(param) and is_dtensor(gradient) and gradient.placements != param.placements:
        gradient = gradient.redistribute(param.device_mesh, param.placements)
    return None if gradient is None else local(gradient)


def offset(param: Tensor) -> tuple[int, ...]:
    """The index of the first entry of this process's part in the whole parameter: zeros for a plain tensor."""
    if not is_dtensor(param):
        return (0,) * param.ndim
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)[1]
