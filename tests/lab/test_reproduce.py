"""`matfn reproduce`: a row of each kind against the published numbers, and the page that is written."""

import json

import pytest

from matfn.lab.errors import LabError
from matfn.lab.papers import reproduce
from matfn.lab.papers.prism import published
from matfn.lab.papers.prism import report as prism_report
from matfn.lab.papers.prism.counts import Table, polar_row, singular_values

ROWS = ("gaussian 1024x256", "i^-1", "i^-2")


@pytest.fixture(scope="module")
def table():
    ours = {name: polar_row(singular_values(name)) for name in ROWS}
    theirs = {name: published.POLAR[name] for name in ROWS}
    return Table("6.1", "steps", published.POLAR_HEADS, ours, theirs, published.POLAR_GROWTH)


def test_deterministic_spectra_give_the_published_counts(table):
    """Power laws are not drawn at random: every column to the step."""
    for row in ("i^-1", "i^-2"):
        assert table.ours[row][1:] == table.published[row][1:]
    assert not table.unexplained()


def test_a_deviation_is_named(table):
    wrong = {row: (v[0], v[1] + 7, *v[2:]) for row, v in table.published.items()}
    assert Table("", "", table.heads, table.ours, wrong, table.growth).unexplained() == [f"{r}, NS3" for r in ROWS]


def test_what_is_written(table, tmp_path):
    path = reproduce.write(prism_report.made([table]), tmp_path / "new")
    assert "| i^-2 | 3.7e-06 (3.7e-06) | 35 (35) |" in path.read_text()
    assert json.loads((tmp_path / "new" / "prism.json").read_text())["tables"][0]["unexplained"] == []
    assert (tmp_path / "new" / "prism.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_paper():
    with pytest.raises(LabError, match="no paper 'prsm' to reproduce: known are prism"):
        reproduce.run("prsm", print)
