"""Autocast: switch torch.autocast off, so that the caller alone chooses the dtype of the products."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["without_autocast"]


def without_autocast(A: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products on the device of A keep the dtype of their factors.

    Autocast would compute the products of a float32 root in bfloat16 and lose its accuracy.
    """
    kind = A.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
