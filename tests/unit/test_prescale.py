"""Prescale: norm 1 whatever the scale, bit for bit for powers of two, from the smallest to the largest number."""

import math

import pytest
import torch

from matfn.linalg.norms import prescale
from matrices import gaussian

LARGEST = {torch.float16: 6.5e4, torch.bfloat16: 3.3e38, torch.float32: 3.4e38, torch.float64: 1.7e308}
SMALLEST = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133, torch.float32: 2.0**-149, torch.float64: 5e-324}
every_dtype = pytest.mark.parametrize("dtype", LARGEST, ids=str)


@every_dtype
def test_norm_is_one_at_both_ends_of_the_dtype(dtype):
    """All entries the largest number, or the smallest (subnormal) one: nothing overflows or vanishes."""
    for entry in (LARGEST[dtype], SMALLEST[dtype], -LARGEST[dtype], 1.0):
        A = torch.full((2, 5, 8), entry, dtype=dtype)
        scaled, scale = prescale(A)
        assert scaled.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.isfinite(scaled).all()
        want = math.copysign(40**-0.5, entry)
        assert (scaled - want).abs().max() <= 4 * torch.finfo(scaled.dtype).eps
        assert (scale.undo(scaled, 1.0) / A.to(scaled.dtype) - 1).abs().max() <= 8 * torch.finfo(scaled.dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_powers_of_two_are_exact(dtype):
    A = gaussian(3, 4, 6, seed=1, dtype=dtype)
    scaled, scale = prescale(A)
    for k in (-100, -1, 1, 100):
        again, larger = prescale(A * 2.0**k)
        assert torch.equal(again, scaled)
        assert torch.equal(larger.peak, scale.peak * 2.0**k)
        assert torch.equal(larger.norm, scale.norm)


def test_the_norm_of_a_large_matrix_is_accurate_in_float32():
    """Sums of at most 2048 squares, of a row and of the rows: one sum of all 4 million would be off by 8e-4."""
    n = 2048
    A = (torch.eye(n) + 1e-3)[None]
    norm = prescale(A)[1]
    want = torch.linalg.matrix_norm(A.double()).item()
    # A sum of n squares is off by n u at most, whatever its order, its root by half of that, twice; u = eps / 2.
    bound = (n + 4) * torch.finfo(torch.float32).eps / 2
    assert abs((norm.peak.double() * norm.norm.double()).item() / want - 1) <= bound


def test_each_matrix_by_its_own_norm():
    A = gaussian(4, 3, 5, seed=2) * torch.tensor([1e-200, 1.0, 1e200, 0.0], dtype=torch.float64)[:, None, None]
    scaled, scale = prescale(A)
    norms = torch.linalg.matrix_norm(scaled)
    assert (norms[:3] - 1).abs().max() <= 4 * torch.finfo(torch.float64).eps
    assert not scaled[3].any()
    assert (scale.peak[3].item(), scale.norm[3].item()) == (1, 1)
    assert (scale.norm >= 1).all()
    assert (scale.norm <= 15**0.5 * 1.0001).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_entry_makes_its_matrix_nan_and_no_other(bad):
    A = gaussian(3, 3, 5, seed=3)
    A[1, 0, 0] = bad
    scaled, _ = prescale(A)
    assert scaled[1].isnan().any()
    clean, _ = prescale(gaussian(3, 3, 5, seed=3))
    assert torch.equal(scaled[[0, 2]], clean[[0, 2]])


def test_the_argument_is_not_changed():
    A = gaussian(2, 3, 5)
    before = A.clone()
    scaled, _ = prescale(A)
    scaled.fill_(7.0)
    assert torch.equal(A, before)


@pytest.mark.parametrize("h", [-1.0, -0.5, -0.125, 0.0, 0.125, 0.5, 1.0])
def test_undo_is_the_homogeneity(h):
    A = gaussian(2, 3, 3, seed=4) * 1e100
    scaled, scale = prescale(A)
    c = torch.linalg.matrix_norm(A, keepdim=True)
    assert (scale.undo(scaled, h) / (scaled * c**h) - 1).abs().max() <= 1e-13
