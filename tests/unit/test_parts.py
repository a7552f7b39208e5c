"""Stacks taken part by part on a CPU: each matrix comes out as it does alone, and what may not be parted is not."""

from dataclasses import replace

import pytest
import torch

import matfn
from matfn.iteration.target import POLAR
from matfn.run import execute, plan
from matfn.run.machine import PROFILES
from matrices import gaussian

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.fixture
def small_cache(monkeypatch):
    """Parts of two 12 x 20 matrices."""
    small = replace(PROFILES["amd-avx512-bf16"], part_entries=2 * 12 * 20)
    monkeypatch.setattr(plan, "machine", lambda device: small)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", [None, matfn.Tuned("jordan"), matfn.PolarExpress(lower=1e-16, steps=40)], ids=repr)
def test_each_matrix_is_as_it_is_alone(small_cache, method, dtype):
    """Within rounding: a batched product may add up in another order than a single one."""
    X = gaussian(5, 12, 20, seed=1).to(dtype)
    kept = X.clone()
    together = matfn.orthogonalize(X, method=method)
    alone = torch.stack([matfn.orthogonalize(x, method=method) for x in X])
    assert torch.equal(X, kept)
    assert (together.dtype, together.shape, together.is_contiguous()) == (dtype, X.shape, True)
    assert torch.allclose(together, alone, rtol=0, atol=20 * torch.finfo(dtype).eps)


def test_leading_axes_and_strides(small_cache):
    X = gaussian(3, 2, 20, 12, seed=2).mT
    assert torch.allclose(matfn.orthogonalize(X), matfn.orthogonalize(X.contiguous()), rtol=0, atol=1e-13)
    assert matfn.orthogonalize(X).shape == (3, 2, 12, 20)


def test_parts_are_seen(small_cache):
    def lengths(*shape):
        made = plan.resolve(POLAR, None, shape[1:], torch.float32, torch.device("cpu"))
        return [len(part) for part in execute._parts(torch.empty(shape), made)]

    assert lengths(5, 12, 20) == [2, 2, 1]
    assert lengths(3, 120, 200) == [1, 1, 1]


def test_a_record_is_of_the_whole_stack(small_cache):
    recorder = matfn.Recorder(matfn.RitzMinimax(steps=3))
    matfn.orthogonalize(gaussian(5, 12, 20, seed=3), method=recorder)
    assert recorder.schedule_of(4).steps == 3


def test_derivatives_pass_through(small_cache):
    X = gaussian(5, 12, 20, seed=4).requires_grad_()
    (together,) = torch.autograd.grad(matfn.orthogonalize(X)[..., 0].sum(), X)
    alone = torch.stack(
        [
            torch.autograd.grad(matfn.orthogonalize(x)[..., 0].sum(), x)[0]
            for x in X.detach().unbind()
            for x in [x.requires_grad_()]
        ]
    )
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)
