"""The number of kernels that a step launches on an NVIDIA GPU, counted without one (tests/launches.py)."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from launches import Launches, hopper, step_launches
from matfn.optim import AdaMuon, Muon, NorMuon

GPT2 = [(768, 768)] * 48 + [(768, 3072)] * 12 + [(3072, 768)] * 12


def made(kind, shapes, **options):
    pytest.importorskip("triton", reason="the counts are of Triton's kernels")
    return step_launches(kind, shapes, **options)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 38), (torch.bfloat16, 40)])
def test_a_step_of_gpt2_small_is_three_stacks(dtype, most):
    found, buckets = made(Muon, GPT2, dtype=dtype)
    assert buckets == 3
    assert found.total <= most * buckets


@pytest.mark.parametrize(("kind", "most"), [(Muon, 42), (NorMuon, 65), (AdaMuon, 67)])
def test_launches_do_not_grow_with_the_number_of_matrices(kind, most):
    for options in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "cautious": True}):
        few, one = made(kind, [(256, 512)] * 3, dtype=torch.bfloat16, **options)
        many, two = made(kind, [(256, 512)] * 12, dtype=torch.bfloat16, **options)
        assert one == two == 1
        assert few.total == many.total <= most + 8 * bool(options.get("cautious")) + bool(options)


def test_no_matrix_is_decomposed():
    # k x k kernels take 128 rows, and a thirty-second of 5120 is 160. CUDA graphs may not hold a decomposition.
    for shape in [(5120, 5120), (768, 3072)]:
        found, _ = made(Muon, [shape])
        assert found.counts["triton invert"] >= 3
        assert not [name for name in found.counts if "cholesky" in name or "triangular" in name]


def test_a_read_value_would_be_found():
    found = Launches()
    with FakeTensorMode(), hopper(found), found, pytest.raises(DataDependentOutputException):
        torch.ops.aten._local_scalar_dense(torch.ones((), device="cuda"))


def test_each_launch_is_counted():
    found = Launches()
    with FakeTensorMode(), hopper(found), found:
        x = torch.ones(4, 4, device="cuda")
        torch._foreach_mul_([x] * 250, 2.0)
        x.mT.add_(1)
    assert dict(found.counts) == {"ones": 1, "_foreach_mul_": 3, "add_": 1}
