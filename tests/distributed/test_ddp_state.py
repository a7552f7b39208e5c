"""Optimizers of a DDP model: the wrapper changes neither the names of the state nor what one process computes."""

import torch
from torch import nn

from matfn.optim import Muon, plan


def model():
    """Embedding, two hidden layers, a norm, an untied head."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Embedding(11, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 11))
    )


def train(net, optimizer, steps):
    for seed in range(steps):
        x = torch.randint(0, 11, (32,), generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), (3 * x + 1) % 11).backward()
        optimizer.step()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def beside_a_plain_model():
    """Whether a wrapped model equals a plain one after two steps, and after one more on the wrapped one's state."""
    plain, inner = model(), model()
    wrapped = nn.parallel.DistributedDataParallel(inner)
    first, second = Muon(plan(plain)), Muon(plan(wrapped))
    train(plain, first, 2)
    train(wrapped, second, 2)
    trained = same(plain, inner)
    first.load_state_dict(second.state_dict())
    train(plain, first, 1)
    train(wrapped, second, 1)
    return trained, same(plain, inner), same(plain, model())


def test_a_wrapped_model_trains_as_a_plain_one_and_its_state_loads_into_the_plain_one(world):
    assert world(1).run(beside_a_plain_model) == [(True, True, False)]
