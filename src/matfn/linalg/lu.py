"""LU: torch.linalg.inv_ex, with a way around torch's errors in batches on a CPU."""

import torch
from torch import Tensor

__all__ = ["inv_ex"]

# From this number of rows a CPU inverts the matrices of a batch one by one: torch 2.13 with MKL returns wrong inverses
# for batches of 200 rows (docs/numerics.md, "Batched LU on a CPU"). One by one takes no longer.
_ROWS = 64


def inv_ex(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return A^-1 of each matrix (..., n, n) and the info (...) of torch: 0, or the number of the zero pivot."""
    n = A.shape[-1]
    if A.device.type != "cpu" or n < _ROWS or A.ndim == 2 or A.shape[:-2].numel() <= 1:
        inverse, info = torch.linalg.inv_ex(A)
        return inverse, info
    each = [torch.linalg.inv_ex(matrix) for matrix in A.reshape(-1, n, n).unbind()]
    inverse, info = torch.stack([one for one, _ in each]), torch.stack([info for _, info in each])
    return inverse.reshape(A.shape), info.reshape(A.shape[:-2])
