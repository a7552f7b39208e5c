"""The first steps are bounded whatever the size of the first gradient is, where steps have a size of their own."""

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import SOAP, AdaMuon, Cutting, Muon, NorMuon, PolarGrad, Shampoo

LR = 1e-3
SHAPES = ((8, 6), (12, 12), (5, 20))


def largest_step(make, c, shape, seed, steps=16, **options):
    """The largest move of an entry in units of lr, where the first gradient is c times as large as the others."""
    generator = torch.Generator().manual_seed(seed)
    w = nn.Parameter(torch.zeros(shape))
    optimizer, moves = make([w], lr=LR, **options), []
    for k in range(steps):
        w.grad = torch.randn(shape, generator=generator) * (c if k == 0 else 1.0)
        before = w.detach().clone()
        optimizer.step()
        moves.append(float((w.detach() - before).abs().max()) / LR)
    return max(moves)


@pytest.mark.parametrize("c", [1e-3, 1.0, 10.0, 30.0, 100.0, 1e3])
@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": True}, {"basis_every": 1}, {"momentum": 0.9}, {"cutting": Cutting(block=None, largest=6)}],
    ids=str,
)
def test_steps_of_soap_are_bounded(c, options):
    """Where the squares are weighted as the gradients or longer, an entry of D in the basis is at most 1 in size.

    The way back from the basis spreads it by orthogonal matrices: entries are of size 1, and 5 is beyond the tail.
    """
    assert max(largest_step(SOAP, c, shape, seed, **options) for seed, shape in enumerate(SHAPES)) <= 5


@pytest.mark.parametrize("c", [1e-3, 1e-1, 10.0, 1e3])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Muon, {"method": Exact(), "scale": "unit"}),
        (NorMuon, {"scale": "unit"}),
        (AdaMuon, {"scale": "moonlight"}),
        (PolarGrad, {"power": 0.0}),
        (Shampoo, {}),
        (Shampoo, {"nesterov": True}),
        (Shampoo, {"start": 3}),
        (Shampoo, {"factor_every": 3}),
        (Shampoo, {"graft": "none", "ridge": 1e-3}),
    ],
    ids=str,
)
def test_steps_of_a_size_of_their_own_do_not_follow_the_first_gradient(make, options, c):
    assert max(largest_step(make, c, shape, seed, **options) for seed, shape in enumerate(SHAPES)) <= 5


@pytest.mark.parametrize("zeros", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("c", [1e-3, 1.0, 1e3])
def test_first_gradients_of_zero_leave_no_roots_of_the_identity(c, zeros):
    """Without a graft the identity would move the weights by c times a gradient: 700 to 1800 lr for c = 1e3.

    Roots of few gradients of an average of 100 make steps of 14 lr at most here.
    """
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.zeros(6, 8))
    optimizer, moves = Shampoo([w], lr=LR, graft="none"), []
    for k in range(zeros + 20):
        w.grad = torch.randn(6, 8, generator=generator) * (c if k >= zeros else 0.0)
        before = w.detach().clone()
        optimizer.step()
        moves.append(float((w.detach() - before).abs().max()) / LR)
    assert max(moves) <= 30
    assert max(moves[-10:]) >= 0.1  # it moves from the next roots on


@pytest.mark.parametrize("options", [{"scale": "rank"}, {"scale": "rank", "variant": "polar-first"}, {"growth": 4.0}])
def test_steps_of_the_size_of_the_gradient_are_those_of_it(options):
    """PolarGrad's steps are proportional to gradients: those after a small first one are not larger for it."""
    plain, small = (largest_step(PolarGrad, c, (8, 6), 1, **options) for c in (1.0, 1e-3))
    assert small <= 2 * plain


def test_the_second_step_of_soap_is_the_first_of_adam_in_the_basis_of_the_first_gradient():
    """As in the reference implementation, whose first step only makes the basis."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    w = nn.Parameter(torch.zeros(5, 5, dtype=torch.float64))
    optimizer = SOAP([w], lr=0.0)
    w.grad = 1e3 * first
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 1.0
    w.grad = second
    optimizer.step()
    U, _, Vh = torch.linalg.svd(first)
    expected = U @ (U.mT @ second @ Vh.mT).sign() @ Vh
    assert (w.detach() + expected).abs().max() < 1e-6  # eps = 1e-8 beside entries of 1e-2 and more
