"""Roots as on a GPU, of sharded matrices: owners settle refused roots at once, before state leaves for others."""

import warnings

import pytest
import torch
from models import Tiny, farthest, spread, step_on_given_gradients
from models import weights as whole_weights

from matfn import PolarExpress
from matfn.optim import Shampoo, plan
from matfn.optim.rules import device_roots, roots


def short(p, lower):
    """Every root by it is refused, and computed again by `Exact`."""
    return PolarExpress(degree=3, steps=1, lower=0.9)


def moved(kind=None):
    """The weights after five steps, and the number of verdicts left open by each of them."""
    model = Tiny(fused=False, dtype=torch.float64)
    if kind is not None:
        model, _, _ = spread(model, kind)
    optimizer = Shampoo(plan(model), lr=0.02, root_every=2, method=short, tolerance=1e-3)
    left = []
    for t in range(5):
        step_on_given_gradients(model, optimizer, 1, first=t)
        left.append(len(optimizer.chain[1]._open))
    return whole_weights(model), left


def moved_as_on_a_gpu(kind):
    held = device_roots.reads_free
    device_roots.reads_free = roots.reads_free = lambda device: False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return moved(kind)
    finally:
        device_roots.reads_free = roots.reads_free = held


@pytest.mark.filterwarnings("ignore:Shampoo")
def test_owners_settle_their_roots_within_the_step(world):
    """So the weights are those of a process that reads at once."""
    alone, _ = moved()
    for weights, left in world(2).run(moved_as_on_a_gpu, "fsdp"):
        assert farthest(weights, alone) < 1e-9
        assert left == [0] * 5


@pytest.mark.filterwarnings("ignore:Shampoo")
def test_one_process_settles_them_in_the_next_step():
    """The test above would see it if owners waited: the weights differ by roots that are refused for a step."""
    alone, _ = moved()
    weights, left = moved_as_on_a_gpu(None)
    assert farthest(weights, alone) > 1e-6
    assert [count > 0 for count in left] == [False, False, True, False, True]
