"""Count what one step of an optimizer would launch on an NVIDIA GPU, without one.

Tensors are fake: they say that they are on CUDA and have no memory. So the step takes the branches for CUDA, and a
value that it reads from a tensor raises an error. An operation that is no view counts as one launch. A foreach
operation counts once for each 100 tensors of its first list: torch passes about as many addresses to one kernel. A
Triton kernel counts once, and is not run. Counts are of torch's operations: a few of them (a matrix product whose sums
are split, an index) launch two kernels, so the true number is slightly larger.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from matfn.optim.optimizer import MatrixOptimizer

_PER_LAUNCH = 100
# No work on the device: memory, shapes and Python.
_FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "device", "detach", "alias")
_FREE += ("_unsafe_view", "_reshape_alias", "lift_fresh", "_record_function_enter_new", "_record_function_exit")


class Launches(TorchDispatchMode):
    """{operation: launches} of everything inside ``with Launches() as found``, in `found.counts`."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name.startswith("_foreach"):
            self.counts[name] += -(-len(args[0]) // _PER_LAUNCH)
        elif not func.is_view and name not in _FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """The number of all launches."""
        return sum(self.counts.values())


class Indexing(TorchFunctionMode):
    """Indexes and copies fake CUDA tensors by torch's operators, because torch without CUDA refuses the methods."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            return _indexed(*args)
        if func is Tensor.__setitem__:
            x, index, value = args
            part = _indexed(x, index)
            return torch.ops.aten.copy_(part, value) if isinstance(value, Tensor) else part.fill_(value)
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if "not linked" not in str(error):
                raise
            name = {"__invert__": "bitwise_not"}.get(func.__name__, str(func.__name__))
            return getattr(torch.ops.aten, name)(*args, **(kwargs or {}))


def _indexed(x: Tensor, index: Any) -> Tensor:
    """``x[index]`` by views."""
    axis = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is Ellipsis:
            axis = x.ndim - sum(each is not None and each is not Ellipsis for each in index)
        elif part is None:
            x, axis = x.unsqueeze(axis), axis + 1
        elif isinstance(part, int):
            x = x.select(axis, part)
        else:
            start, stop, step = part.indices(x.shape[axis])
            x, axis = torch.ops.aten.slice.Tensor(x, axis, start, stop, step), axis + 1
    return x


@contextmanager
def hopper(found: Launches) -> Iterator[None]:
    """Pretend to have an sm_90 card with cuBLAS's products, and count Triton kernels instead of running them."""
    names = {"MATFN_MACHINE": "cuda-sm90", "MATFN_PRODUCTS": "eager"}
    card = {"get_device_capability": lambda *_: (9, 0), "device_of": nullcontext, "device": nullcontext}
    with patch.dict(os.environ, names), patch.multiple(torch.cuda, **card), _counted_triton(found):
        yield


@contextmanager
def _counted_triton(found: Launches) -> Iterator[None]:
    try:
        from triton.runtime.jit import JITFunction  # pyright: ignore[reportMissingImports]
    except ImportError:
        yield
        return
    held = JITFunction.run

    def run(self: Any, *args: Any, **kwargs: Any) -> None:
        found.counts[f"triton {self.__name__}"] += 1

    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = held


def step_launches(
    kind: Callable[..., MatrixOptimizer],
    shapes: Sequence[tuple[int, ...]],
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[Launches, int]:
    """The launches of the third step of an optimizer on matrices of these shapes, and the number of its buckets."""
    with FakeTensorMode(), Indexing():
        params = [nn.Parameter(torch.empty(shape, device="cuda", dtype=dtype)) for shape in shapes]
        for param in params:
            param.grad = torch.empty_like(param)
        optimizer = kind(params, **options)
        found = Launches()
        with hopper(found):
            optimizer.step()
            optimizer.step()
            found.counts.clear()
            with found:
                optimizer.step()
    return found, len(optimizer.buckets)
