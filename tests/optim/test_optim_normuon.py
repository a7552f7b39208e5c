"""NorMuon: against a plain float64 loop, its norm, its rows, cut parameters, options."""

import pytest
import torch
from torch import nn

from matfn import Exact
from matfn.optim import SCALES, Muon, NorMuon
from matfn.optim.matrices.layout import convolution, linear, stack, transposed

EPS64 = torch.finfo(torch.float64).eps


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def take(optimizer, p, g):
    """One step with this gradient; returns how far the parameter moved."""
    before = p.detach().clone()
    p.grad = g.clone()
    optimizer.step()
    return before - p.detach()


def by_svd(x):
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("shape", [(12, 12), (20, 7), (7, 20)])
@pytest.mark.parametrize("beta2", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("scale", ["jordan", "moonlight"])
def test_four_steps_equal_a_plain_loop(shape, beta2, scale):
    m, n = shape
    p = nn.Parameter(gaussian(*shape))
    options = {"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2, "eps": 1e-3}
    optimizer = NorMuon([p], method=Exact(), beta2=beta2, scale=scale, **options)
    w, b, v = p.detach().clone(), torch.zeros(shape, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for seed in range(4):
        g = gaussian(*shape, seed=seed + 1)
        take(optimizer, p, g)
        b = 0.8 * b + 0.2 * g
        u = by_svd(0.8 * b + 0.2 * g)
        evened = torch.empty_like(u)
        for i in range(m):
            v[i] = beta2 * v[i] + (1 - beta2) * sum(x * x for x in u[i]) / n
            evened[i] = u[i] / (v[i].sqrt() + 1e-3)
        step = evened * torch.linalg.matrix_norm(u) / torch.linalg.matrix_norm(evened)
        w = (1 - 0.03 * 0.2) * w - 0.03 * SCALES[scale](m, n) * step
    assert torch.allclose(p.detach(), w, rtol=0, atol=1e4 * EPS64)


def test_the_norm_is_muons_and_without_memory_all_rows_are_equal():
    p, q = nn.Parameter(torch.zeros(24, 8, dtype=torch.float64)), nn.Parameter(torch.zeros(24, 8, dtype=torch.float64))
    g = gaussian(24, 8, seed=1)
    ours = take(NorMuon([p], lr=1.0, beta2=0.0, eps=0.0), p, g)
    muon = take(Muon([q], lr=1.0), q, g)
    assert torch.linalg.matrix_norm(ours).item() == pytest.approx(torch.linalg.matrix_norm(muon).item(), rel=1e-12)
    rows = torch.linalg.vector_norm(ours, dim=-1)
    assert torch.allclose(rows, rows.mean().expand(24), rtol=1e-12, atol=0)
    assert torch.linalg.vector_norm(muon, dim=-1).std() > 0.1


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_rows_that_were_always_zero_stay_and_a_zero_gradient_moves_nothing(eps):
    p, g = nn.Parameter(gaussian(6, 8)), gaussian(6, 8, seed=2)
    g[2] = 0
    optimizer = NorMuon([p], eps=eps)
    moved = take(optimizer, p, g)
    assert torch.equal(moved[2], torch.zeros(8, dtype=torch.float64))
    assert moved[0].any()
    q = nn.Parameter(gaussian(6, 8))
    assert not take(NorMuon([q], eps=eps), q, torch.zeros(6, 8, dtype=torch.float64)).any()


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        (linear((12, 5)).cut((6, 4, 2)), (12,)),
        (linear((12, 5)).tiled(rows=3), (3, 4)),
        (stack((3, 6, 5)), (3, 6)),
        (transposed((5, 12)), (12,)),
        (convolution((12, 3, 2, 2), groups=2), (2, 6)),
    ],
)
def test_each_block_moves_as_it_would_alone(layout, rows):
    p = nn.Parameter(torch.zeros(layout.shape, dtype=torch.float64))
    optimizer = NorMuon([{"params": [p], "layout": [layout]}], lr=1.0, scale="unit")
    alone = []
    for i, (b, m, n) in enumerate(layout.matrices):
        weights = [nn.Parameter(torch.zeros(m, n, dtype=torch.float64)) for _ in range(b)]
        alone.append((i, weights, NorMuon(weights, lr=1.0, scale="unit")))
    for seed in range(3):
        g = gaussian(*layout.shape, seed=seed)
        take(optimizer, p, g)
        for i, weights, each in alone:
            packed = torch.empty(len(weights), *weights[0].shape, dtype=torch.float64)
            layout.slot(packed, i).copy_(layout.pieces(g)[i])
            for weight, block in zip(weights, packed, strict=True):
                weight.grad = block
            each.step()
            layout.slot(packed, i).copy_(layout.pieces(p.detach())[i])
            for weight, block in zip(weights, packed, strict=True):
                assert torch.allclose(weight, block, rtol=0, atol=1e4 * EPS64)
    assert tuple(optimizer.state[p]["row_moment"].shape) == rows


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta2": 1.0}, ValueError, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"beta2": "high"}, TypeError, "beta2 must be a number"),
        ({"eps": -1.0}, ValueError, "eps must be >= 0"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        NorMuon([nn.Parameter(gaussian(4, 3))], **options)
