"""Parts: a stack of matrices, such as experts, cut along its first axis into parts with owners of their own.

One owner of 256 experts would compute for long after the others. A part never crosses a cut that the mesh makes on the
first axis (expert parallel), and its owner is one of the ranks that hold it, so nothing travels between the groups of
ranks that hold different experts. Inside such a group there are as many parts as balance needs, and no more, because
each part is a message to every rank of the group.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from .exchange_plan import ROUND, Matrix, boxes, way_of

__all__ = ["parted"]

# A part has at most this share of the mean work of a rank, or one matrix. If no single matrix has more, and every rank
# may own every part, the greatest work of a rank is at most 1.25 times the mean.
SHARE = 1 / 4


def parted(matrices: Sequence[Matrix], mesh: tuple[int, ...], limit: int = ROUND) -> tuple[tuple[Matrix, ...], ...]:
    """The parts of each matrix; a matrix that is not cut is its only part.

    Args:
        matrices: All matrices on the mesh.
        mesh: The sizes of the mesh axes.
        limit: Bytes of a part, if it has more than one matrix: those of a round.
    """
    shared = [matrix.work for matrix in matrices if way_of(matrix, mesh) != "local"]
    most = SHARE * sum(shared) / math.prod(mesh)
    return tuple(_parts(matrix, mesh, most, limit) for matrix in matrices)


def _parts(matrix: Matrix, mesh: tuple[int, ...], most: float, limit: int) -> tuple[Matrix, ...]:
    """The parts of a matrix: at most `most` multiply-adds and `limit` bytes each, or one matrix of the stack."""
    length = matrix.shape[0]
    if not matrix.stack or length < 2 or way_of(matrix, mesh) != "owner":
        return (matrix,)
    work, nbytes = matrix.work / length, math.prod(matrix.shape[1:]) * matrix.itemsize * matrix.tensors
    together = max(1, min(int(most / work) if work else length, limit // max(nbytes, 1)))
    found = []
    for first, last in sorted({box[0] for box in boxes(matrix.shape, mesh, matrix.placements)}):
        number = -(-(last - first) // together)
        for i in range(number):
            start, stop = (first + (last - first) * j // number for j in (i, i + 1))
            shape = (stop - start, *matrix.shape[1:])
            found.append(replace(matrix, shape=shape, work=work * shape[0], stack=False, start=start, length=length))
    return tuple(found) if len(found) > 1 else (matrix,)
