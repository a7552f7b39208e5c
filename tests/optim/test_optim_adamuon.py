"""AdaMuon's rule: against plain float64 loops by SVD, and what it keeps fixed."""

import pytest
import torch
from plain import gradient, parameter, run

from matfn import Exact
from matfn.optim import AdaMuon
from matfn.optim.matrices.layout import convolution, linear, stack

LAYOUTS = {
    "matrix": (linear((9, 7)), lambda w: [w]),
    "wide": (linear((4, 11)), lambda w: [w]),
    "row": (linear((1, 7)), lambda w: [w]),
    "fused": (linear((9, 4)).cut((2, 7)), lambda w: [w[:2], w[2:]]),
    "experts": (stack((3, 4, 6)), lambda w: list(w)),
    "groups": (convolution((6, 4, 3), groups=2), lambda w: [w[:3].reshape(3, 12), w[3:].reshape(3, 12)]),
}


def plainly(w, tensors, steps, lr, momentum, beta2, nesterov, eps, weight_decay):
    """One parameter, number by number as the formulas have it."""
    w = w.detach().double().clone()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, steps + 1):
        g = gradient(w, t)
        first = momentum * first + (1 - momentum) * g
        ahead = momentum * first + (1 - momentum) * g if nesterov else first
        new = (1 - lr * weight_decay) * w
        for n, v, target in zip(tensors(ahead), tensors(second), tensors(new), strict=True):
            left, values, right = torch.linalg.svd(n.sign(), full_matrices=False)
            o = left * (values > 1e-10) @ right  # matrices of signs are often singular: the factor is on the range
            v.copy_(beta2 * v + (1 - beta2) * o * o)
            d = o / (v.sqrt() + eps)
            target.sub_(lr * 0.2 * o.numel() ** 0.5 * d / d.square().sum().sqrt())
        w = new
    return w


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_rule_is_the_plain_loops(name, nesterov):
    layout, tensors = LAYOUTS[name]
    options = dict(lr=0.05, momentum=0.8, beta2=0.7, nesterov=nesterov, eps=1e-3, weight_decay=0.1)
    w = parameter(layout)
    expected = plainly(w, tensors, 6, **options)
    optimizer = AdaMuon([{"params": [w], "layout": [layout]}], method=Exact(), **options)
    assert torch.allclose(run(optimizer, w, 6), expected, rtol=0, atol=1e-10)


def test_entries_of_the_update_have_root_mean_square_a_fifth():
    for shape in ((12, 8), (8, 12), (300, 20)):
        w = torch.nn.Parameter(torch.zeros(shape))
        optimizer = AdaMuon([w], lr=1.0)
        for seed in range(3):
            before = w.detach().clone()
            w.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
            assert float((w.detach() - before).square().mean().sqrt()) == pytest.approx(0.2, rel=1e-5)


def test_the_size_of_an_entry_does_not_matter():
    moved = []
    for scale in (torch.ones(6, 4), torch.logspace(-20, 10, 24).view(6, 4)):
        w = torch.nn.Parameter(torch.zeros(6, 4))
        w.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * scale
        AdaMuon([w]).step()
        moved.append(w.detach())
    assert torch.equal(*moved)


def test_zero_gradients_move_nothing_and_eps_may_be_zero():
    w = torch.nn.Parameter(torch.ones(6, 4))
    optimizer = AdaMuon([w], eps=0.0)
    w.grad = torch.zeros(6, 4)
    optimizer.step()
    assert torch.equal(w, torch.ones(6, 4))
    w.grad[:3] = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert torch.isfinite(w).all()


def test_state_and_options():
    w = torch.nn.Parameter(torch.zeros(6, 4, dtype=torch.bfloat16))
    optimizer = AdaMuon([w])
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert {key: (value.shape, value.dtype) for key, value in optimizer.state[w].items()} == {
        "momentum_buffer": (w.shape, torch.float32),
        "exp_avg_sq": (w.shape, torch.float32),
    }
    with pytest.raises(ValueError, match=r"beta2 must be in \[0, 1\), got 1"):
        AdaMuon([w], beta2=1.0)
    with pytest.raises(ValueError, match="eps must be >= 0"):
        AdaMuon([w], eps=-1.0)
