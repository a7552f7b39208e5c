"""`python -m studies.accuracy`: what it measures is right, and the command writes whole files."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import matfn
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, SIGN
from matfn.train import TrainError
from studies.accuracy.__main__ import app
from studies.accuracy.problems import FUNCTIONS, problem
from studies.accuracy.run import Options, run
from studies.accuracy.solvers import converged, peers, solvers, verb
from studies.accuracy.tables import blocks, shown
from studies.accuracy.work import counted, steps_of

TINY = dict(spectra=("gaussian", "rank-deficient"), dtypes=("float64",), size=8, rounds=1)


@pytest.fixture(scope="module")
def result():
    return run(Options(**TINY))


def cell(result, function, solver, spectrum="gaussian"):
    return next(c for c in result.cells if (c.function, c.solver, c.spectrum) == (function, solver, spectrum))


def test_every_method_is_a_row(result):
    named = {c.solver for c in result.cells}
    assert set(matfn.METHODS) | {"scipy", "torch svd/eigh"} <= named
    assert {"polar-express, converged", "newton-schulz, converged"} <= named
    assert {c.function for c in result.cells} == set(FUNCTIONS)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_accurate_solvers_are_accurate(result, function):
    """Forward errors are the condition number of the function, near that of A, times a small multiple of roundoff."""
    for solver in ("exact", "scipy", "torch svd/eigh", "polar-express, converged", "newton-schulz, converged"):
        measured = cell(result, function, solver)
        assert measured.note == ""
        assert measured.forward < 100 * 1.1e-16 * measured.condition ** (2 if function.startswith("inv") else 1)
    assert cell(result, function, "newton-schulz").forward > 1e-10  # five Taylor steps are not enough


def test_five_steps_show_their_error(result):
    """The bound of Polar Express's five steps is 0.154, in the spectral norm."""
    assert 1e-3 < cell(result, "polar", "polar-express").forward < 0.16
    assert cell(result, "polar", "polar-express").steps == 5


def test_rank_deficiency_is_judged_on_the_range(result):
    """`Exact` gives the factor on the range; scipy completes it, by two more singular values of 1 beside six."""
    assert cell(result, "polar", "exact", "rank-deficient").orthogonality < 1e-14
    assert abs(cell(result, "polar", "scipy", "rank-deficient").orthogonality - (2 / 6) ** 0.5) < 1e-4
    for function in ("inv_sqrt", "inv_root4", "inv", "sign"):
        measured = cell(result, function, "exact", "rank-deficient")
        assert measured.note.startswith("refused: ")
        assert measured.forward is None
        assert measured.seconds is None


def test_refusals_are_told_apart_from_figures_that_do_not_apply(result):
    refused = cell(result, "inv_root4", "tuned")
    assert "p = 2 alone" in refused.note
    assert shown(refused, "forward") == "ref"
    assert shown(cell(result, "inv", "exact"), "direction") == "–"
    assert all("tuned" not in block.solvers for block in blocks(result) if block.function == "inv_root4")


def test_work_of_a_known_schedule():
    """Five quintic steps on a wide matrix, in units of n n m: X X^T, M^2 at n/m of one, and the application."""
    n, m = 8, 32
    A = torch.randn(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, work = counted(lambda: matfn.orthogonalize(A, method=matfn.PolarExpress()), A)
    assert work.products == 5 * (2 + n / m)
    assert work.decompositions == 0
    _, work = counted(lambda: torch.linalg.qr(torch.ones(3, n, n))[0], A)
    assert work.decompositions == 3


def test_steps_of_every_kind_of_method():
    class Looking:
        steps = 7

        def step(self, k, residual):
            return matfn.NewtonSchulz().schedule(residual.p).rows[0]

    A = torch.eye(4, dtype=torch.float64)

    def steps(method):
        return steps_of(method, POLAR, lambda m: verb(POLAR, A, m))

    assert steps(Looking()) == 7
    assert steps(matfn.NewtonSchulz(steps=9)) == 9
    assert steps(matfn.Exact()) is None


@pytest.mark.parametrize("target", [POLAR, SIGN, INV, INV_SQRT, INV_ROOT.with_exponent(4)], ids=str)
@pytest.mark.parametrize("kind", [matfn.PolarExpress, matfn.NewtonSchulz])
def test_converged_instances_converge(kind, target):
    """From singular values, or for roots eigenvalues, of 1e-7; on s = m^(1/p)."""
    method = converged(kind(), target)
    spectrum = {"polar": 1, "sign": 1, "inv": 2}.get(target.name, 1 / target.p)
    s = np.logspace(-7 * spectrum, 0, 500)
    assert np.abs(1 - method.schedule(target.p)(s)).max() < 1e-13
    shorter = type(method)(**{**vars(method), "steps": method.steps - 3})
    assert np.abs(1 - shorter.schedule(target.p)(s)).max() > 1e-13


def test_a_method_that_looks_gets_the_steps_it_needs():
    method = converged(matfn.Prism(), POLAR)
    A = torch.diag(torch.logspace(-7, 0, 12, dtype=torch.float64))
    assert torch.dist(verb(POLAR, A, method), torch.eye(12, dtype=A.dtype)) < 1e-8
    assert matfn.Prism().steps < method.steps <= 24
    assert converged(matfn.Prism(steps=40), POLAR) is None  # has no step to add


def test_what_has_no_converged_form():
    assert converged(matfn.Exact(), POLAR) is None
    assert converged(matfn.Tuned(), POLAR) is None
    assert [s.name for s in solvers(["tuned:name=you"])] == ["tuned:name=you"]


def test_peers_compute_the_functions():
    for function in FUNCTIONS:
        case = problem(function, "clustered", torch.float64, 6)
        for peer in peers():
            assert torch.dist(peer.solve(case), case.answer) / case.answer.norm() < 1e-11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(functions=("cosm",)), "--function: 'cosm' is none of polar"),
        (dict(spectra=("flat",)), "--spectra: 'flat'"),
        (dict(dtypes=("int8",)), "--dtypes: 'int8'"),
        (dict(size=2), "--size must be at least 4"),
    ],
)
def test_options_refused(options, message):
    with pytest.raises(TrainError, match=message):
        Options(**options)


def test_a_method_refused():
    with pytest.raises(TrainError, match="unknown method"):
        solvers(["polarexpress"])


def test_the_quick_command(tmp_path):
    called = CliRunner().invoke(app, ["--quick", "--out", str(tmp_path), "--json"])
    assert called.exit_code == 0, called.output
    printed = json.loads(called.stdout)
    written = json.loads((tmp_path / "accuracy.json").read_text())
    assert written["cells"] == printed["cells"]
    assert "NaN" not in (tmp_path / "accuracy.json").read_text().replace('"NaN"', "")
    assert {c["dtype"] for c in written["cells"]} == {"float64", "float32"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == len(FUNCTIONS)
    assert "http" not in page.replace("http://www.w3.org", "")
    for function in FUNCTIONS:
        assert (tmp_path / f"accuracy-{function}.png").stat().st_size > 20_000
        assert f"### {function}, float64" in (tmp_path / "tables.md").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_the_command_prints_tables(tmp_path):
    arguments = [
        "--function",
        "inv",
        "--methods",
        "exact",
        "--spectra",
        "gaussian",
        "--size",
        "6",
        "--dtypes",
        "float64",
    ]
    called = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert called.exit_code == 0, called.output
    for text in ("inv, float64", "exact", "scipy", "torch svd/eigh", "decompositions", "report"):
        assert text in called.output
    refused = CliRunner().invoke(app, ["--function", "cosm"])
    assert refused.exit_code == 2
