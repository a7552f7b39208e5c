"""Stacks of matrices, such as experts, whose parts have owners of their own: the weights are those of one process."""

from functools import partial
from unittest import mock

import pytest
import torch
from models import farthest, give_gradients, step_on_given_gradients, weights
from test_bytes import Counted
from test_hard_cases import CLOSE, Parameters
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, layout, plan, sharded
from matfn.optim.matrices.exchange_plan import exchange_plan

OPTIMIZERS = {
    "muon": partial(Muon, lr=0.02, weight_decay=0.1, cautious=True, scale="spectral"),
    "momentum-first": partial(PolarGrad, lr=0.02, scale="rank"),
    "heavy-ball": partial(PolarGrad, lr=0.02, variant="heavy-ball", power=0.5),
    "vanilla": partial(PolarGrad, lr=0.02, variant="vanilla"),
    "polar-first": partial(PolarGrad, lr=0.02, variant="polar-first"),
    "growth": partial(PolarGrad, lr=0.02, growth=2.0),
    "normuon": partial(NorMuon, lr=0.02),
    "adamuon": partial(AdaMuon, lr=0.02),
    "shampoo": partial(Shampoo, lr=0.02),
    "soap": partial(SOAP, lr=3e-3),
}
PARTED = ("muon", "momentum-first", "heavy-ball", "vanilla")  # the matrix rules of the others keep state
MESHES = {
    "replicated": ((4,), [Replicate()]),
    "rows": ((4,), [Shard(1)]),
    "hsdp over columns": ((2, 2), [Replicate(), Shard(2)]),
    "ep and rows": ((2, 2), [Shard(0), Shard(1)]),
    "rows and ep": ((2, 2), [Shard(1), Shard(0)]),
    "replicas and ep": ((2, 2), [Replicate(), Shard(0)]),
}
LAYOUTS = {
    "stack": ((5, 7, 6), layout.stack),
    "transposed": ((6, 5, 8), layout.transposed_stack),
    "blocks": ((3, 8, 5), lambda shape: layout.stack(shape).cut((4, 2, 2))),
    "repeats": ((4, 8, 3), lambda shape: layout.stack(shape).cut(2, repeats=4)),
    "heads": ((2, 6, 5), lambda shape: layout.stack(shape).tiled(rows=2)),
    "one": ((1, 6, 5), layout.stack),
    "depthwise": ((9, 1, 3), partial(layout.convolution, groups=9)),
}


def owners(optimizer):
    """{name: the owners of the parts} of the matrices that travel."""
    found = {}
    for each in optimizer._sharded.shared:
        for member, item in zip(each.members, each.items, strict=True):
            found.setdefault(member.name, []).append(item.owner)
    return found


def small_rounds():
    """Every part has a round of its own."""
    return mock.patch.object(sharded, "exchange_plan", partial(exchange_plan, limit=1))


def moved(name, mesh, cases):
    """{layout: distance, owners, moves} for two stacks of each layout, which lack gradients on some ranks at times."""
    sizes, placements = MESHES[mesh]
    device_mesh = init_device_mesh("cpu", sizes)
    found = {}
    for case in cases:
        shape, read = LAYOUTS[case]
        model = Parameters([shape, shape], placements, device_mesh, OPTIMIZERS[name], layouts=read)
        moves = []
        model.optimizer.before_move.append(lambda bucket, update, to=moves: to.extend(bucket.names))
        with small_rounds():
            for step, without in enumerate(([], [(0, 1), (1, 3)], [(1, -1)])):
                model.give(step, without)
                model.step()
        found[case] = model.farthest(), owners(model.optimizer), moves
    return found


@pytest.mark.parametrize("mesh", MESHES)
def test_weights_are_those_of_one_process(world, mesh):
    for found in world(4).run(moved, "muon", mesh, tuple(LAYOUTS)):
        for case, (far, owned, moves) in found.items():
            assert far < CLOSE, case
            if case == "stack":  # the weights move once, when the last part has come
                assert (moves.count("p0"), moves.count("p1")) == (3, 2)
            if case != "one":
                parts = len(owned["p0"])
                assert parts > 1, case
                assert len(set(owned["p0"] + owned["p1"])) == min(4, 2 * parts), case


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_stacks_as_one_process_does(world, name):
    cases = ("stack",) if name == "soap" else ("stack", "blocks")  # bases of factors of low rank are arbitrary
    for mesh in ("ep and rows", "replicated"):
        for found in world(4).run(moved, name, mesh, cases):
            for case, (far, owned, _) in found.items():
                assert far < CLOSE, case
                assert (len(owned["p0"]) > 1) == (name in PARTED), case


class Experts(nn.Module):
    """A linear layer with a seventh of the work, and the matrices of experts as models of transformers have them."""

    def __init__(self, count, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(16, 16, bias=False, dtype=torch.float64)
        self.experts = nn.Module()
        self.experts.gate_up_proj = nn.Parameter(torch.randn(count, 4 * width, width, dtype=torch.float64))
        self.experts.down_proj = nn.Parameter(torch.randn(count, width, 2 * width, dtype=torch.float64))


def spread_experts(count, kind):
    """The model, spread over all ranks; the linear layer on a mesh of its own, except under DDP."""
    model, ranks = Experts(count), distributed.get_world_size()
    if kind == "ddp":
        return DistributedDataParallel(model)
    flat, mesh = init_device_mesh("cpu", (ranks,)), init_device_mesh("cpu", (2, ranks // 2))
    placements = {"ep and rows": [Shard(0), Shard(1)], "rows": [Shard(1), Shard(1)], "hsdp": [Replicate(), Shard(1)]}
    model.up.weight = nn.Parameter(distribute_tensor(model.up.weight.detach(), flat, [Shard(0)], src_data_rank=None))
    for name, param in list(model.experts.named_parameters()):
        placed = distribute_tensor(param.detach(), mesh, placements[kind], src_data_rank=None)
        setattr(model.experts, name, nn.Parameter(placed))
    return model


def sent_and_predicted(count, kind):
    """Bytes sent and received in a step, what the plan predicts of them for all ranks, the work, and the weights."""
    model = spread_experts(count, kind)
    planned = plan(model)
    optimizer = Muon(planned, lr=0.02)
    give_gradients(model, 0)
    with Counted() as counted:
        optimizer.step()
    found = planned.outlook(None, optimizer).ranks
    predicted = list(zip(found.sent.tolist(), found.received.tolist(), strict=True))
    return (counted.sent, counted.received), predicted, found.work.tolist(), weights(model)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "ep and rows", "rows", "hsdp"])
def test_predicted_bytes_are_sent_and_work_is_shared(world, ranks, kind):
    alone = Experts(8)
    step_on_given_gradients(alone, Muon(plan(alone), lr=0.02), 1)
    results = world(ranks).run(sent_and_predicted, 8, kind)
    counted = [result[0] for result in results]
    for _, predicted, work, moved in results:
        assert predicted == counted
        assert max(work) <= 1.25 * sum(work) / ranks  # without parts most of it is the work of one rank
        assert farthest(moved, weights(alone)) < CLOSE
    if kind == "ep and rows" and ranks == 2:  # each rank has whole experts, so the linear layer travels alone
        assert sum(sent for sent, _ in counted) == 2 * 8 * alone.up.weight.numel() / 2


def changed():
    """Stacks are added, and a rule gets state, after some steps; then the state goes to a new optimizer."""
    mesh = init_device_mesh("cpu", (2, 2))
    shapes, placements = [(5, 7, 6), (4, 6, 3)], [Shard(0), Shard(1)]
    made = partial(PolarGrad, lr=0.02)
    model = Parameters(shapes, placements, mesh, made, layouts=layout.stack)
    extra = [nn.Parameter(torch.ones(8, 6, 3, dtype=torch.float64)) for _ in range(2)]
    extra[0] = nn.Parameter(distribute_tensor(extra[0].detach(), mesh, placements, src_data_rank=None))
    counts = []
    for step in range(6):
        if step == 2:
            for optimizer, param in zip((model.optimizer, model.reference), extra, strict=True):
                optimizer.add_param_group({"params": [("extra", param)], "layout": layout.stack})
            model.ours, model.theirs, model.shapes = (
                [*model.ours, extra[0]],
                [*model.theirs, extra[1]],
                [*shapes, (8, 6, 3)],
            )
        if step in (3, 5):
            for optimizer in (model.optimizer, model.reference):
                for group in optimizer.param_groups:
                    group["growth"] = 1.5 if step == 3 else None
        if step == 4:
            saved = model.optimizer.state_dict()
            model.optimizer.load_state_dict(saved)
        model.give(step)
        model.step()
        counts.append({name: len(parts) for name, parts in owners(model.optimizer).items()})
    return model.farthest(), counts


def test_plans_follow_new_parameters_and_options(world):
    for far, counts in world(4).run(changed):
        assert far < CLOSE
        assert counts[0]["p0"] == 5
        assert counts[0].keys() == {"p0", "p1"}
        assert counts[2]["extra"] > 1
        assert set(counts[3].values()) == set(counts[4].values()) == {1}
        assert counts[5] == counts[2]
