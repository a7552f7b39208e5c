"""AdamW on DTensors: every placement gives the numbers of torch on whole tensors."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from matfn.optim import Muon

SHAPES = [(7, 5), (2, 3), (1, 9), (8, 4, 2), (6,), ()]  # uneven, smaller than the group, several axes, without axes
PLACEMENTS = {
    "rows": ((4,), [Shard(0)]),
    "columns": ((4,), [Shard(1)]),
    "replicated": ((4,), [Replicate()]),
    "hsdp": ((2, 2), [Replicate(), Shard(0)]),
    "fsdp and tp": ((2, 2), [Shard(0), Shard(1)]),
    "twice one axis": ((2, 2), [Shard(0), Shard(0)]),
    "pairs": ((2,), [Shard(0)]),
}
OPTIONS = {
    "default": {},
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "amsgrad": {"amsgrad": True, "weight_decay": 0.1},
}


def whole(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def placed(mesh, placements, x):
    """x on the mesh, without the cuts of axes that it lacks."""
    fitting = [p if not p.is_shard() or p.dim < x.ndim else Replicate() for p in placements]
    return distribute_tensor(x, mesh, fitting, src_data_rank=None)


def trained(place, options, dtype=torch.float32, steps=4, make=None):
    """Parameters and the optimizer after some steps with given gradients. Every second parameter stays plain."""
    params = [nn.Parameter((place if i % 4 else lambda x: x)(whole(s, i, dtype))) for i, s in enumerate(SHAPES)]
    make = make or (lambda group: Muon([group]))
    optimizer = make({"params": [(f"p{i}", p) for i, p in enumerate(params)], "rule": "adamw", "lr": 0.01, **options})
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = None if (i, step) == (3, 1) else place_like(p, whole(p.shape, 100 + 10 * step + i, dtype))
        optimizer.step()
    return params, optimizer


def place_like(param, x):
    return distribute_tensor(x, param.device_mesh, param.placements) if isinstance(param, DTensor) else x


def full(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def close(x, y, roundings=32):
    """Equal up to rounding: kernels round the entries at the end of a shard in another order than in the middle.

    Four steps of AdamW make fewer than 32 roundings of an entry, none larger than the entries of numbers of size 1.
    """
    bound = roundings * torch.finfo(torch.float32).eps
    return torch.allclose(x.float(), y.float(), rtol=bound, atol=bound)


def as_torch(group):
    return torch.optim.AdamW([{k: v for k, v in group.items() if k != "rule"}])


def equal_torch(mesh, placements, options):
    mesh = init_device_mesh("cpu", mesh)
    ours, optimizer = trained(lambda x: placed(mesh, placements, x), options)
    theirs, reference = trained(lambda x: x, options, make=as_torch)
    for p, q in zip(ours, theirs, strict=True):
        assert close(full(p), q)
        mine, other = optimizer.state[p], reference.state[q]
        assert set(mine) == set(other)
        assert float(mine["step"]) == float(other["step"])
        assert not isinstance(mine["step"], DTensor)
        for key in sorted(set(mine) - {"step"}):  # in one order on all ranks
            assert type(mine[key]) is (DTensor if isinstance(p, DTensor) else torch.Tensor)
            assert getattr(mine[key], "placements", None) == getattr(p, "placements", None)
            assert close(full(mine[key]), other[key])


@pytest.mark.parametrize("options", OPTIONS)
def test_adamw_with_every_kernel_equals_torch_on_whole_tensors(world, options):
    for mesh, placements in (PLACEMENTS["rows"], PLACEMENTS["hsdp"]):
        world(4).run(equal_torch, mesh, placements, OPTIONS[options])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_adamw_on_every_placement_equals_torch_on_whole_tensors(world, placement):
    mesh, placements = PLACEMENTS[placement]
    world(mesh[0] if len(mesh) == 1 else 4).run(equal_torch, mesh, placements, {})


def state_keeps_its_memory(placements):
    mesh = init_device_mesh("cpu", (2,))
    params, optimizer = trained(lambda x: placed(mesh, placements, x), {})
    before = {
        (p, k): (v, getattr(v, "_local_tensor", v).data_ptr()) for p in params for k, v in optimizer.state[p].items()
    }
    for p in params:
        p.grad = place_like(p, whole(p.shape, 7))
    optimizer.step()
    assert set(optimizer.state) == set(params)
    for (p, k), (value, pointer) in before.items():
        assert optimizer.state[p][k] is value
        assert getattr(value, "_local_tensor", value).data_ptr() == pointer


def test_the_state_is_changed_in_place(world):
    world(2).run(state_keeps_its_memory, [Shard(0)])


def rounded(mesh, placements, rounding):
    """Compare with whole tensors, and return the local shards."""
    mesh = init_device_mesh("cpu", mesh)
    options = {"rounding": rounding, "lr": 1e-3}
    ours, optimizer = trained(lambda x: placed(mesh, placements, x), options, torch.bfloat16)
    theirs, reference = trained(lambda x: x, options, torch.bfloat16)
    for p, q in zip(ours, theirs, strict=True):
        if rounding == "compensated":  # a weight and its rounding error have 16 significant bits together
            exact = [(full(x).float() + full(o.state[x]["compensation"])) for x, o in ((p, optimizer), (q, reference))]
            assert torch.allclose(*exact, rtol=4 * 2**-16, atol=1e-7)
        elif not isinstance(p, DTensor):
            assert torch.equal(p, q)
        else:  # rounded up or down: neighbours, which differ by at most 2^-7 of the larger; lr 1e-3 moves 4 steps
            assert torch.allclose(full(p), q, rtol=4 * 2**-7, atol=1e-5)
        assert {k: (v.dtype, v.shape) for k, v in optimizer.state[p].items()} == {
            k: (v.dtype, v.shape) for k, v in reference.state[q].items()
        }
    return [p.detach().clone() if not isinstance(p, DTensor) else p.to_local().detach().clone() for p in ours]


@pytest.mark.parametrize("rounding", ["compensated", "stochastic"])
def test_half_precision_shards_are_rounded_as_whole_tensors_are(world, rounding):
    world(2).run(rounded, (2,), [Shard(0)], rounding)
    first, second, third, fourth = world(4).run(rounded, (2, 2), [Replicate(), Shard(0)], rounding)
    for one, other in ((first, third), (second, fourth)):  # the replicas
        assert all(map(torch.equal, one, other))


def noise_differs(rounding):
    """Two shards with equal entries and equal gradients."""
    mesh = init_device_mesh("cpu", (2,))
    param = nn.Parameter(distribute_tensor(torch.ones(512, 4, dtype=torch.bfloat16), mesh, [Shard(0)]))
    param.grad = torch.ones_like(param)
    Muon([{"params": [("p", param)], "rule": "adamw", "rounding": rounding, "lr": 1e-3, "weight_decay": 0.0}]).step()
    return param.to_local().detach().clone()


def test_shards_get_noise_of_their_own(world):
    one, other = world(2).run(noise_differs, "stochastic")
    assert not torch.equal(one, other)
    # 1 - 1e-3 lies .256 of the way from 1 to its neighbour 1 - 2^-8: 2048 draws have a standard deviation of .0096
    for shard in (one, other):
        assert ((shard < 1).float().mean() - 0.256).abs() < 5 * 0.0096


def partial_gradient():
    mesh = init_device_mesh("cpu", (2,))
    x, g = whole((4, 3), 0), whole((4, 3), 1)
    param = nn.Parameter(distribute_tensor(x, mesh, [Replicate()]))
    rank = mesh.get_local_rank()
    param.grad = DTensor.from_local(g * (0.25 if rank else 0.75), mesh, [Partial()])
    plain = nn.Parameter(x.clone())
    Muon([{"params": [("p", param)], "rule": "adamw", "lr": 0.01}]).step()
    plain.grad = g * 0.75 + g * 0.25
    torch.optim.AdamW([plain], lr=0.01).step()
    assert close(param.to_local(), plain)


def test_a_gradient_of_partial_sums_is_added_up(world):
    world(2).run(partial_gradient)
