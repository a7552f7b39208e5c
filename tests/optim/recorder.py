"""A stand-in for CUDA graphs on a CPU: it records the operations of a step, and repeats them on the same memory.

As with a CUDA graph, the captured step does not run, numbers of Python are frozen, tensors are read where they lay at
the capture, and reading a value is an error. So a step that would go wrong on a GPU goes wrong here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from matfn.optim.cuda_graphs import Recorder

_READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "_linalg_eigh", "equal")


class Operations(TorchDispatchMode):
    """The operations inside ``with Operations() as found``, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # {memory: (tensor over it, its bytes before)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in _READS:
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")
        for x in [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]:
            place = x.untyped_storage().data_ptr()
            if place and place not in self.kept:
                whole = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())  # pyright: ignore
                self.kept[place] = whole, whole.clone()
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """Put back all memory that existed before."""
        for whole, before in self.kept.values():
            whole.copy_(before)

    @torch.no_grad()
    def repeat(self) -> None:
        """Run the operations again, and write new results where the old ones lie."""
        for func, args, kwargs, old in self.calls:
            if func.is_view:
                continue
            new = func(*args, **kwargs)
            for into, fresh in zip(tree_flatten(old)[0], tree_flatten(new)[0], strict=True):
                if isinstance(into, Tensor) and into.data_ptr() != fresh.data_ptr():
                    into.copy_(fresh)


class Recording(Recorder):
    """Records operations of torch in place of launches."""

    def __init__(self, device: torch.device) -> None:
        self.log: list[str] = []
        self.failure: Exception | None = None

    def warm_up(self, function: Callable[[], None]) -> str:
        """Run; reading a value is an error at the capture."""
        self.log.append("run")
        function()
        return ""

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """Record the operations, and undo what they did."""
        self.log.append("capture")
        if self.failure is not None:
            raise self.failure
        found = Operations()
        try:
            with found:
                function()
        finally:
            found.undo()

        def replay() -> None:
            self.log.append("replay")
            found.repeat()

        return replay
