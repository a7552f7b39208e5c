"""Refuse to compile a triton kernel while a CUDA graph is captured: loading code would end the capture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["address", "check_compiled"]

_COMPILED: set[tuple[object, ...]] = set()


@contextmanager
def check_compiled(
    kernel: Any, device: torch.device, given: Sequence[object], options: Mapping[str, object]
) -> Iterator[None]:
    """Launch a kernel inside this context; the next launch of this kind may be captured.

    Raises:
        RuntimeError: A CUDA graph is being captured, and no kernel of this kind has run in the process.
    """
    if device.type != "cuda":
        yield
        return
    kind = (kernel, device, *map(_kind, given), *options.values())
    if kind not in _COMPILED and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"the triton kernel {kernel.__name__} has not been compiled for these arguments ({device}, "
            f"{', '.join(f'{key}={value}' for key, value in options.items())}), and cannot be while a CUDA graph is "
            "captured: run the same step once before the capture"
        )
    yield
    _COMPILED.add(kind)


def _kind(value: Any) -> object:
    """Return what triton compiles for: types, whether an integer is 1, whether memory and integers are aligned."""
    if isinstance(value, Tensor):
        return value.dtype, address(value) % 16 == 0
    if isinstance(value, int):
        return value == 1, value % 16 == 0, value >= 2**31
    if hasattr(value, "block_shape"):  # a tensor descriptor
        return value.base.dtype, tuple(value.block_shape)
    return type(value)


def address(X: Tensor) -> int:
    """Return the address of X; of a fake tensor, which has none, the distance from the start of its memory."""
    fake = isinstance(X, torch._subclasses.FakeTensor)
    return int(X.storage_offset()) * X.itemsize if fake else X.data_ptr()
