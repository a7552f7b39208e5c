"""LU: inverses of general matrices by torch.linalg.inv_ex, without the batches in which it is wrong."""

import torch
from torch import Tensor

__all__ = ["inv_ex"]

# From here on a batch is taken apart on a CPU. torch 2.13 with MKL on two threads or more returns garbage for two or
# more matrices of 200 rows (an AMD EPYC; pivots of other matrices, errors of 1e13 or a refusal, "Parameter 6 was
# incorrect on entry to DLASWP"); at 128 rows it was right. One matrix is always right, and as quick.
_ROWS = 64


def inv_ex(A: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1 of each matrix (..., n, n), and torch's info: 0, or which pivot was zero; nothing is raised."""
    n = A.shape[-1]
    if A.device.type != "cpu" or n < _ROWS or A.ndim == 2 or A.shape[:-2].numel() <= 1:
        inverse, info = torch.linalg.inv_ex(A)
        return inverse, info
    each = [torch.linalg.inv_ex(matrix) for matrix in A.reshape(-1, n, n).unbind()]
    inverse, info = torch.stack([one for one, _ in each]), torch.stack([info for _, info in each])
    return inverse.reshape(A.shape), info.reshape(A.shape[:-2])
