"""Shards: the part of a parameter that this process holds. A sharded parameter is a DTensor, a whole one is plain.

FSDP2, HSDP, tensor and expert parallel turn parameters into DTensors. DDP keeps them plain. Only `local_gradient` and
`own_part` may communicate.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from .boxes import Split, boxes

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "as_state",
    "cuts_of_state",
    "is_dtensor",
    "is_flattened",
    "is_unmarked_shard",
    "like_shard",
    "local",
    "local_gradient",
    "offset",
    "own_part",
    "placements_of",
]


def is_dtensor(x: object) -> "TypeGuard[DTensor]":
    """Whether x is a DTensor. The module of DTensor is not imported, because without it there is no DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def is_flattened(param: Tensor) -> bool:
    """Whether a parameter belongs to FullyShardedDataParallel (FSDP1), which flattens parameters into one."""
    return getattr(param, "_is_flat_param", False) or getattr(param, "_fsdp_flattened", False)


def is_unmarked_shard(param: Tensor) -> bool:
    """Whether a plain parameter is a part of a DTensor, as DDP makes them of parameters under tensor parallel."""
    return hasattr(param, "_st_info")


def local(x: Tensor) -> Tensor:
    """The part of x that this process holds, in the same memory; x itself if it is a plain tensor.

    The shard of a gradient may still be on its way, so it is awaited. No graph is recorded.
    """
    if not is_dtensor(x):
        return x
    if torch.is_grad_enabled():
        with torch.no_grad():
            shard: Any = x.to_local()
    else:  # in a step, which asks often: entering no_grad takes longer than the rest
        shard = x.to_local()
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


def placements_of(param: Tensor) -> tuple[Split | None, ...]:
    """How each mesh axis cuts a parameter; see `boxes`. A plain tensor is replicated by one axis."""
    if not is_dtensor(param):
        return (None,)
    cuts: list[Any] = [placement if hasattr(placement, "dim") else None for placement in param.placements]
    return tuple(cut and Split(cut.dim, last=type(cut).__name__ == "_StridedShard") for cut in cuts)


def offset(param: Tensor) -> tuple[int, ...]:
    """The index of the first entry of this process's part in the whole parameter: zeros for a plain tensor."""
    return tuple(where.start for where in _box(param))


def own_part(x: Tensor, param: Tensor) -> Tensor:
    """This process's part of `x`, which has the parameter's whole shape; for a plain parameter all of x.

    Args:
        x: A whole tensor, of which this process's part is a view, or a DTensor. If the DTensor is placed in another way
            than the parameter, this is a collective call on its mesh.
        param: The parameter.
    """
    if is_dtensor(x):
        if not is_dtensor(param):
            return x.full_tensor()
        if x.device_mesh == param.device_mesh:
            return local(x.redistribute(placements=param.placements) if x.placements != param.placements else x)
        x = x.full_tensor()
    return x[_box(param)] if is_dtensor(param) else x


def _box(param: Tensor) -> tuple[slice, ...]:
    """The indices of this process's part in the whole parameter."""
    if not is_dtensor(param):
        return tuple(slice(0, size) for size in param.shape)
    mesh = param.device_mesh
    coordinate, rank = mesh.get_coordinate(), 0
    assert coordinate is not None
    for size, index in zip(mesh.shape, coordinate, strict=True):
        rank = rank * size + index
    box = boxes(tuple(param.shape), tuple(mesh.shape), placements_of(param))[rank]
    return tuple(slice(start, stop) for start, stop in box)


def cuts_of_state(param: Tensor, shape: tuple[int, ...]) -> list[int | None]:
    """The axis that each mesh axis cuts of a state tensor of another shape: the rows of square tensors, else none."""
    assert is_dtensor(param)
    square = len(shape) == 3 and shape[1] == shape[2]
    return [1 if square else None] * param.device_mesh.ndim


def as_state(part: Tensor, param: Tensor, shape: tuple[int, ...], cuts: Sequence[int | None]) -> Tensor:
    """This rank's part of a state tensor as a DTensor; a plain tensor if every rank has all of it."""
    part = part.to(local(param).device)
    if shape == tuple(param.shape):
        return like_shard(part, param)
    if all(axis is None for axis in cuts):
        return part
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert is_dtensor(param)
    placements = [Replicate() if axis is None else Shard(axis) for axis in cuts]
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part, param.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )
