"""The way "gram": matrices that are cut along their long side send Gram matrices where that is fewer bytes.

The weights are those of one process. The bound in float32 is `gram_error`: the error that the Gram engine adds to one
update in the worst case, relative to the update. Each of the two runs may have it in each step.
"""

import math

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from matfn import PolarExpress
from matfn.optim import Muon
from matfn.optim.rules.polar import Polar
from matfn.run.execute import gram_error

METHODS = {"plain": PolarExpress(steps=4, lower=0.03), "deflated": PolarExpress(steps=4, lower=0.03, deflation=1 / 8)}
KINDS = ("1", "1e-30", "1e30", "zero", "rank", "parts")
STEPS, LR = 20, 0.02
SHAPES = {  # {name: (shape, the axis that is cut)}
    "tall": ((128, 16), 0),
    "wide": ((16, 128), 1),
    "uneven": ((203, 9), 0),
    "thin": ((6, 500), 1),
    "near": ((32, 32), 0),
    "short side": ((16, 128), 0),
}
GRAMS = ("tall", "wide", "uneven", "thin")


def start(shape):
    return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).sin().reshape(shape) / 10


def gradient(name, step, kind):
    """A gradient of one of the `KINDS`, in float64."""
    shape, _ = SHAPES[name]
    generator = torch.Generator().manual_seed(1000 * step + len(name))
    G = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros_like(G)
    if kind == "rank":  # rank 2, the same two dimensions in every step
        m, n = shape
        fixed = torch.Generator().manual_seed(len(name))
        left, right = (torch.randn(side, 2, generator=fixed, dtype=torch.float64) for side in (m, n))
        return left @ (torch.eye(2) + G[:2, :2].mT / 4).to(left) @ right.mT
    if kind == "parts":  # the scales of the parts of the ranks are far apart
        m = max(shape)
        scales = torch.logspace(-8, 8, m, dtype=torch.float64)
        return G * (scales[:, None] if m == shape[0] else scales)
    return G * float(kind)


def run(kind, method, dtype, sharded, steps=STEPS, poison=None):
    """The weights as float64 by name, and the ways by name."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),)) if sharded else None
    parameters = {}
    for name, (shape, axis) in SHAPES.items():
        values = start(shape).to(dtype)
        values = distribute_tensor(values, mesh, [Shard(axis)], src_data_rank=None) if sharded else values
        parameters[name] = nn.Parameter(values)
    optimizer = Muon(parameters.items(), lr=LR, method=METHODS[method])
    for step in range(steps):
        for name, parameter in parameters.items():
            G = gradient(name, step, kind).to(dtype)
            if name == poison:
                G.view(-1)[-1] = math.nan
            if sharded:
                G = distribute_tensor(G, mesh, [Shard(SHAPES[name][1])], src_data_rank=None)
            parameter.grad = G
        optimizer.step()
    shared = optimizer._sharded.shared
    ways = {m.name: item.way for each in shared for m, item in zip(each.members, each.items, strict=True)}
    full = {name: (p.full_tensor() if sharded else p).detach().double() for name, p in parameters.items()}
    return full, ways


def runs(*args):
    return {kind: run(kind, *args) for kind in KINDS}


def bound(name, kind, method, dtype):
    """The largest distance (Frobenius norm) of two runs of `STEPS` steps."""
    m, n = SHAPES[name][0]
    plan = Polar(METHODS[method]).plan((m, n), dtype, torch.device("cpu"))
    update = LR * max(1, m / n) ** 0.5 * (1.5 * min(m, n)) ** 0.5  # no singular value of an update is above 1.2
    eps = torch.finfo(dtype).eps
    rounding = max(gram_error(plan.iteration, (), torch.promote_types(plan.dtype, torch.float32)), 100 * eps)
    if method == "deflated" and kind == "rank":
        # Deflation may remove the whole matrix. What is left of M is rounding, eps of it, so eps^(1/2) of X.
        rounding = max(rounding, eps**0.5)
    return 2 * STEPS * update * rounding


@pytest.mark.parametrize(("ranks", "method"), [(2, "plain"), (4, "deflated")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_weights_are_those_of_one_process(world, ranks, dtype, method):
    alone = runs(method, dtype, False)
    for found in world(ranks).run(runs, method, dtype, True):
        for kind, (weights, ways) in found.items():
            assert ways == {name: "gram" if name in GRAMS else "owner" for name in SHAPES}
            for name, W in weights.items():
                assert (W - alone[kind][0][name]).norm() <= bound(name, kind, method, dtype), (kind, name)
                moved = (W - start(SHAPES[name][0]).to(dtype)).norm()
                assert moved == 0 if kind == "zero" else moved > 0.1 * LR, (kind, name)


@pytest.mark.parametrize("poison", ["tall", "wide"])
def test_a_nan_of_one_rank_is_a_nan_on_all_and_only_in_its_matrix(world, poison):
    alone, _ = run("1", "deflated", torch.float32, False, 2, poison)
    assert alone[poison].isnan().all()
    for weights, _ in world(2).run(run, "1", "deflated", torch.float32, True, 2, poison):
        assert {name for name, W in weights.items() if W.isnan().all()} == {poison}
        assert {name for name, W in weights.items() if W.isnan().any()} == {poison}
