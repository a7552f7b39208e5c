"""Sharded and replicated parameters: every optimizer moves the weights as one process does, in every placement."""

import pytest
import torch
from models import KINDS, Tiny, farthest, spread, step_on_given_gradients
from models import weights as whole_weights

from matfn.optim import SOAP, AdaMuon, Muon, NorMuon, PolarGrad, Shampoo, plan

OPTIMIZERS = {
    "muon": lambda p: Muon(p, lr=0.02, weight_decay=0.1),
    "cautious": lambda p: Muon(p, lr=0.02, weight_decay=0.1, cautious=True, scale="moonlight"),
    "adamuon": lambda p: AdaMuon(p, lr=0.02),
    "normuon": lambda p: NorMuon(p, lr=0.02),
    "polargrad": lambda p: PolarGrad(p, lr=0.02, growth=2.0),
    "polar-first": lambda p: PolarGrad(p, lr=0.02, variant="polar-first"),
    "heavy-ball": lambda p: PolarGrad(p, lr=0.02, variant="heavy-ball"),
    "shampoo": lambda p: Shampoo(p, lr=0.02, root_every=3),
    "shampoo-adam": lambda p: Shampoo(p, lr=0.02, graft="adam", root_every=3),
    "soap": lambda p: SOAP(p, lr=3e-3, basis_every=3),
}
STEPS = 7


def moved(name, kind=None, dtype=torch.float64):
    """The weights after some steps on given gradients."""
    model = Tiny(fused=False, dtype=dtype)
    if kind is not None:
        model, _, _ = spread(model, kind)
    step_on_given_gradients(model, OPTIMIZERS[name](plan(model)), STEPS)
    return whole_weights(model)


def all_moved(kind=None):
    """The weights by the name of the optimizer."""
    return {name: moved(name, kind) for name in OPTIMIZERS}


@pytest.fixture(scope="module")
def alone():
    return all_moved()


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_one_process(world, alone, kind, ranks):
    if ranks == 1 and kind in ("hsdp", "fsdp_tp"):
        pytest.skip("needs two axes")
    for found in world(ranks).run(all_moved, kind):
        for name, weights in found.items():
            if name == "soap":  # the first basis of its 7 x 7 factor of rank 3 is arbitrary, and so are its steps
                weights["extra.narrow.weight"] = alone[name]["extra.narrow.weight"]
            assert farthest(weights, alone[name]) < 1e-9, name
