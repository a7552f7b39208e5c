"""Boxes: which entries of a parameter each rank of a mesh holds, one range for each axis."""

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

__all__ = ["Box", "Place", "Split", "boxes", "entries", "held", "holders", "own_range", "sends", "sources"]

Box = tuple[tuple[int, int], ...]  # [start, stop) for each axis of a parameter


class Split(NamedTuple):
    """One mesh axis cuts one axis of a parameter, into parts as of torch.chunk.

    Attributes:
        axis: The axis of the parameter.
        last: Whether the cut is made within the parts of the later mesh axes (FSDP of a tensor-parallel parameter).
    """

    axis: int
    last: bool = False


# The whole shape of a parameter, how each mesh axis cuts it, and the range [start, stop) of a part on its axis 0.
Place = tuple[tuple[int, ...], tuple[Split | None, ...], int, int]


def chunk(length: int, parts: int, index: int) -> tuple[int, int]:
    """[start, stop) of one part of an axis, as torch.chunk and DTensor cut it: the last parts may be empty."""
    size = -(-length // parts)
    return min(index * size, length), min((index + 1) * size, length)


@lru_cache(maxsize=4096)
def boxes(shape: tuple[int, ...], mesh: tuple[int, ...], placements: tuple[Split | None, ...]) -> tuple[Box, ...]:
    """The box of each rank of a mesh, in the order of the ranks."""
    order = [i for i, split in enumerate(placements) if split is not None and not split.last]
    order += [i for i, split in reversed(list(enumerate(placements))) if split is not None and split.last]
    found = []
    for coordinate in itertools.product(*map(range, mesh)):
        box = [(0, length) for length in shape]
        for i in order:
            split = placements[i]
            assert split is not None
            start, stop = box[split.axis]
            first, end = chunk(stop - start, mesh[i], coordinate[i])
            box[split.axis] = (start + first, start + end)
        found.append(tuple(box))
    return tuple(found)


@lru_cache(maxsize=4096)
def held(place: Place, mesh: tuple[int, ...]) -> tuple[Box, ...]:
    """What each rank holds of a matrix or part, as a box of it. A rank that holds nothing of a part has zeros."""
    shape, placements, start, stop = place
    every = boxes(shape, mesh, placements)
    if (start, stop) == (0, shape[0]):
        return every
    empty: Box = ((0, 0),) * len(shape)  # one for all ranks, of which there may be thousands
    found = []
    for (first, last), *others in every:
        first, last = max(first, start), min(last, stop)
        found.append(((first - start, last - start), *others) if first < last else empty)
    return tuple(found)


def own_range(place: Place, mesh: tuple[int, ...], rank: int) -> slice:
    """The indices on axis 0 of a rank's shard of a parameter that are in a part."""
    shape, placements, start, _ = place
    first, stop = held(place, mesh)[rank][0]
    before = boxes(shape, mesh, placements)[rank][0][0] - start
    return slice(first - before, stop - before) if first < stop else slice(0, 0)


@lru_cache(maxsize=4096)
def holders(place: Place, mesh: tuple[int, ...]) -> tuple[int, ...]:
    """The ranks that hold any of the matrices of a part."""
    shape, placements, start, stop = place
    every = enumerate(boxes(shape, mesh, placements))
    return tuple(rank for rank, ((first, last), *_) in every if max(first, start) < min(last, stop))


def entries(box: Box) -> int:
    """The number of entries of a box."""
    return math.prod(stop - start for start, stop in box)


def replica(mesh: tuple[int, ...], placements: tuple[Split | None, ...], rank: int) -> tuple[int, ...]:
    """The coordinates of a rank along the axes that replicate. Ranks with equal ones hold all of a parameter once."""
    found, stride = [], math.prod(mesh)
    for size, split in zip(mesh, placements, strict=True):
        stride //= size
        if split is None:
            found.append(rank // stride % size)
    return tuple(found)


@lru_cache(maxsize=4096)
def _replicas(mesh: tuple[int, ...], placements: tuple[Split | None, ...]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """{coordinates along the axes that replicate: the ranks that have them}."""
    found: dict[tuple[int, ...], list[int]] = {}
    for rank in range(math.prod(mesh)):
        found.setdefault(replica(mesh, placements, rank), []).append(rank)
    return {place: tuple(ranks) for place, ranks in found.items()}


def sources(mesh: tuple[int, ...], placements: tuple[Split | None, ...], owner: int) -> tuple[int, ...]:
    """The ranks that send their box to the owner: those at its coordinates along the axes that replicate."""
    return _replicas(mesh, placements)[replica(mesh, placements, owner)]


def sends(mesh: tuple[int, ...], placements: tuple[Split | None, ...], rank: int, owner: int) -> bool:
    """Whether a rank is one of the `sources` of an owner. It takes no time that grows with the number of ranks."""
    return replica(mesh, placements, rank) == replica(mesh, placements, owner)
