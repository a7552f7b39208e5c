"""Hard cases of sharded parameters: each gives the weights of one process."""

from functools import partial

import pytest
import torch
from models import full
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, layout

CLOSE = 1e-9  # float64, some steps on given gradients; no matrix here is worse conditioned than 1e5
OPTIMIZERS = {
    "muon": partial(Muon, lr=0.02, weight_decay=0.1),
    "normuon": partial(NorMuon, lr=0.02),
    "polargrad": partial(PolarGrad, lr=0.02, growth=2.0),
    "adamuon": partial(AdaMuon, lr=0.02),
    "shampoo": partial(Shampoo, lr=0.02),
    "soap": partial(SOAP, lr=3e-3),
}
LOCAL = ("muon", "normuon", "polargrad", "adamuon")


def whole(shape, seed, dtype=torch.float64):
    """A tensor that depends on shape and seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Parameters:
    """Named parameters on a mesh, and the same ones whole, moved by equal optimizers on equal gradients."""

    def __init__(self, shapes, placements, mesh, make, *, rule="matrix", layouts=None, dtype=torch.float64, **options):
        self.mesh, self.placements, self.shapes, self.dtype = mesh, placements, shapes, dtype
        self.ours = [nn.Parameter(self.placed(whole(s, i, dtype))) for i, s in enumerate(shapes)]
        self.theirs = [nn.Parameter(whole(s, i, dtype)) for i, s in enumerate(shapes)]
        group = {"rule": rule, **options, **({"layout": layouts} if layouts is not None else {})}
        self.optimizer, self.reference = (
            make([{"params": [(f"p{i}", p) for i, p in enumerate(params)], **group}])
            for params in (self.ours, self.theirs)
        )

    def placed(self, x):
        return distribute_tensor(x, self.mesh, self.placements, src_data_rank=None)

    def give(self, step, without=()):
        """Gradients of one step. `without` has (index, rank) of parameters that have none on a rank, rank -1 on all."""
        for i, shape in enumerate(self.shapes):
            gradient = whole(shape, 1000 + 100 * step + i, self.dtype)
            missing = [rank for index, rank in without if index == i]
            if -1 in missing:
                self.ours[i].grad = self.theirs[i].grad = None
                continue
            placed = self.placed(gradient)
            if missing:
                if set(self.replicas()) <= set(missing):
                    placed.to_local().zero_()
                gradient = placed.full_tensor()
            self.ours[i].grad, self.theirs[i].grad = placed, gradient
            if distributed.get_rank() in missing:
                self.ours[i].grad = None

    def replicas(self):
        """The ranks that hold the same entries as this one."""
        place = self.mesh.get_coordinate()
        cut = [i for i, placement in enumerate(self.placements) if placement.is_shard()]
        alike = torch.ones(self.mesh.shape, dtype=torch.bool)
        for axis in cut:
            alike = alike & (torch.arange(self.mesh.size(axis)) == place[axis]).view(
                [-1 if i == axis else 1 for i in range(self.mesh.ndim)]
            )
        return self.mesh.mesh[alike].tolist()

    def step(self):
        self.optimizer.step()
        self.reference.step()

    def farthest(self):
        pairs = [(full(p), q.detach()) for p, q in zip(self.ours, self.theirs, strict=True)]
        return max(((p - q).norm() / q.norm()).item() for p, q in pairs)


EXPERTS = {
    "divided": ((4,), [Shard(0)], (8, 6, 5)),
    "uneven": ((4,), [Shard(0)], (6, 5, 7)),  # the last rank has none
    "few": ((4,), [Shard(0)], (3, 6, 5)),
    "two axes": ((2, 2), [Shard(0), Shard(0)], (8, 4, 6)),
    "two axes, uneven": ((2, 2), [Shard(0), Shard(0)], (5, 4, 6)),
    "replicated": ((2, 2), [Replicate(), Shard(0)], (3, 4, 6)),
    "rows cut": ((2, 2), [Shard(0), Shard(1)], (3, 7, 6)),
    "columns cut": ((2, 2), [Shard(2), Shard(0)], (3, 6, 7)),
    "matrices cut": ((4,), [Shard(1)], (3, 6, 7)),
}


def experts(name):
    """{case: (distance, whether the parameter travels)}."""
    found = {}
    for case, (mesh, placements, shape) in EXPERTS.items():
        shapes, sizes = [shape, (5, *shape[1:])], init_device_mesh("cpu", mesh)
        model = Parameters(shapes, placements, sizes, OPTIMIZERS[name], layouts=layout.stack)
        for step in range(4):
            model.give(step)
            model.step()
        found[case] = model.farthest(), model.optimizer._sharded.travels(model.ours[0])
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_experts_are_moved_as_in_one_process(world, name):
    for found in world(4).run(experts, name):
        for case, (_, placements, _) in EXPERTS.items():
            far, travels = found[case]
            assert far < CLOSE, case
            copies = any(p.is_replicate() for p in placements)  # they share the matrices of a rule without state
            stays = name in LOCAL and all(p.is_replicate() or p.dim == 0 for p in placements)
            stays = stays and not (copies and name == "muon")
            assert travels != stays, case


PLACEMENTS = {
    "rows": ([0, 1, 2, 3], [Shard(0)]),
    "columns": ([0, 1, 2, 3], [Shard(1)]),
    "replicated": ([0, 1, 2, 3], [Replicate()]),
    "hsdp": ([[0, 1], [2, 3]], [Replicate(), Shard(0)]),
    "hsdp by columns": ([[0, 2], [1, 3]], [Replicate(), Shard(0)]),  # torch sorts the ranks of a process group
    "fsdp and tp": ([[0, 1], [2, 3]], [Shard(0), Shard(1)]),
}
SHAPES = [(9, 5), (6, 8), (3, 4), (16, 2), (5, 5)]


def missing(name, placement, rule="matrix"):
    """Gradients are missing on one rank, on several, on all, and of parameters that take turns."""
    ranks, placements = PLACEMENTS[placement]
    mesh = DeviceMesh("cpu", ranks)
    model = Parameters(SHAPES, placements, mesh, OPTIMIZERS[name], rule=rule)
    absent = [(0, 1), (1, 0), (1, 2), (2, -1)], [], [(i, -1) for i in range(5)], [(0, -1), (3, 3)], [(1, -1), (3, 3)]
    rank = distributed.get_rank()
    for step, without in enumerate(absent):
        model.give(step, without)
        gone = [i for i, on in without if on in (rank, -1)]
        model.step()
        assert [i for i, p in enumerate(model.ours) if p.grad is None] == sorted(set(gone))
    return model.farthest()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("name", "rule"), [("muon", "matrix"), ("shampoo", "matrix"), ("muon", "adamw")])
def test_gradients_that_some_ranks_lack_hang_nothing(world, name, rule, placement):
    assert max(world(4).run(missing, name, placement, rule)) < CLOSE


def grouped_query(shape):
    """q of 12 rows, k and v of 4: neither mesh cuts at the borders of the blocks."""
    return layout.linear(shape).cut((12, 4, 4))


LAYOUTS = {
    "blocks": ((20, 7), grouped_query, "jordan"),
    "blocks, moonlight": ((20, 7), grouped_query, "moonlight"),
    "blocks, spectral": ((20, 7), grouped_query, "spectral"),
    "repeats": ((24, 5), lambda shape: layout.linear(shape).cut((4, 2, 2), repeats=3), "spectral"),
    "heads": ((12, 7), lambda shape: layout.linear(shape).tiled(rows=4), "spectral"),
    "heads in columns": ((7, 12), lambda shape: layout.linear(shape).tiled(columns=3), "spectral"),
    "convolution": ((6, 3, 5), layout.convolution, "jordan"),
    "groups": ((6, 3, 2), partial(layout.convolution, groups=3), "moonlight"),
    "transposed convolution": ((6, 4, 3), partial(layout.transposed_convolution, groups=2), "spectral"),
    "transposed": ((7, 18), layout.transposed, "jordan"),
    "transposed stack": ((3, 5, 4), layout.transposed_stack, "spectral"),
    "empty": ((0, 5), layout.linear, "spectral"),
}


def cut_across(name, placement):
    """Every layout on one placement: {layout: distance}."""
    ranks, placements = PLACEMENTS[placement]
    mesh = DeviceMesh("cpu", ranks)
    distances = {}
    for case, (shape, read, scale) in LAYOUTS.items():
        model = Parameters([shape, shape], placements, mesh, OPTIMIZERS[name], layouts=read, scale=scale)
        for step in range(3):
            model.give(step)
            model.step()
        distances[case] = model.farthest() if 0 not in shape else 0.0
    return distances


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["muon", "normuon", "polargrad"])
def test_shards_that_cross_the_borders_of_matrices(world, name, placement):
    for distances in world(4).run(cut_across, name, placement):
        assert {case: far for case, far in distances.items() if far >= CLOSE} == {}
