"""The state of one parameter: described, made, counted, and refused if the model has changed."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .matrices.buckets import Kind, working_dtype
from .matrices.layout import Layout
from .matrices.shards import is_dtensor, like_shard, local
from .rest import StateLike

__all__ = ["COUNTER", "check_state", "count", "described", "kinds_of", "make_state", "settle"]

COUNTER = "step"


def kinds_of(chain: Iterable[Any], shape: tuple[int, ...], options: Mapping[str, Any]) -> dict[str, Kind]:
    """The state of a chain of rules for matrices of a shape.

    Raises:
        ValueError: If two rules use one key, or "step" is no counter.
    """
    found: dict[str, Kind] = {}
    for rule in chain:
        for key, kind in rule.state(shape, options).items():
            if (key == COUNTER) != (kind == "counter"):
                raise ValueError(f'{rule!r} keeps {key!r} of the kind {kind!r}: "step" is the key of the counter.')
            if key in found and key != COUNTER:
                raise ValueError(f"{rule!r} keeps {key!r}, as another rule of its chain does: choose another key.")
            found[key] = kind
    return found


def described(param: Tensor, layout: Layout, kinds: Callable[[tuple[int, ...]], Mapping[str, Kind]]) -> StateLike:
    """Shape and dtype of each state tensor of a matrix parameter, from the kinds for each shape; see `Rule.state`."""
    dtype, found = working_dtype(param), StateLike()
    rows = tuple(layout.split[axis] for axis in (*layout.batch, *layout.outer, layout.rows))
    shapes = {"element": tuple(param.shape), "row": rows, "matrix": (len(layout.cuts), layout.matrices[0][0])}
    for (b, m, n), shape in zip(layout.matrices, layout.shapes, strict=True):
        for key, kind in kinds(shape).items():
            if kind == "counter":
                found[key] = ((), None)
            elif isinstance(kind, str):
                found[key] = (shapes[kind], dtype)
            elif b * m * n:
                before = found[key][0][0] if key in found else 0
                found[key] = ((before + b * kind[0], *kind[1:]), dtype)
    return found


def make_state(state: MutableMapping[str, Any], param: Tensor, like: StateLike) -> None:
    """Add zeros for every missing tensor of a parameter at once, because half of its state would not load again.

    Tensors of the parameter's shape have its strides, and are DTensors placed as the parameter is if it is one. Other
    tensors are whole. A dtype None means a float32 counter on the host.
    """
    for key, (shape, dtype) in like.items():
        if key not in state and shape == tuple(param.shape):
            state[key] = like_shard(torch.zeros_like(local(param), dtype=dtype), param)
        elif key not in state:
            device = "cpu" if dtype is None else param.device
            state[key] = torch.zeros(shape, dtype=dtype or torch.float32, device=device)


def count(states: Iterable[MutableMapping[str, Any]]) -> None:
    """Count one step in each state, a 0-d float32 tensor on the host, so that reading it does not wait."""
    for state in states:  # a new tensor, because earlier state dicts share the old one
        state[COUNTER] = state[COUNTER] + 1 if COUNTER in state else torch.ones((), dtype=torch.float32, device="cpu")


def settle(*chains: Iterable[Any]) -> None:
    """Finish what rules left until the device has computed it, and wait for it; see `Link.settle`."""
    for chain in chains:
        for rule in chain:
            rule.settle()


def placed(x: Tensor) -> str:
    """How a tensor is placed, for comparison and messages."""
    return f"a DTensor with {x.placements} on {x.device_mesh}" if is_dtensor(x) else "a plain tensor"


def check_state(state: Mapping[str, Any], param: Tensor, expected: StateLike, where: str) -> None:
    """Raise RuntimeError for state that was made before the parameter was converted or moved.

    Casting it would hide that the model has changed, and round a float64 momentum.
    """
    for key, (shape, dtype) in expected.items():
        held = state.get(key)
        if held is None or dtype is None or held.is_meta:  # a counter may stay on the host; owners hold meta state
            continue
        if shape == tuple(param.shape) and placed(held) != placed(param):
            raise RuntimeError(
                f"{where} is {placed(param)}, but its {key!r} is {placed(held)}: it was sharded or gathered after the "
                "optimizer's first step. Make a new optimizer after you shard a model, and load the state dict of the "
                "old one."
            )
        if (held.dtype, held.device, tuple(held.shape)) != (dtype, param.device, shape):
            if tuple(held.shape) != shape:
                raise RuntimeError(
                    f"{where} has shape {tuple(param.shape)} and needs {key!r} of shape {shape}, but has it "
                    f"in {tuple(held.shape)}: it was resized. Make a new optimizer after you resize a parameter."
                )
            raise RuntimeError(
                f"{where} is now {param.dtype} on {param.device} and needs its {key!r} in {dtype} there, "
                f"but has it in {held.dtype} on {held.device}: the model was converted or moved after the optimizer's "
                "first step, or its rounding was changed. Convert the model before you make the optimizer, or cast the "
                "state once by optimizer.load_state_dict(optimizer.state_dict())."
            )
