"""Blocks: merging, cutting, where factors lie in the state; and the ridge and the schedule of roots made from it."""

import math

import pytest
import torch
from torch import nn

from matfn import Exact, PolarExpress, Prism, inv_rootm
from matfn.optim import Cutting, minimax
from matfn.optim.matrices.buckets import Run, fill_buckets
from matfn.optim.matrices.layout import convolution, linear, stack, transposed
from matfn.optim.rules import kronecker
from matfn.optim.rules.blocks import blocks_of, sizes
from matfn.optim.rules.kronecker import Kronecker
from matfn.optim.rules.roots import inverse_roots, ridged
from matfn.run.plan import lower_bound

LAYOUTS = [
    linear((50, 30)),
    linear((50, 30)).cut((20, 20, 10)),
    linear((12, 8)).tiled(rows=3, columns=2),
    transposed((30, 50)),
    stack((3, 7, 9)),
    convolution((16, 6, 3, 3), groups=2),
    convolution((16, 130, 3, 3)),
    linear((1, 6)),
    linear((5, 1)),
    linear((1, 1)),
]
CUTTINGS = [Cutting(), Cutting(block=8), Cutting(block=7, merge=9), Cutting(merge=1), Cutting(block=None, largest=9)]


@pytest.mark.parametrize("cutting", CUTTINGS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.split))
def test_every_entry_is_in_one_block_and_every_factor_in_one_place(layout, cutting):
    for (b, m, n), shape in zip(layout.matrices, layout.shapes, strict=True):
        seen, square = torch.zeros(b, m, n), sizes(shape, cutting)
        taken = {key: torch.zeros(kind[0]) for key, kind in square.items()}
        for block in blocks_of(shape, cutting):
            block.read(seen).add_(1)
            assert all(side <= (cutting.block or math.inf) for side in block.shape)
            for side, factor in zip(block.shape, block.factors, strict=True):
                assert (factor is None) == (cutting.largest is not None and side > cutting.largest)
                if factor is not None:
                    taken[factor[0]][factor[1]] += 1
                    assert square[factor[0]][1:] == (side, side)
        assert all(bool((x == 1).all()) for x in [seen, *taken.values()])


def test_cuts_are_as_equal_as_they_can_be():
    for length in (1, 7, 1024, 1025, 2304, 50304):
        for block in (1, 5, 768, 1024):
            lengths = [stop - start for start, stop in Cutting(block=block).parts(length)]
            assert sum(lengths) == length
            assert len(lengths) == math.ceil(length / block)
            assert max(lengths) - min(lengths) <= 1
    assert Cutting(block=None).parts(5000) == [(0, 5000)]


@pytest.mark.parametrize(
    ("merge", "columns", "dims"),
    [
        (1024, (64, 3, 3), (8, 576)),
        (1024, (128, 3, 3), (8, 128, 9)),
        (9, (64, 3, 3), (8, 64, 9)),
        (8, (64, 3, 3), (8, 64, 3, 3)),
        (1, (64, 1, 1), (8, 64)),
        (1024, (), (8,)),
        (1, (4096,), (8, 4096)),
    ],
)
def test_neighbours_are_merged_from_the_right(merge, columns, dims):
    assert Cutting(merge=merge).dims(8, columns) == dims
    assert Cutting(merge=merge).dims(1, columns) == (dims[1:] or (1,))


@pytest.mark.parametrize(
    ("options", "error"),
    [({"block": 0}, ValueError), ({"merge": 0}, ValueError), ({"merge": None}, TypeError), ({"block": 2.0}, TypeError)],
)
def test_no_cutting(options, error):
    with pytest.raises(error, match=f"{next(iter(options))} must be"):
        Cutting(**options)


def test_batches_hold_equal_blocks_and_no_more_than_fit(monkeypatch):
    params = [nn.Parameter(torch.zeros(6, 4)) for _ in range(5)]
    [bucket] = fill_buckets((i // 3, f"p{i}", p, linear((6, 4))) for i, p in enumerate(params))
    slots = bucket.slots
    split = [(slots[:1], 1), (slots[1:2], 2), (slots[2:3], 1), (slots[3:], 1)]  # neighbours of one group and age
    runs = [Run(some, {}, lambda *_: None, lambda *_: {}, age) for some, age in split]

    def kinds(cutting):
        batches = Kronecker(cutting).batches(runs)
        return sorted((blocks.members[0][1].group, len(blocks.members)) for blocks in batches)

    assert kinds(Cutting()) == [(0, 1), (0, 2), (1, 2)]
    monkeypatch.setattr(kronecker, "_ENTRIES", 6 * 6)
    assert kinds(Cutting()) == [(0, 1), (0, 1), (0, 1), (1, 1), (1, 1)]
    x = torch.arange(5 * 24.0).view(5, 6, 4)
    y = torch.zeros_like(x)
    for blocks in Kronecker(Cutting(block=3)).batches(runs):
        blocks.scatter(blocks.gather(x), y)
    assert torch.equal(x, y)


@pytest.mark.parametrize(("p", "steps"), [(1, 8), (2, 6), (4, 6), (8, 5)])
def test_the_minimax_schedule_is_the_shortest_that_the_ridge_needs(p, steps):
    method = minimax(p, lower_bound(p, 1e-6, 64))
    assert method.steps == steps
    assert method.schedule(p).error() < 1e-3
    with pytest.raises(ValueError, match="lower must be a number"):
        minimax(p, 0.0)


@pytest.mark.parametrize("peak", [1e-30, 1.0, 1e30])
def test_the_ridge_bounds_the_condition_and_is_relative_at_any_scale(peak):
    x = torch.randn(3, 9, 2, generator=torch.Generator().manual_seed(0))
    A = torch.cat([x @ x.mT * peak, torch.zeros(1, 9, 9)])
    X, scale = ridged(A, 1e-3)
    values = torch.linalg.eigvalsh(X.double())
    assert (values[:, -1] / values[:, 0] <= 1.001 * (1 + 1e3)).all()
    assert torch.equal(X[3], torch.eye(9))
    assert torch.allclose((scale.norm * (scale.peak / peak))[:3].flatten(), torch.linalg.matrix_norm(A[:3] / peak))


@pytest.mark.parametrize("n", [4, 32, 96])
@pytest.mark.parametrize("p", [2, 4, 6])
@pytest.mark.parametrize("method", [minimax, lambda p, lower: Prism(degree=5, steps=10)])
def test_rounding_in_float32_alone_never_fails_the_check(n, p, method):
    g = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(8, n, n, generator=g))[0]
    steep = Q * torch.arange(1, n + 1) ** -(torch.arange(8.0)[:, None, None] * 2)
    singular = Q[..., : n * 2 // 3] @ torch.randn(8, n * 2 // 3, n, generator=g)
    G = torch.cat([steep, singular])
    found = inverse_roots(G @ G.mT, p, 1e-6, method, tolerance=0.2)
    assert not found.repeated
    assert not found.failed
    X = (G @ G.mT).double()
    exact = inv_rootm(X + 1e-6 * torch.linalg.matrix_norm(X, keepdim=True) * torch.eye(n), p)
    norm = torch.linalg.matrix_norm
    assert (norm(found.values - exact) / norm(exact)).max() < 0.2 / p


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_roots_that_are_short_of_steps_fail_it(steps):
    G = torch.randn(8, 32, 20, generator=torch.Generator().manual_seed(0))
    found = inverse_roots(G @ G.mT, 4, 1e-6, lambda p, lower: PolarExpress(steps=steps, lower=lower), tolerance=0.2)
    assert [i for i, _ in found.repeated] == list(range(8))
    assert torch.equal(found.values, inverse_roots(G @ G.mT, 4, 1e-6, Exact(), tolerance=0.2).values)
