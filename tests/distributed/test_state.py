"""Checkpoints that travel: saved on some ranks and loaded on others, by torch's own tools, the curve goes on as it was.

Steps are made on given gradients in float64, so that runs differ by rounding alone.
"""

import copy
from functools import partial

import pytest
import torch
from models import Tiny, farthest, full, give_gradients, spread, step_on_given_gradients
from models import weights as whole_weights
from torch import distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as tools
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from matfn import RitzMinimax
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan
from matfn.optim.matrices.layout import stack

OPTIMIZERS = {
    "muon": partial(Muon, lr=0.02),
    "normuon": partial(NorMuon, lr=0.02),
    "adamuon": partial(AdaMuon, lr=0.02),
    "polargrad": partial(PolarGrad, lr=0.02),
    "polar-first": partial(PolarGrad, lr=0.02, variant="polar-first"),
    "looks": partial(Muon, lr=0.02, method=RitzMinimax(every=4)),
    "shampoo": partial(Shampoo, lr=3e-3),
    "soap": partial(SOAP, lr=3e-3),
}
CLOSE = 1e-9  # float64, three steps; no matrix here is worse conditioned than 1e5
FULL = tools.StateDictOptions(full_state_dict=True)
FROM_RANK_0 = tools.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def made(name, kind, seed=0):
    """A model spread in a kind (None: a plain model), and its optimizer."""
    model = Tiny(fused=False, layers=1, seed=seed, dtype=torch.float64)
    if kind is not None:
        model, _, _ = spread(model, kind)
    return model, OPTIMIZERS[name](plan(model))


def gathered(model, optimizer):
    return {"model": tools.get_model_state_dict(model), "optimizer": tools.get_optimizer_state_dict(model, optimizer)}


def save(path, name, kind):
    """Save after three steps; the weights after three more."""
    model, optimizer = made(name, kind)
    step_on_given_gradients(model, optimizer, 3)
    dcp.save(gathered(model, optimizer), checkpoint_id=path)
    step_on_given_gradients(model, optimizer, 3, first=3)
    return whole_weights(model)


def load(path, name, kind):
    """A fresh model and optimizer, whose state torch makes and dcp fills; the weights after three more steps."""
    model, optimizer = made(name, kind, seed=1)
    held = gathered(model, optimizer)
    dcp.load(held, checkpoint_id=path)
    tools.set_state_dict(model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"])
    step_on_given_gradients(model, optimizer, 3, first=3)
    return whole_weights(model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_of_four_ranks_goes_on_with_two_and_with_one(world, tmp_path, name):
    path = str(tmp_path)
    expected = world(4).run(save, path, name, "fsdp")[0]
    for ranks, kind in ((2, "fsdp"), (1, None)):
        for weights in world(ranks).run(load, path, name, kind):
            assert farthest(weights, expected) < CLOSE, kind


@pytest.mark.parametrize(
    ("kind", "others"), [("fsdp_tp", ["hsdp", "tp"]), ("ddp", ["fsdp_tp"]), (None, ["fsdp", "ddp"])]
)
def test_a_checkpoint_goes_from_one_way_of_sharding_to_another(world, tmp_path, kind, others):
    path, name = str(tmp_path), "shampoo"
    expected = world(1 if kind is None else 4).run(save, path, name, kind)[0]
    for other in others:
        for weights in world(4 if "_" in other or other == "hsdp" else 2).run(load, path, name, other):
            assert farthest(weights, expected) < CLOSE, other


def without_files(name, kind):
    """State dicts that go directly into another optimizer: sharded, whole, whole on rank 0 alone, and into a plain one.

    The distances from the weights of the run that went on.
    """
    model, optimizer = made(name, kind)
    step_on_given_gradients(model, optimizer, 3)
    whole_model = {key: full(value) for key, value in tools.get_model_state_dict(model).items()}
    own = optimizer.state_dict()
    sharded = tools.get_optimizer_state_dict(model, optimizer)
    on_host = tools.get_optimizer_state_dict(model, optimizer, options=tools.StateDictOptions(cpu_offload=True))
    complete = tools.get_optimizer_state_dict(model, optimizer, options=FULL)
    assert not any(isinstance(v, DTensor) for entry in complete["state"].values() for v in entry.values())
    # The run that goes on is another one, because state dicts share tensors with the optimizer, as torch's do.
    again, its = made(name, kind)
    step_on_given_gradients(again, its, 6)
    expected = whole_weights(again)

    def distance(into, put):
        other, fresh = made(name, into, seed=1)
        tools.set_model_state_dict(other, dict(whole_model), options=FULL)  # torch changes the dict
        put(other, fresh)
        step_on_given_gradients(other, fresh, 3, first=3)
        return farthest(whole_weights(other), expected)

    def from_rank_0(other, fresh):
        given = complete if distributed.get_rank() == 0 else {}
        tools.set_optimizer_state_dict(other, fresh, given, options=FROM_RANK_0)

    return {
        "own": distance(kind, lambda other, fresh: fresh.load_state_dict(own)),
        "sharded": distance(kind, lambda other, fresh: tools.set_optimizer_state_dict(other, fresh, sharded)),
        "on the host": distance(kind, lambda other, fresh: tools.set_optimizer_state_dict(other, fresh, on_host)),
        "whole": distance(
            kind, lambda other, fresh: tools.set_optimizer_state_dict(other, fresh, complete, options=FULL)
        ),
        "whole, own": distance(kind, lambda other, fresh: tools.set_optimizer_state_dict(other, fresh, complete)),
        "whole on rank 0": distance(kind, from_rank_0),
        "another placement": distance("tp", lambda other, fresh: fresh.load_state_dict(own)),
        "another mesh": distance("hsdp", lambda other, fresh: fresh.load_state_dict(own)),
        "plain": distance(None, lambda other, fresh: fresh.load_state_dict(own)),
    }


@pytest.mark.parametrize("name", ["normuon", "soap"])
def test_state_dicts_load_without_files(world, name):
    for distances in world(2).run(without_files, name, "fsdp"):
        assert {key: far for key, far in distances.items() if far > CLOSE} == {}


def expert_model(kind, seed, experts):
    """A stack of expert matrices and its optimizer. `kind` has the placements; None gives a plain parameter."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(experts, 6, 5, dtype=torch.float64, generator=generator)
    model = nn.Module()
    if kind is not None:
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        x = distribute_tensor(x, mesh, kind, src_data_rank=None)
    model.experts = nn.Parameter(x)
    return model


def expert_optimizer(model, name):
    return OPTIMIZERS[name]([{"params": [("experts", model.experts)], "layout": stack}])


def of_experts(name, placements, others, experts):
    """The distances after saving in one placement and loading into others, whole and sharded."""
    model = expert_model(placements, 0, experts)
    optimizer = expert_optimizer(model, name)
    step_on_given_gradients(model, optimizer, 3)
    state, weights = optimizer.state_dict(), full(model.experts)
    complete = tools.get_optimizer_state_dict(model, optimizer, options=FULL)
    again = expert_model(None, 0, experts)
    step_on_given_gradients(again, expert_optimizer(again, name), 6)
    found = {}
    for other in others:
        for what, given in (("sharded", state), ("whole", complete)):
            fresh = expert_model(other, 1, experts)
            with torch.no_grad():
                held = getattr(fresh.experts, "device_mesh", None)
                fresh.experts.copy_(weights if held is None else distribute_tensor(weights.clone(), held, other))
            its = expert_optimizer(fresh, name)
            its.load_state_dict(given)
            step_on_given_gradients(fresh, its, 3, first=3)
            found[what, str(other)] = (full(fresh.experts) - again.experts).norm().item()
    return found


@pytest.mark.parametrize("name", ["muon", "normuon", "adamuon", "looks", "shampoo"])
def test_state_of_experts_goes_from_one_placement_to_another(world, name):
    ways = [[Shard(0)], [Shard(1)], [Replicate()], None]
    for ranks, experts in ((2, 3), (4, 3)):
        for placements in ways[:2]:
            for distances in world(ranks).run(of_experts, name, placements, ways, experts):
                assert {key: far for key, far in distances.items() if far > CLOSE} == {}, placements


def from_torch_and_back(kind):
    """torch.optim.Muon and AdamW on a sharded model, continued by ours and then by torch's again."""
    model, _, _ = spread(Tiny(fused=False, layers=1, dtype=torch.float64), kind)
    named = dict(model.named_parameters())
    matrices = [name for name in named if "blocks" in name and named[name].ndim == 2]
    theirs = torch.optim.Muon([(name, named[name]) for name in matrices], lr=0.01)
    adamw = torch.optim.AdamW([(name, p) for name, p in named.items() if name not in matrices], lr=0.01)
    for seed in range(2):
        give_gradients(model, seed)
        theirs.step()
        adamw.step()
    ours = Muon.from_torch(theirs, adamw)
    state = {name: full(ours.state[named[name]]["momentum_buffer"]) for name in matrices}
    same = [
        torch.equal(state[name], full(theirs.state[named[name]]["momentum_buffer"]).to(state[name]))
        for name in matrices
    ]
    step_on_given_gradients(model, ours, 2, first=2)
    muon, rest = ours.to_torch()
    give_gradients(model, 4)
    muon.step()
    rest.step()
    kinds = {type(value).__name__ for entry in muon.state.values() for value in entry.values()}
    return same, kinds, whole_weights(model)


def test_muon_of_torch_hands_over_its_state_and_takes_it_back(world):
    [(same, kinds, alone)] = world(1).run(from_torch_and_back, "fsdp")
    assert all(same)
    assert kinds == {"DTensor"}
    for same, _, weights in world(2).run(from_torch_and_back, "fsdp"):
        assert all(same)
        # torch's steps are in bfloat16, with the unit roundoff 2^-8: each of 5 steps moves by lr = .01 at most
        assert farthest(weights, alone) < 5 * 0.01 * 2**-4


def flat(kind):
    """torch's flat form of the state, which has a name for each tensor and each option."""
    model, optimizer = made("normuon", kind)
    step_on_given_gradients(model, optimizer, 3)
    options = tools.StateDictOptions(flatten_optimizer_state_dict=True)
    saved = tools.get_optimizer_state_dict(model, optimizer, options=options)
    assert "state.blocks.0.up.weight.momentum_buffer" in saved
    other, fresh = made("normuon", kind, seed=1)
    tools.set_optimizer_state_dict(other, fresh, saved, options=options)
    twin = optimizer.state_dict()
    return [
        all(torch.equal(full(value), full(twin["state"][number][key])) for key, value in entry.items())
        for number, entry in fresh.state_dict()["state"].items()
    ]


def test_the_flat_state_dict_of_torch_loads(world):
    for same in world(2).run(flat, "fsdp"):
        assert len(same) > 10
        assert all(same)


def copied(kind):
    model, optimizer = made("normuon", kind)
    copy.deepcopy(optimizer)
    step_on_given_gradients(model, optimizer, 1)
    try:
        copy.deepcopy(optimizer)
    except RuntimeError as error:
        return str(error)
    return ""


def test_an_optimizer_whose_state_is_spread_cannot_be_copied(world):
    for text in world(2).run(copied, "fsdp"):
        assert text.startswith("NorMuon: an optimizer of sharded parameters cannot be copied")
        assert "load the state_dict()" in text
