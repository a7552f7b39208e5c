"""Checkpoints that travel: saved on some ranks and loaded on others, by torch's own tools, the curve goes on as it was.

Steps are made on given gradients in float64, so that runs differ by rounding alone.
"""

from functools import partial

import pytest
import torch
from models import Tiny, farthest, full, spread, step_on_given_gradients
from models import weights as whole_weights
from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as tools
from torch.distributed.tensor import DTensor

from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan

OPTIMIZERS = {
    "muon": partial(Muon, lr=0.02),
    "normuon": partial(NorMuon, lr=0.02),
    "adamuon": partial(AdaMuon, lr=0.02),
    "polargrad": partial(PolarGrad, lr=0.02),
    "polar-first": partial(PolarGrad, lr=0.02, variant="polar-first"),
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
