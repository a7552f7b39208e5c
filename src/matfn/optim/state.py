"""The state of one parameter while it trains: made as described, counted, and refused when the model has changed."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .matrices.buckets import Kind, working_dtype
from .matrices.layout import Layout
from .rest import StateLike

__all__ = ["COUNTER", "check_state", "count", "described", "make_state"]

COUNTER = "step"


def described(param: Tensor, layout: Layout, kinds: Callable[[tuple[int, ...]], Mapping[str, Kind]]) -> StateLike:
    """Shape and dtype of each state tensor of a matrix parameter.

    Args:
        param: the parameter.
        layout: how it is read as matrices.
        kinds: what rules keep for matrices of a shape; see `Rule.state`.
    """
    dtype, found = working_dtype(param), StateLike()
    rows = tuple(layout.split[axis] for axis in (*layout.batch, layout.rows))
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
    """Add zeros for all that is described and not there yet.

    All at once: a checkpoint with half of a parameter's state would not load.

    Args:
        state: the parameter's, changed.
        param: gives the device, and the strides of what has its shape.
        like: shape and dtype (None: float32) of each tensor.
    """
    for key, (shape, dtype) in like.items():
        if key not in state:
            same = shape == tuple(param.shape)
            state[key] = (
                torch.zeros_like(param, dtype=dtype)
                if same
                else torch.zeros(shape, dtype=dtype or torch.float32, device="cpu" if dtype is None else param.device)
            )


def count(states: Iterable[MutableMapping[str, Any]]) -> None:
    """One more step in each state: a 0-d float32 tensor on the host, where it is read without waiting."""
    for state in states:  # a new tensor, because a state dict given out before shares the old one
        state[COUNTER] = state[COUNTER] + 1 if COUNTER in state else torch.ones((), dtype=torch.float32, device="cpu")


def check_state(
    state: Mapping[str, Any],
    param: Tensor,
    expected: StateLike,
    name: str,
) -> None:
    """Refuse state that was made for the parameter before it was converted or moved.

    Casting it in passing would hide that the model changed under the optimizer, and round a float64 momentum.

    Args:
        state: the parameter's, empty before its first step.
        param: the parameter as it is now.
        expected: shape and dtype (None: any) of each state tensor.
        name: the parameter's name, for the message.

    Raises:
        RuntimeError: naming the parameter, what it is now and what its state is.
    """
    for key, (shape, dtype) in expected.items():
        held = state.get(key)
        if held is None or dtype is None:  # a counter may stay on the host
            continue
        if (held.dtype, held.device, tuple(held.shape)) != (dtype, param.device, shape):
            raise RuntimeError(
                f"parameter {name!r} is now {param.dtype} on {param.device} and needs its {key!r} in {dtype} there, "
                f"but holds it in {held.dtype} on {held.device}: the model was converted or moved after the optimizer "
                "had stepped. Convert first and then make the optimizer; or cast the state, once, by "
                "optimizer.load_state_dict(optimizer.state_dict())."
            )
