"""Whoever follows one call opens few files: counted over the functions of matfn that run in a warm call."""

import sys
from pathlib import Path

import torch
from torch import nn

import matfn
from matfn.optim import Muon

ROOT = Path(matfn.__file__).parent


def opened(call) -> set[str]:
    """The files of matfn whose functions run in the second call: the first one fills caches."""
    call()
    seen = set()

    def look(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            seen.add(str(Path(frame.f_code.co_filename).relative_to(ROOT)))

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(before)
    return seen


def test_orthogonalize_opens_at_most_12_files():
    for shape in ((300, 700), (64, 64), (700, 300)):
        X = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        files = opened(lambda X=X: matfn.orthogonalize(X))
        assert 5 < len(files) <= 12, sorted(files)


def test_a_step_of_muon_opens_at_most_16_files():
    for shape in ((300, 700), (64, 64), (64, 256)):
        weight, vector = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(8))
        optimizer = Muon([{"params": [weight]}, {"params": [vector], "rule": "adamw"}])
        weight.grad, vector.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.ones(8)
        files = opened(optimizer.step)
        assert 5 < len(files) <= 16, sorted(files)
