"""Active: the buckets of the parameters that have a gradient now, found anew only when that set changes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..rest import StateLike
from ..state import COUNTER, check_state
from .buckets import Bucket, check_gradients, fill_buckets
from .layout import Layout
from .padding import Crowd, form_crowds
from .workspace import Workspace

__all__ = ["Active"]

Groups = Sequence[Mapping[str, Any]]


class Active:
    """What one step works on. Made empty; dropped with the optimizer's copies, which find their own.

    Attributes:
        buckets: of the matrices that have a gradient.
        counted: the parameters in them whose state has a counter.
        crowds: the buckets again, those together whose directions are computed together.
        workspace: memory for the stack of any of the buckets.
    """

    def __init__(self) -> None:
        self.buckets: tuple[Bucket, ...] = ()
        self.counted: tuple[Tensor, ...] = ()
        self.crowds: tuple[Crowd, ...] = ()
        self.workspace = Workspace()
        self._key: tuple[Any, ...] | None = None

    def refresh(
        self,
        groups: Groups,
        layouts: Mapping[Tensor, Layout],
        state: Mapping[Tensor, Mapping[str, Any]],
        state_like: Callable[[Tensor, Mapping[str, Any]], StateLike],
        padded_below: int,
    ) -> None:
        """Look which parameters have a gradient, and when those are others than before, sort them into buckets.

        Args:
            groups: all parameter groups.
            layouts: of the matrix parameters.
            state: of the parameters.
            state_like: describes the state of a parameter under its group.
            padded_below: see `form_crowds`.

        Raises:
            RuntimeError: a matrix parameter has a sparse or complex gradient, or the state of a parameter was made for
                another dtype or device.
        """
        active = [(i, p) for i, group in enumerate(groups) for p in group["params"] if p.grad is not None]
        matrices = [member for member in active if groups[member[0]]["rule"] == "matrix"]
        check_gradients(matrices, partial(_name, groups))
        key = (padded_below, *((index, id(param), param.dtype, param.device) for index, param in active))
        if key == self._key:
            return
        for index, param in active:
            expected = state_like(param, groups[index])
            check_state(state.get(param, {}), param, expected, partial(_name, groups, index, param))
        self.buckets = fill_buckets((index, param, layouts[param]) for index, param in matrices)
        moving = {slot.param: groups[slot.group] for bucket in self.buckets for slot in bucket.slots}
        self.counted = tuple(param for param, group in moving.items() if COUNTER in state_like(param, group))
        self.crowds = form_crowds(self.buckets, padded_below)
        self.workspace.reserve(self.buckets)
        self._key = key


def _name(groups: Groups, index: int, param: Tensor) -> str:
    group = groups[index]
    return next(n for n, p in zip(group["param_names"], group["params"], strict=True) if p is param)
