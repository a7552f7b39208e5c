"""docs/evidence.md is what `python -m studies.evidence` makes, and names every claim of the three papers."""

import json

import pytest

from studies import evidence
from studies.evidence import MISSING, PAPERS, claims, page


def test_the_page_is_the_one_that_the_command_makes():
    text = evidence.PAGE.read_text()
    assert text == page(), "docs/evidence.md is older than the results: run `python -m studies.evidence`"


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.study)
def test_each_claim_has_a_row(paper):
    found = [verdict.claim for verdict in claims(paper)]
    assert list(dict.fromkeys(claim for claim in found if claim in paper.wanted)) == list(paper.wanted)
    section = page().split(f"## {paper.title}")[1].split("\n## ")[0]
    assert all(f"\n| {claim} | " in section for claim in paper.wanted)


def test_every_row_has_five_cells():
    """Norms have bars, which would end a cell."""
    rows = [line for line in page().replace("\\|", "").splitlines() if line.startswith(("| C", "| T", "| G", "| L"))]
    assert len(rows) > 60
    assert {line.count("|") for line in rows} == {6}


def test_a_claim_without_a_number_is_shown_as_such(tmp_path):
    paper = next(paper for paper in PAPERS if paper.study == "prism")
    rows = [{"claim": "C2", "says": "a", "wanted": "b", "measured": "c", "verdict": "confirmed"}]
    (tmp_path / "prism.json").write_text(json.dumps({"verdicts": rows}))
    found = {verdict.claim: verdict.verdict for verdict in claims(paper, tmp_path)}
    assert found["C2"] == "confirmed"
    assert found["C1"] == MISSING
    assert "| C2 | a. Wanted: b. | c | **confirmed** | `python -m studies.prism` |" in page(tmp_path)


def test_the_command_writes_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evidence", "--out", str(tmp_path / "page.md")])
    evidence.main()
    assert (tmp_path / "page.md").read_text() == page()
