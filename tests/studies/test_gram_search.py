"""The search for the worst rounding of Gram: what it notes, and the page it makes."""

import json

import torch

from studies.gram_safety import half
from studies.gram_safety.report import Found, made, search
from studies.gram_safety.search import SPECTRA, cases
from studies.reproduce import write


def test_the_search_and_its_page(tmp_path):
    (case, *_) = cases(((8, 24),))
    found = Found(case, 0, dict.fromkeys(SPECTRA, 0.0))
    search(found, case, members=2, rounds=1, draw=torch.Generator().manual_seed(0))
    assert found.run == len(SPECTRA) * 2 * 2
    assert found.kept
    assert found.worst["zero"] == 0
    assert 0 < max(found.worst.values()) < 1e-3
    assert found.at.split(",")[0] in SPECTRA
    page = write(made([found]), tmp_path).read_text()
    assert "plans above their bound: none" in page
    kept = json.loads((tmp_path / "gram_safety.json").read_text())
    assert kept["matrices"] == found.run
    assert (tmp_path / "gram_safety.png").stat().st_size > 10_000


def test_a_plan_above_its_bound_is_named():
    (case, *_) = cases(((8, 24),))
    assert made([Found(case, 1, dict.fromkeys(SPECTRA, 0.02), added=0.02)]).plain["broken"] == [case.name]


def test_tensor_cores_are_float16_products_with_one_rounding():
    """Of torch's own float16 product, in another order of sums: at most one rounding and the float32 sums between."""
    draw = torch.Generator().manual_seed(0)
    A, B, C = (torch.randn(2, 40, 40, generator=draw).half() for _ in range(3))
    exact = A.double() @ B.double()
    u = torch.finfo(torch.float16).eps / 2
    slack = 40 * torch.finfo(torch.float32).eps * (A.abs().double() @ B.abs().double())
    products = half.TensorCores()
    assert ((products.mm(A, B).double() - exact).abs() <= u * exact.abs() + slack).all()
    assert ((products.mm(A, B) - A @ B).abs().double() <= 2 * u * exact.abs() + slack).all()
    exact = 2 * exact - 0.5 * C.double()
    found = products.addmm(C, A, B, alpha=2.0, beta=-0.5).double()
    assert ((found - exact).abs() <= u * exact.abs() + 2 * slack + 1e-6).all()


def test_the_search_in_float16_and_its_page(tmp_path):
    worst = {}
    for candidate in half.CANDIDATES:
        worst[candidate.name, repr(candidate.engine), candidate.dtype] = w = half.Worst(candidate)
        half.search(w, (16, 64), members=4, rounds=1, draw=torch.Generator().manual_seed(0))
        assert w.run == len(half.HALF_SPECTRA) * 4 * 2
    for (name, engine, dtype), w in worst.items():
        if "deflated" in name and dtype == torch.float16:  # the default of a GPU, and four steps
            assert w.value <= half.LIMIT, (name, engine)
    assert worst["five lifted", "Gram(restarts=(2,))", torch.float16].value <= half.LIMIT
    blind = [w for key, w in worst.items() if key[1] in ("Gram(restarts=(1,))", "Gram(restarts=(3,))")]
    assert max(w.value for w in blind) > half.LIMIT  # five lifted steps with a restart at a bad place
    page = write(half.made(list(worst.values())), tmp_path).read_text()
    assert "Greatest singular value found" in page
    assert json.loads((tmp_path / "gram_safety_float16.json").read_text())["steps"][0]["dtype"] == "float16"
