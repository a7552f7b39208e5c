"""`python -m studies.polargrad`: data, runs and claims of a second each against the published numbers, and the page."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from matfn import orthogonalize
from matfn.train import TrainError
from studies import reproduce
from studies.polargrad import report as reproduce_polargrad
from studies.polargrad import theory
from studies.polargrad.language import KINDS, Length, gradients, measured, verdicts, words
from studies.polargrad.oracles import TruncatedQDWH
from studies.polargrad.problems import Completion, Logistic, Quadratic, spectra
from studies.polargrad.published import COMPLETION, PUBLISHED, QUADRATIC
from studies.polargrad.runs import Arm, Trace, follow
from studies.polargrad.sweep import SWEEPS, Sweep, Sweeping, sweep
from studies.polargrad.verdicts import NOT_RUN, from_runs


def published(section, label):
    return next(row for row in section.rows if row.arm.label == label)


def run(problem, arm, at):
    return follow(problem(arm.dtype), arm.cut(max(at)), lambda k: k in at)


def test_the_quadratic_is_the_published_one():
    """Every constant of its data, in float64."""
    problem = Quadratic(torch.float64)
    largest, smallest = problem.curvatures
    assert largest == pytest.approx(1.912723e6, rel=1e-6)
    assert smallest == pytest.approx(3.28334e3, rel=1e-5)
    assert problem.least == pytest.approx(99685.898, rel=1e-8)
    assert problem.objective() == pytest.approx(2.142041e9, rel=1e-6)
    problem.gradients()
    condition, nuclear = spectra(problem.parameters)
    assert condition == pytest.approx(31.45, rel=1e-3)
    assert nuclear == pytest.approx(3.8583e8, rel=1e-4)


def test_gradients_are_those_of_autograd():
    problem = Quadratic(torch.float64)
    A, B, C = problem.data
    [X] = problem.parameters
    (((A @ X @ B - C) ** 2).sum() / 2).backward()
    true = X.grad.clone()
    problem.gradients()
    assert torch.allclose(X.grad, true, rtol=0, atol=1e-12 * float(true.norm()))
    other = Completion(torch.float64)
    X, Y = other.parameters
    (((X @ Y.T - other.matrix) * other.mask) ** 2).sum().div(other.seen).backward()
    true = X.grad.clone(), Y.grad.clone()
    other.gradients()
    assert all(torch.allclose(p.grad, g, rtol=1e-10) for p, g in zip((X, Y), true, strict=True))


def test_the_other_problems_start_where_they_should():
    assert Completion().objective() == pytest.approx(COMPLETION.start, rel=1e-4)
    problem = Logistic()
    assert problem.objective() == pytest.approx(2.913e7, rel=1e-3)
    assert float((problem.C > 0).double().mean()) == pytest.approx(0.3086, abs=1e-4)
    rows = torch.randint(0, 10000, (1000,), generator=torch.Generator().set_state(problem._batches.get_state()))
    [X] = problem.parameters
    torch.nn.functional.softplus(-problem.C[rows] * (problem.A[rows] @ X @ problem.B)).sum().backward()
    true = X.grad.clone()
    problem.gradients()
    assert torch.allclose(X.grad, true, rtol=0, atol=1e-5 * float(true.abs().max()))


def test_two_steps_of_qdwh_are_no_polar_factor():
    """The figures of the authors' code on a Gaussian 500 x 100 matrix, and convergence with six steps."""
    G = torch.randn(500, 100, generator=torch.Generator().manual_seed(0))
    for dtype, low, high, nu in ((torch.float32, 0.813, 0.996, 0.903), (torch.float64, 0.115, 0.241, 0.179)):
        U = orthogonalize(G.to(dtype), method=TruncatedQDWH(2))
        s = torch.linalg.svdvals(U.double())
        assert (float(s[-1]), float(s[0])) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))
        nuclear = torch.linalg.svdvals(G.double()).sum()
        assert float((U.double() * G).sum() / nuclear) == pytest.approx(nu, abs=2e-3)
    U = orthogonalize(G.double().T, method=TruncatedQDWH(6))
    assert torch.linalg.matrix_norm(U @ U.T - torch.eye(100)) < 1e-13
    assert not orthogonalize(torch.zeros(3, 2), method=TruncatedQDWH(2)).any()
    with pytest.raises(ValueError, match="stands in for the polar factor alone"):
        TruncatedQDWH().evaluate(type("T", (), {"name": "sign"})(), torch.eye(2)[None])


@pytest.mark.parametrize(
    ("label", "tolerance"),
    [
        ("PolarGrad, exact, lr 3e-08", 0.02),
        ("PolarGrad, QDWH@2, lr 4e-08", 0.05),
        ("PolarGradM polar-first 0.95, QDWH@2, lr 4e-07", 0.02),
        ("PolarGradM momentum-first 0.9, QDWH@2, lr 2e-07", 0.02),
        ("Muon, QDWH@2, lr 0.1", 0.02),
        ("Adam, lr 0.05", 0.02),
        ("Newton, lr 0.25", 0.5),
    ],
)
def test_a_hundred_steps_of_the_quadratic(label, tolerance):
    """Part of C12 and C13: the published gap after 10 and 100 steps; rounding is amplified in all but the first."""
    row = published(QUADRATIC, label)
    trace = run(Quadratic, row.arm, (10, 100))
    assert trace.at(10) == pytest.approx(row.values[10], rel=0.02)
    assert trace.at(100) == pytest.approx(row.values[100], rel=tolerance)


def test_the_published_rate_diverges_with_the_exact_factor():
    """C12: 4e-8 is lost before step 100, and the trace says where."""
    trace = run(Quadratic, Arm("polargrad", 4e-8, 4000, "exact", double=True), (10, 100))
    assert trace.lost is not None
    assert trace.lost <= 100
    assert trace.at(100) == math.inf


@pytest.mark.parametrize(("label", "below"), [("PolarGrad, exact, lr 30", 1e-12), ("PolarGrad, exact, lr 15", 1e-6)])
def test_completion_reaches_the_floor(label, below):
    """C16, the first half."""
    row = published(COMPLETION, label)
    trace = run(Completion, row.arm, (10, 100))
    assert trace.at(10) == pytest.approx(row.values[10], rel=0.02)
    assert trace.at(100) < below
    assert trace.error is not None
    assert trace.error < 1e-3


def test_alternating_descent():
    trace = run(Completion, Arm("alternating", 50, 100), (10, 50, 100))
    assert trace.at(10) == pytest.approx(1.29, rel=0.01)
    assert trace.at(100) == pytest.approx(1.6e-10, rel=0.1)


def test_claims_of_seconds():
    """C1-C3 and C11, and one setting each of C9 and C10."""
    assert theory.nuclear_norm() < 1e-12
    for variant in theory.VARIANTS:
        assert theory.homogeneity(torch.float64, variant) < 1e-10
        assert theory.homogeneity(torch.float32, variant) < 1e-5
    assert theory.homogeneity(torch.float64, "muon") > 1
    assert theory.twins() < 1e-10
    first, second, mean = theory.rate_bound(theory.Bowl(40, 10, 10), 200)
    assert max(first, second) <= 1e-9
    assert 0.9 < mean < 1 - 1 / 100
    for lr in (0.2, 0.1):
        assert theory.plateau(lr, "muon") / lr**2 == pytest.approx(0.67, rel=0.1)
    for rank in (1, 5):
        assert theory.step_limit(rank, 1 / rank) < 1e-25
        assert theory.step_limit(rank, 2.04 / rank) > 1e6


def test_a_sweep_finds_the_edge():
    """The exact oracle's is between 3.3e-8 and 3.4e-8; a hundred steps tell it from 4e-8."""
    wanted = Sweeping("quadratic", SWEEPS[0].arm, (2e-8, 3e-8, 4e-8))
    found = sweep(wanted, lambda line: None, steps=(50, 100))
    assert found.edge == (3e-8, 4e-8)
    assert found.best == 3e-8
    assert found.values[1][1] == pytest.approx(4.08e3, rel=0.02)
    assert Sweep("", "", (1.0, 2.0), (1,), ((0.5,), (0.1,))).edge is None
    wide = Sweep("", "", (1.0, 2.0, 3.0, 4.0, 5.0), (1,), ((0.3,), (9.0,), (0.5,), (0.1,), (math.inf,)))
    assert (wide.best, wide.wide, wide.edge) == (4.0, (3.0, 4.0), (4.0, 5.0))


def trace(label, **values):
    steps = [int(k[1:]) for k in values]
    ones = [1.0] * len(steps)
    return Trace(label, steps, list(values.values()), ones, ones)


def test_verdicts_follow_the_numbers():
    """C14 confirmed, refuted and not run."""
    label = "Muon, QDWH@2, lr 0.05, decay"
    for value, verdict in ((800.0, "confirmed"), (3000.0, "not seen"), (math.nan, NOT_RUN)):
        runs = {label: trace(label, k4000=value)}
        [found] = [v for v in from_runs(runs, {}, {}) if v.claim == "C14"]
        assert found.verdict == verdict
    assert all(v.verdict == NOT_RUN for v in from_runs({}, {}, {}))


GRADIENTS = [
    measured(kind, f"{kind}.weight", 0, torch.randn(48, 32, generator=torch.Generator().manual_seed(k)))
    for k, kind in enumerate(KINDS)
]


def test_the_page(tmp_path, monkeypatch):
    """Everything for a step or two: the files, and a deviation that is named."""
    monkeypatch.setattr(reproduce_polargrad, "from_theory", lambda notice: iter(()))
    monkeypatch.setattr(reproduce_polargrad, "SWEEPS", SWEEPS[:1])
    monkeypatch.setattr(reproduce_polargrad.factors, "SHAPES", ((32, 32),))
    monkeypatch.setattr(reproduce_polargrad.language, "gradients", lambda notice, length=None: GRADIENTS)
    lengths = dict.fromkeys(PUBLISHED, 2)
    monkeypatch.setattr(reproduce_polargrad, "PROBLEMS", dict.fromkeys(PUBLISHED, Completion))
    monkeypatch.setitem(PUBLISHED, "logistic", COMPLETION)
    monkeypatch.setitem(PUBLISHED, "quadratic", COMPLETION)
    monkeypatch.setattr(
        reproduce_polargrad, "sweep", lambda one, notice: Sweep("quadratic", "x", (1.0,), (9,), ((2.0,),))
    )
    report = reproduce_polargrad.run(lambda line: None, lengths, spare=3)
    path = reproduce.write(report, tmp_path)
    text = path.read_text()
    assert "| C17 |" in text
    assert "![objective against the learning rate: the edge of stability](polargrad.png)" in text
    plain = json.loads((tmp_path / "polargrad.json").read_text())
    assert {v["claim"] for v in plain["verdicts"]} >= {"C4", "C8", "C12", "C17", "C19", "LM 6"}
    assert set(plain["runs"]) == set(PUBLISHED)
    for end in ("", "-quadratic", "-logistic", "-completion"):
        assert (tmp_path / f"polargrad{end}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "polargrad.html").read_text()
    assert page.count("<svg") == 4
    assert "polargrad.png" not in page


def test_a_deviation_is_one():
    differs = reproduce_polargrad.differs
    assert not differs(1.0, 1.5, QUADRATIC)
    assert differs(1.0, 1.7, QUADRATIC)
    assert not differs(1e-9, 5e-8, QUADRATIC)
    assert differs(math.inf, 1.0, QUADRATIC)
    assert not differs(math.nan, 1.0, QUADRATIC)


def test_the_claims_anew_keep_the_curves(tmp_path, monkeypatch):
    """What the file of a full run holds goes through JSON and back; a run that diverged stays one."""
    kept = {
        "conditions": {"date": "2026-01-02T00:00", "matfn": "x"},
        "runs": {name: [asdict(t) for t in traces] for name, traces in one_step().items()},
        "sweeps": [asdict(Sweep("quadratic", "a", (1.0, 2.0), (1,), ((0.5,), (math.inf,))))],
    }
    (tmp_path / "polargrad.json").write_text(json.dumps(reproduce.finite(kept)))
    monkeypatch.setattr(reproduce_polargrad, "RESULTS", tmp_path)
    monkeypatch.setattr(reproduce_polargrad, "from_theory", lambda notice: iter(()))
    monkeypatch.setattr(reproduce_polargrad.factors, "SHAPES", ((32, 32),))
    monkeypatch.setattr(reproduce_polargrad.language, "gradients", lambda notice, length=None: GRADIENTS)
    report = reproduce_polargrad.claims(lambda line: None)
    assert report.plain["sweeps"][0]["edge"] == (1.0, 2.0)
    assert report.plain["runs"]["completion"][0]["objective"] == kept["runs"]["completion"][0]["objective"]
    assert report.plain["curves of"] == kept["conditions"]
    assert "Curves and sweeps were made on 2026-01-02" in report.notes[-1]
    (tmp_path / "polargrad.json").unlink()
    with pytest.raises(TrainError, match=r"there is no polargrad\.json"):
        reproduce_polargrad.claims(lambda line: None)


def one_step():
    """A trace of two points for each arm that the page shows."""
    return {
        name: [Trace(row.arm.label, [0, 1], [1.0, 0.5], [2.0, 2.0], [3.0, 3.0]) for row in section.rows]
        for name, section in PUBLISHED.items()
    }


def test_gradients_of_a_language_model():
    """One step of training on words: embedding, head and the hidden matrices, and what each oracle leaves."""
    assert words(b"a b a\n(a)", 3).tolist() == [1, 2, 0, 2, 1, 0, 0, 1, 0]
    found = gradients(lambda line: None, Length(1, (1,)))
    assert {g.kind for g in found} == set(KINDS)
    assert sum(g.kind == "hidden" for g in found) == 4 * 6
    for g in found:
        assert g.orthogonality["QDWH"] < 1e-5
        assert g.nuclear["QDWH"] == pytest.approx(1, abs=1e-4)
        assert g.orthogonality["NS@5"] > 0.05
    known = measured("head", "head", 0, torch.diag(torch.tensor([1.0, 0.5, 1e-3])))
    assert known.condition == pytest.approx(1e3, rel=1e-4)
    assert known.numeric == pytest.approx(2 / 3)
    assert [v.claim for v in verdicts(found)] == ["LM 6", "LM 7"]
