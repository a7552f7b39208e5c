"""Residual: what a method may ask of R = I - M, without a host synchronisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Residual"]


@dataclass(frozen=True)
class Residual:
    """R = I - M, seen through products and norms; R itself is never formed.

    Attributes:
        M: The matrix driven to the identity, (b, n, n).
        p: The exponent of the target.
    """

    M: Tensor
    p: int

    def times(self, W: Tensor) -> Tensor:
        """R W = W - M W for skinny W of shape (b, n, k) or (n, k)."""
        return W - self.M @ W

    def norm(self) -> Tensor:
        """||R||_F of each matrix, (b,), in float32 at least."""
        M = self.M.to(torch.promote_types(self.M.dtype, torch.float32))
        identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
        return torch.linalg.matrix_norm(identity - M)
