"""Autocast off: the dtype of these products is the caller's, or asked for by name, and never torch.autocast's."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["without_autocast"]


def without_autocast(A: Tensor) -> AbstractContextManager[object]:
    """A context in which products of tensors on the device of A keep their dtype.

    Under autocast a float32 root would be multiplied out in bfloat16: the accurate functions would not be accurate.
    """
    kind = A.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
