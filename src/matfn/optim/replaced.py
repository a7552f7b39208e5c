"""Replaced: Accelerate shards a model after its optimizer was made, and puts the DTensors into the optimizer's groups.

`Accelerator.prepare(model, optimizer)` works so with FSDP2, and so does the Trainer of transformers. Layouts belong to
tensors. So the layout of a plain parameter goes to the DTensor in its place, if the parameter has not moved yet.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from .matrices.shards import is_dtensor

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer

__all__ = ["Made"]


class Made:
    """The parameters with which the groups of an optimizer were made."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[list[Tensor], tuple[Tensor, ...]]] = {}

    def adopt(self, optimizer: "MatrixOptimizer") -> None:
        """Give layouts to DTensors that took the places of plain parameters since the last call.

        Other tensors in a group are left as they are. The step refuses them by name.
        """
        for index, group in enumerate(optimizer.param_groups):
            params = group["params"]
            held, before = self._groups.get(index, (None, ()))
            if held is params:
                continue
            for old, new in zip(before, params, strict=False):
                if old is not new and is_dtensor(new) and not is_dtensor(old) and not optimizer.state.get(old):
                    optimizer.take_over(old, new)
            self._groups[index] = (params, tuple(params))
