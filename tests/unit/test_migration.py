"""The pages of docs/migration: both snippets of a page, on the same model and gradients, give the same weights."""

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from tests import peer_formulas as written

PAGES = Path(__file__).parents[2] / "docs" / "migration"
STEPS = 5
# By formula, for packages that the test environment lacks: {page: (module, its names)}.
FORMULAS = {
    "keller_jordan": ("muon", {"SingleDeviceMuonWithAuxAdam": written.SingleDeviceMuonWithAuxAdam}),
    "dion": ("dion", {"Muon": written.DionMuon}),
    "moonlight": ("toy_train", {"Muon": written.MoonlightMuon}),
    "distributed_shampoo": (
        "distributed_shampoo",
        {name: getattr(written, name) for name in ("DistributedShampoo", "AdamPreconditionerConfig")},
    ),
}


def snippets(page):
    """The setup, and the snippets of the other package and of this one."""
    found = re.findall(r"```(python|py)\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert [fence for fence, _ in found] == ["python", "py", "python"]
    return [text for _, text in found]


def ran(*texts):
    """The names that snippets define, run one after the other in one namespace."""
    names: dict[str, object] = {}
    for text in texts:
        exec(compile(text, "docs/migration", "exec"), names)
    return SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})


def trained(*texts):
    """The weights of the model of a page, in float64, after some steps. No entry of a gradient is near AdamW's eps."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        found = ran(*texts)
        optimizers = getattr(found, "optimizers", None) or [v for k, v in vars(found).items() if k == "optimizer"]
        for step in range(STEPS):
            for index, p in enumerate(found.model.parameters()):
                generator = torch.Generator().manual_seed(100 * step + index)
                p.grad = torch.randn(p.shape, generator=generator)
                p.grad = p.grad.sign() * (0.1 + p.grad.abs())
            for optimizer in optimizers:
                optimizer.step()
    finally:
        torch.set_default_dtype(before)
    return {name: p.detach() for name, p in found.model.named_parameters()}


def assert_same_weights(page, tolerance):
    setup, theirs, ours = snippets(page)
    expected, found, start = trained(setup, theirs), trained(setup, ours), trained(setup)
    for name, w in expected.items():
        assert (w - start[name]).abs().max() > 100 * tolerance, f"{name} has hardly moved"
        assert torch.allclose(found[name], w, rtol=0, atol=tolerance), name


@pytest.fixture
def in_float64(monkeypatch):
    """Code that iterates in bfloat16 iterates in float64, so that only its formulas can differ from ours."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    return monkeypatch


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_torchs_muon(in_float64):
    assert_same_weights("torch_muon", 1e-12)


@pytest.mark.parametrize("page", FORMULAS)
def test_formulas_of_other_packages(page, monkeypatch):
    """Their eps, up to 1e-7 of a norm of about 10, is the largest difference."""
    name, members = FORMULAS[page]
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    assert_same_weights(page, 1e-8)


def test_keller_jordans_own_code(in_float64):
    pytest.importorskip("muon", reason="needs the package muon-optimizer, of the extra peers")
    assert_same_weights("keller_jordan", 1e-8)


def test_pytorch_optimizers_own_code(in_float64):
    pytest.importorskip("pytorch_optimizer", reason="needs the package pytorch_optimizer, of the extra peers")
    from pytorch_optimizer.optimizer.muon import base

    steps = partial(base.zero_power_via_newton_schulz_5, dtype=torch.float64)
    in_float64.setattr(base, "zero_power_via_newton_schulz_5", steps)
    assert_same_weights("pytorch_optimizer", 1e-12)


def test_scipy():
    setup, theirs, ours = snippets("scipy")
    expected, found = ran(setup, theirs), ran(setup, ours)
    for name in ("U", "H", "left", "P", "R", "F", "S", "V"):
        value = getattr(expected, name)
        assert np.linalg.norm(getattr(found, name).numpy() - value) <= 1e-10 * np.linalg.norm(value), name


def test_what_scipy_and_ours_do_with_a_null_space():
    import scipy.linalg

    from matfn import polar

    A = np.diag([3.0, 2.0, 0.0])
    assert np.linalg.matrix_rank(scipy.linalg.polar(A)[0]) == 3
    assert torch.linalg.matrix_rank(polar(torch.from_numpy(A)).U) == 2
    assert torch.linalg.matrix_rank(polar(torch.from_numpy(A), factor="complete").U) == 3
