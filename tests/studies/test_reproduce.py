"""`python -m studies.prism`: a row of each kind against the published numbers, and the page that is written."""

import json

import pytest
from typer.testing import CliRunner

from studies import reproduce
from studies.prism import published
from studies.prism import report as prism_report
from studies.prism.counts import Table, polar_row, singular_values

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
    path = reproduce.write(prism_report.made([table], [], []), tmp_path / "new")
    assert "| i^-2 | 3.7e-06 (3.7e-06) | 35 (35) |" in path.read_text()
    assert json.loads((tmp_path / "new" / "prism.json").read_text())["tables"][0]["unexplained"] == []
    assert (tmp_path / "new" / "prism.png").read_bytes().startswith(b"\x89PNG")


def made(table):
    """The command with a report of that table in place of the whole."""
    return reproduce.reproduction(
        {"full": lambda notice: prism_report.made([table], [], []), "quick": lambda notice: None}
    )


def test_the_command_prints_the_tables_and_writes_the_page(table, tmp_path):
    called = CliRunner().invoke(made(table), ["--out", str(tmp_path / "new")])
    assert called.exit_code == 0, called.output
    assert "(3.7e-06)" in called.stdout
    assert called.stdout.split()[-1].endswith("prism.md")
    assert json.loads(CliRunner().invoke(made(table), ["--json"]).stdout)["tables"][0]["unexplained"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--preset", "quik"], "--preset is one of full, quick, got 'quik'"), (["--out", "/proc/foo"], "cannot make")],
)
def test_mistakes_are_told_in_a_line_before_the_work(arguments, message):
    app = reproduce.reproduction({"full": lambda notice: pytest.fail("work was done first"), "quick": None})
    called = CliRunner().invoke(app, arguments)
    assert called.exit_code == 2
    assert message in called.stderr
