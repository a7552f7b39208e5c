"""Layouts: views for any strides, every entry in exactly one block, the documented matrices."""

import math
from collections import Counter

import pytest
import torch

from matfn.optim import (
    SCALES,
    SOAP,
    AdaMuon,
    Layout,
    Muon,
    NorMuon,
    PolarGrad,
    Shampoo,
    jordan,
    moonlight,
    spectral,
    unit,
)
from matfn.optim.matrices.buckets import fill_buckets
from matfn.optim.matrices.layout import convolution, linear, stack, transposed, transposed_convolution, transposed_stack

CASES = [
    (linear((6, 4)), ((1, 6, 4),)),
    (linear((6, 4)).cut(3), ((1, 2, 4),) * 3),
    (linear((8, 4)).cut((4, 2, 2)), ((1, 4, 4), (1, 2, 4), (1, 2, 4))),
    (transposed((4, 6)), ((1, 6, 4),)),
    (transposed((4, 6)).cut(3), ((1, 2, 4),) * 3),
    (stack((5, 6, 4)), ((5, 6, 4),)),
    (transposed_stack((5, 4, 6)), ((5, 6, 4),)),
    (transposed_stack((5, 4, 6)).cut(2), ((5, 3, 4),) * 2),
    (convolution((6, 4, 3)), ((1, 6, 12),)),
    (convolution((6, 4, 3, 2), groups=2), ((2, 3, 24),)),
    (convolution((6, 4, 3, 2, 1), groups=3), ((3, 2, 24),)),
    (transposed_convolution((6, 4, 3, 3)), ((1, 4, 54),)),
    (transposed_convolution((6, 4, 3, 3), groups=2), ((2, 4, 27),)),
    (linear((1, 7)), ((1, 1, 7),)),
    (linear((0, 7)), ((1, 0, 7),)),
    (linear((12, 4)).cut(3, repeats=2), ((1, 4, 4),) * 3),
    (linear((12, 4)).cut((4, 1, 1), repeats=2), ((1, 8, 4), (1, 2, 4), (1, 2, 4))),
    (transposed((4, 12)).cut(2, repeats=6), ((1, 6, 4),) * 2),
    (transposed_stack((5, 4, 6)).cut(2, repeats=3), ((5, 3, 4),) * 2),
    (convolution((6, 4, 3)).cut(2, repeats=3), ((1, 3, 12),) * 2),
]


@pytest.mark.parametrize(("layout", "matrices"), CASES)
def test_the_matrices_are_as_documented_and_cover_every_entry_once(layout, matrices):
    assert layout.matrices == matrices
    x = torch.arange(math.prod(layout.shape), dtype=torch.float64).view(layout.shape)
    assert sorted(torch.cat([piece.reshape(-1) for piece in layout.pieces(x)]).tolist()) == list(range(x.numel()))


def test_repeated_blocks_take_their_rows_from_every_repeat():
    weight = torch.arange(12.0)[:, None] * torch.ones(1, 4)
    rows = [piece.reshape(-1, 4)[:, 0].tolist() for piece in linear((12, 4)).cut((3, 2, 1), repeats=2).pieces(weight)]
    assert rows == [[0, 1, 2, 6, 7, 8], [3, 4, 9, 10], [5, 11]]
    turns = linear((12, 4)).cut(2, repeats=6).pieces(weight)
    assert [piece.reshape(-1, 4)[:, 0].tolist() for piece in turns] == [list(range(0, 12, 2)), list(range(1, 12, 2))]
    for wrong in ({"blocks": 3, "repeats": 5}, {"blocks": 5, "repeats": 2}, {"blocks": 1, "repeats": 0}):
        with pytest.raises(ValueError, match="cannot be"):
            linear((12, 4)).cut(**wrong)
    with pytest.raises(ValueError, match="cannot be tiled"):
        linear((12, 4)).cut(3, repeats=2).tiled(rows=2)


@pytest.mark.parametrize(("layout", "matrices"), CASES)
def test_writing_through_the_pieces_writes_the_tensor_for_any_strides(layout, matrices):
    dense = torch.randn(layout.shape)
    strided = torch.empty([2 * size for size in reversed(layout.shape)])[tuple([slice(None, None, 2)] * dense.ndim)]
    strided = strided.permute(*reversed(range(dense.ndim)))
    for target in (torch.zeros(layout.shape), strided):
        for i, (view, (b, m, n)) in enumerate(zip(layout.pieces(target), matrices, strict=True)):
            packed = torch.empty(b, m, n)
            layout.slot(packed, i).copy_(layout.pieces(dense)[i])
            view.copy_(layout.slot(packed, i))
        assert torch.equal(target, dense)


def test_a_convolution_matches_flattening_and_a_transposed_one_its_adjoint():
    weight = torch.randn(6, 4, 3, 3)
    layout = convolution(weight.shape)
    packed = torch.empty(1, 6, 36)
    layout.slot(packed, 0).copy_(layout.pieces(weight)[0])
    assert torch.equal(packed[0], weight.flatten(1))
    layout = transposed_convolution(weight.shape)
    packed = torch.empty(1, 4, 54)
    layout.slot(packed, 0).copy_(layout.pieces(weight)[0])
    assert torch.equal(packed[0], weight.transpose(0, 1).flatten(1))


def test_channels_last_weights_are_views_too():
    weight = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last)
    for piece in convolution(weight.shape, groups=2).pieces(weight):
        assert piece.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("layout", "rows", "columns", "block"),
    [
        (linear((8, 6)), 4, 1, lambda w, i, j: w[2 * i : 2 * i + 2]),
        (linear((8, 6)), 1, 3, lambda w, i, j: w[:, 2 * j : 2 * j + 2]),
        (linear((8, 6)), 2, 3, lambda w, i, j: w[4 * i : 4 * i + 4, 2 * j : 2 * j + 2]),
        (transposed((6, 8)), 2, 3, lambda w, i, j: w.T[4 * i : 4 * i + 4, 2 * j : 2 * j + 2]),
        (linear((8, 6)).cut((4, 2, 2)), 4, 1, lambda w, i, j: w[2 * i : 2 * i + 2]),
        (convolution((8, 6, 2, 2)), 2, 3, lambda w, i, j: w[4 * i : 4 * i + 4, 2 * j : 2 * j + 2].flatten(1)),
    ],
)
def test_a_tiled_layout_has_each_block_of_the_grid_as_a_matrix(layout, rows, columns, block):
    tiled, weight = layout.tiled(rows=rows, columns=columns), torch.randn(layout.shape)
    [(b, m, n)] = tiled.matrices
    packed = torch.empty(b, m, n)
    tiled.slot(packed, 0).copy_(tiled.pieces(weight)[0])
    expected = [block(weight, i, j) for i in range(rows) for j in range(columns)]
    assert b == rows * columns
    assert {tuple(x.flatten().tolist()) for x in packed} == {tuple(x.flatten().tolist()) for x in expected}


def test_a_stack_is_tiled_matrix_by_matrix_and_row_blocks_stay_where_only_columns_are_cut():
    assert stack((5, 8, 6)).tiled(rows=2).matrices == ((10, 4, 6),)
    assert linear((8, 6)).cut((6, 2)).tiled(columns=3).matrices == ((3, 6, 2), (3, 2, 2))
    for rows, columns in ((3, 1), (0, 1), (1, 4), (1, 0)):
        with pytest.raises(ValueError, match="cannot be cut into"):
            linear((8, 6)).tiled(rows=rows, columns=columns)
    with pytest.raises(ValueError, match=r"row blocks of \(6, 2\) cannot be cut into 2"):
        linear((8, 6)).cut((6, 2)).tiled(rows=2)


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="exactly once"):
        Layout((4, 4), (4, 4), (0,), 0, (1,))
    with pytest.raises(ValueError, match="never merge"):
        Layout((4, 6), (24,), (), 0, ())
    with pytest.raises(ValueError, match="never merge"):
        Layout((4, 6), (6, 4), (), 0, (1,))
    with pytest.raises(ValueError, match="add up to 5"):
        linear((6, 4)).cut((2, 3))
    with pytest.raises(ValueError, match="4 equal blocks"):
        linear((6, 4)).cut(4)
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(4, 6\)"):
        linear((6, 4)).pieces(torch.zeros(4, 6))


def test_blocks_of_equal_shape_share_a_bucket_across_parameters_and_dtypes():
    a, b, c, d = (torch.zeros(6, 4), torch.zeros(2, 4), torch.zeros(2, 4).bfloat16(), torch.zeros(2, 4).double())
    empty = torch.zeros(0, 4)
    small = linear((2, 4))
    cut = linear((6, 4)).cut(3)
    buckets = fill_buckets(
        [(0, "a", a, cut), (1, "b", b, small), (1, "c", c, small), (2, "d", d, small), (2, "e", empty, linear((0, 4)))]
    )
    assert [(bucket.shape, bucket.dtype) for bucket in buckets] == [
        ((5, 2, 4), torch.float32),
        ((1, 2, 4), torch.float64),
    ]
    assert [slot.start for slot in buckets[0].slots] == [0, 1, 2, 3, 4]
    assert Counter(slot.group for slot in buckets[0].slots) == {0: 3, 1: 2}


def test_scales():
    assert jordan(256, 144) == pytest.approx(4 / 3)
    assert jordan(16, 64) == 1
    assert spectral(16, 64) == 0.5
    assert moonlight(16, 64) == pytest.approx(1.6)
    assert unit(256, 144) == 1
    named = [("jordan", jordan), ("spectral", spectral), ("moonlight", moonlight), ("unit", unit)]
    assert list(SCALES.items()) == named


@pytest.mark.parametrize("make", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP], ids=lambda make: make.__name__)
def test_every_optimizer_moves_repeated_blocks_as_it_moves_the_same_blocks_in_order(make):
    """The oracle is the same optimizer on a weight whose rows were put into order beforehand."""
    order = torch.tensor([0, 1, 2, 6, 7, 8, 3, 4, 9, 10, 5, 11])
    generator = torch.Generator().manual_seed(0)
    stored = torch.nn.Parameter(torch.randn(12, 5, generator=generator))
    sorted_ = torch.nn.Parameter(stored.detach()[order].clone())
    repeated, plain = linear((12, 5)).cut((3, 2, 1), repeats=2), linear((12, 5)).cut((6, 4, 2))
    optimizers = [
        make([{"params": [param], "layout": [layout]}], lr=0.1)
        for param, layout in ((stored, repeated), (sorted_, plain))
    ]
    for _ in range(3):
        stored.grad = torch.randn(12, 5, generator=generator)
        sorted_.grad = stored.grad[order].clone()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(stored[order], sorted_, rtol=0, atol=0)
