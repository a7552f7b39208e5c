"""DDP: weights after some steps are those of one process on the whole batch, and equal on all ranks."""

import pytest
import torch
from models import KINDS, Tiny, batch, farthest, full, give_gradients, loss_of, spread, step_on_given_gradients, train
from models import weights as whole_weights

from matfn import RitzMinimax
from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, plan

STEPS = 10


def muon(kind=None):
    """Trained in float64: rounding stays rounding, as no matrix here is worse conditioned than 1e5."""
    model, reads = Tiny(dtype=torch.float64), (0, 1)
    if kind is not None:
        model, _, reads = spread(model, kind)
    return train(model, Muon(plan(model), lr=0.02), STEPS, reads), whole_weights(model)


def soap(kind=None):
    """On given gradients: the eigenvectors of a singular factor are arbitrary, so rounding would not stay rounding."""
    model = Tiny()
    if kind is not None:
        model, _, _ = spread(model, kind)
    step_on_given_gradients(model, SOAP(plan(model), lr=3e-3), STEPS)
    return whole_weights(model)


RULES = {
    "normuon": lambda p: NorMuon(p, lr=0.02),
    "adamuon": lambda p: AdaMuon(p, lr=0.02),
    "polargrad": lambda p: PolarGrad(p, lr=0.02, growth=2.0),
    "looks": lambda p: Muon(p, lr=0.02, method=RitzMinimax(every=4)),  # the third step takes kept steps
}


def states(kind=None):
    """The state of every parameter after some steps, by optimizer, name and key."""
    found = {}
    for rule, make in RULES.items():
        model = Tiny(dtype=torch.float64)
        if kind is not None:
            model, _, _ = spread(model, kind)
        optimizer = make(plan(model))
        step_on_given_gradients(model, optimizer, 3)
        saved = optimizer.state_dict()
        names = [name.removeprefix("module.") for group in saved["param_groups"] for name in group["param_names"]]
        found[rule] = {
            f"{names[number]} {key}": x.clone() for number, entry in saved["state"].items() for key, x in entry.items()
        }
    return found


def gradients(kind):
    """The loss of this rank's part, the shapes of the gradients, and the gradients that are given."""
    model, _, reads = spread(Tiny(fused=False), kind)
    loss = loss_of(model, batch(0, *reads))
    loss.backward()
    shapes = {name.removeprefix("module."): p.grad.shape for name, p in model.named_parameters()}
    give_gradients(model, 3)
    return loss.item(), shapes, {name.removeprefix("module."): full(p.grad) for name, p in model.named_parameters()}


@pytest.mark.parametrize("ranks", [2, 4])
def test_muon_under_ddp_is_one_process(world, ranks):
    alone, weights = muon()
    results = world(ranks).run(muon, "ddp")
    assert [farthest(results[0][1], other) for _, other in results] == [0] * ranks
    mean = [sum(losses) / ranks for losses in zip(*(losses for losses, _ in results), strict=True)]
    assert mean == pytest.approx(alone, rel=1e-9)
    assert farthest(results[0][1], weights) < 1e-9
    assert farthest(whole_weights(Tiny(dtype=torch.float64)), weights) > 0.1


def test_soap_under_ddp_is_one_process(world):
    alone = soap()
    assert [farthest(weights, alone) for weights in world(2).run(soap, "ddp")] == [0, 0]


def test_every_process_has_all_state_under_ddp(world):
    """So that the state dict of one process is whole."""
    alone = states()
    for found in world(2).run(states, "ddp"):
        for rule, expected in alone.items():
            assert found[rule].keys() == expected.keys()
            for name, x in expected.items():
                assert torch.allclose(found[rule][name], x, rtol=1e-9, atol=1e-12), (rule, name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_of_the_tests_runs_and_takes_gradients_in_every_kind(world, kind):
    model = Tiny(fused=False)
    give_gradients(model, 3)
    results = world(4).run(gradients, kind)
    assert sum(loss for loss, *_ in results) / 4 == pytest.approx(loss_of(model, batch(0)).item(), rel=1e-6)
    for _, shapes, given in results:
        assert shapes == {name: p.shape for name, p in model.named_parameters()}
        assert farthest(given, {name: p.grad for name, p in model.named_parameters()}) == 0
