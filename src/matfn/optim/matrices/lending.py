"""Lending: a gradient for the length of a step, for a parameter whose gradient only some other processes have.

An expert that no token of this process reached has no gradient here. Its part of the whole gradient is zero. If another
process holds the same entries of the parameter (a replica) and has a gradient, that gradient is copied, so that
replicas stay equal.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .exchange import Team
from .exchange_plan import Split, aligned
from .shards import like_shard, local, local_gradient

__all__ = ["lend"]

Placements = tuple[Split | None, ...]


def lend(team: Team, params: Sequence[Tensor], placements: Sequence[Placements]) -> None:
    """Give gradients to parameters that have none here, but on another process. All processes must call it together.

    Args:
        team: The processes.
        params: Parameters of which some processes have a gradient and some have none.
        placements: How the mesh cuts each of them.
    """
    copied = [i for i, cuts in enumerate(placements) if any(len(some) > 1 for some in _replicas(team.mesh, cuts))]
    routes = _routes(team, [params[i] for i in copied], [placements[i] for i in copied])
    received = _copies(team, [params[i] for i in copied], routes)
    for param in params:
        if param.grad is None:
            shard = received.get(id(param))
            param.grad = torch.zeros_like(param) if shard is None else like_shard(shard, param)


def _replicas(mesh: tuple[int, ...], placements: Placements) -> list[list[int]]:
    """The ranks of a mesh, those together that hold the same entries of a parameter."""
    found: dict[tuple[int, ...], list[int]] = {}
    for rank, at in enumerate(itertools.product(*map(range, mesh))):
        place = tuple(i for i, split in zip(at, placements, strict=True) if split is not None)
        found.setdefault(place, []).append(rank)
    return list(found.values())


def _routes(team: Team, params: Sequence[Tensor], placements: Sequence[Placements]) -> list[tuple[int, dict[int, int]]]:
    """For each parameter its index and {rank without a gradient: the replica that has one}, on all processes alike."""
    if not params:
        return []
    flags = team.flags([param.grad is not None for param in params])
    routes = []
    for index, cuts in enumerate(placements):
        route = {}
        for some in _replicas(team.mesh, cuts):
            giver = next((rank for rank in some if flags[rank][index]), None)
            if giver is not None:
                route |= {rank: giver for rank in some if not flags[rank][index]}
        routes.append((index, route))
    return routes


def _size(shard: Tensor) -> int:
    """The bytes of a shard in a message."""
    return aligned(shard.numel() * shard.dtype.itemsize)


def _copies(team: Team, params: Sequence[Tensor], routes: Sequence[tuple[int, dict[int, int]]]) -> dict[int, Tensor]:
    """{id(parameter): the local shard of its gradient} for the parameters that get one from a replica."""
    if not any(route for _, route in routes):
        return {}
    sizes, gets = [0] * team.size, [0] * team.size
    for index, route in routes:
        shard = local(params[index])
        for rank, giver in route.items():
            sizes[rank] += _size(shard) if giver == team.rank else 0
            gets[giver] += _size(shard) if rank == team.rank else 0
    message = team.message(sizes)
    for index, route in routes:
        shard = local(params[index])
        for rank, giver in route.items():
            if giver == team.rank:
                gradient = local_gradient(params[index])
                assert gradient is not None
                message.piece(rank, shard.shape, shard.dtype).copy_(gradient)
    arrived = team.send(message, gets, "copying gradients between replicas").wait()
    return {
        id(params[index]): arrived.piece(route[team.rank], shard.shape, shard.dtype).to(shard.device, copy=True)
        for index, route in routes
        if team.rank in route
        for shard in (local(params[index]),)
    }
