"""Triangle: a symmetric matrix in half of its entries, by a few passes over blocks (rectangular full packed format).

    [A  B]   is stored as   [   B    ]   h rows              h = n / 2; a matrix of odd n gets a row and a column
    [B' C]                  [A low, C]   h + 1 rows          of zeros
                            [and C up]

The last h + 1 rows hold the upper triangle of C in their first h rows, and the lower triangle of A below it.
"""

import torch
from torch import Tensor

__all__ = ["packed", "packed_entries", "unpacked"]


def packed_entries(n: int) -> int:
    """The number of entries that `packed` keeps of an n x n matrix: n (n + 1) / 2 for an even n."""
    even = n + n % 2
    return even * (even + 1) // 2


def packed(M: Tensor) -> Tensor:
    """The entries of a symmetric matrix (n, n) in a vector; of each pair (i, j), (j, i) one is kept."""
    n = M.shape[-1]
    if n % 2:
        M = torch.nn.functional.pad(M, (0, 1, 0, 1))
    h = M.shape[-1] // 2
    found = M.new_zeros(2 * h + 1, h)
    found[:h] = M[:h, h:]
    found[h:-1] = M[h:, h:].triu()
    found[h + 1 :] += M[:h, :h].tril()
    return found.view(-1)


def unpacked(values: Tensor, n: int) -> Tensor:
    """The symmetric matrix (n, n) from the vector of `packed`."""
    h = (n + n % 2) // 2
    found = values.view(2 * h + 1, h)
    M = values.new_empty(2 * h, 2 * h)
    M[:h, h:] = found[:h]
    M[h:, :h] = found[:h].mT
    C, A = found[h:-1].triu(), found[h + 1 :].tril()
    M[h:, h:] = C + C.triu(1).mT
    M[:h, :h] = A + A.tril(-1).mT
    return M[:n, :n].contiguous()
