"""The search for the worst rounding of Gram: what it notes, and the page it makes."""

import json

import torch

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
