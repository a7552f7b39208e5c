"""Accelerate with FSDP2: the optimizer is made first, the model is sharded, and DTensors are put into the groups."""

import pytest
import torch
from models import Tiny, farthest, give_gradients, spread, step_on_given_gradients
from models import weights as whole_weights

from matfn.optim import Muon, NorMuon, plan

OPTIMIZERS = {"muon": Muon, "normuon": NorMuon}


def prepared(model, optimizer):
    """The sharded model, with its parameters in the optimizer's groups, as `Accelerator.prepare` makes them."""
    names = {param: name for name, param in model.named_parameters()}
    named = [[names[param] for param in group["params"]] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for i, param in enumerate(group["params"]):
            group["params"][i] = torch.empty(1, dtype=param.dtype)
    model, _, _ = spread(model, "fsdp")
    found = dict(model.named_parameters())
    for group, each in zip(optimizer.param_groups, named, strict=True):
        group["params"] = [found[name] for name in each]
    return model


def run(name, sharded):
    """Three steps; then another optimizer loads the state before its first step, and makes three more."""
    model = Tiny(dtype=torch.float64)
    optimizer = OPTIMIZERS[name](plan(model), lr=0.02)
    model = prepared(model, optimizer) if sharded else model
    step_on_given_gradients(model, optimizer, 3)
    saved, other = optimizer.state_dict(), Tiny(dtype=torch.float64)
    fresh = OPTIMIZERS[name](plan(other), lr=0.02)
    other = prepared(other, fresh) if sharded else other
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(saved)
    step_on_given_gradients(other, fresh, 3, first=3)
    return whole_weights(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_one_process(world, name):
    alone = run(name, False)
    for weights in world(2).run(run, name, True):
        assert farthest(weights, alone) < 1e-9


def too_late():
    """The error of a step after the parameters of an optimizer with momentum were replaced."""
    model = Tiny()
    optimizer = Muon(plan(model))
    step_on_given_gradients(model, optimizer, 1)
    model = prepared(model, optimizer)
    give_gradients(model, 1)
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error)


def test_an_optimizer_that_has_stepped_refuses_other_parameters(world):
    for text in world(2).run(too_late):
        assert "is another tensor than the one the optimizer was made with" in text
