"""`python -m studies.polar_express`: searches against known answers, verdicts that can fall either way, the page."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from studies import reproduce
from studies.polar_express import composition, gradients, gram, maps, matrices, optimality, printed, training
from studies.polar_express import report as study
from studies.verdict import CONFIRMED, FALSE, NOT_SEEN, NOT_TRAINED, judged

ARMS = {"adamw": 4.0, "torch": 3.64, "you": 3.63, "polar-express": 3.58, "polar-express-3": 3.7, "exact": 3.581}


def test_the_readings_agree_with_the_library():
    """The recursion of this study, written apart, gives the library's rows for the library's convention."""
    ours = printed.readings()["code"].rows(6)
    for row, other in zip(ours, composition.composed(6), strict=True):
        assert composition.apart(row, other) <= 1e-13  # the cushion of the code has sixteen digits
    plain = printed.readings()["none"].rows(5)
    for row, other in zip(plain, composition.composed(5, kappa=0.0), strict=True):
        assert composition.apart(row, other) <= 1e-15


def test_false_claims_are_told_from_true_ones():
    verdicts = {v.claim: v.verdict for v in printed.verdicts()}
    assert verdicts == {
        "C1": CONFIRMED, "text 1": FALSE, "text 2": FALSE, "text 3": CONFIRMED, "C3": CONFIRMED, "text 4": CONFIRMED,
    }  # fmt: skip
    assert composition.bounds(5, 0.5, 3)[0] > 1
    assert composition.bounds(5, 0.5, 6)[0] < 1


def test_the_search_finds_a_single_step_and_refutes_a_worse_one():
    """One step has a known optimum; a claim of a smaller or a greater error must fall."""
    case = optimality.found((5,), 0.03, 400, 3)
    assert case.best == pytest.approx(case.greedy, abs=1e-6)
    assert case.changes[1] > 0
    assert next(optimality.verdicts([replace(case, greedy=case.greedy + 1e-3)])).verdict == NOT_SEEN
    assert next(optimality.verdicts([replace(case, ends=(case.greedy + 1e-3,))])).verdict == NOT_SEEN


def test_the_search_has_the_right_slope():
    search, c = optimality.Search((5, 3), 0.1, 7), np.array([2.0, -1.5, 0.4, 1.4, -0.4])
    step = 1e-6
    for j in range(len(c)):
        up, down = (search.value(c + sign * step * np.eye(len(c))[j], search.x) for sign in (1, -1))
        assert search.slope(c)[:, j] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8)


def test_errors_from_singular_values_are_those_of_matrices():
    A = torch.randn(12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = maps.told(1e-2, steps=4).schedule()
    left, _, right = torch.linalg.svd(A, full_matrices=False)
    U, exact = matrices.factor(A, schedule, torch.float64), left @ right
    frobenius, cosine, spectral = gradients.errors(schedule, gradients.singular_values(A))
    assert frobenius[-1] == pytest.approx(float((U - exact).norm() / exact.norm()), rel=1e-9)
    assert 1 - cosine[-1] == pytest.approx(matrices.cosine(U, exact), rel=1e-12)
    assert spectral[-1] == pytest.approx(float(torch.linalg.matrix_norm(U - exact, ord=2)), rel=1e-9)


def test_the_published_rule_of_restarts():
    found = gram.conditions(gram.divided(1.05), 1)
    assert set(found) == {(1,), (2,), (3,), (4,)}
    assert found[2,] == pytest.approx(84.6, abs=1)
    assert found[1,] == pytest.approx(456, abs=5)


def test_a_verdict_says_why_only_where_it_is_due():
    assert judged("C0", "", "", "", True, why="x", condition="y").why == "y"
    assert judged("C0", "", "", "", False, why="x", condition="y").why == "x"
    assert judged("C0", "", "", "", False, otherwise=FALSE).verdict == FALSE


def trained(folder, losses, seeds=(0, 1, 2), rates=(0.015, 0.03, 0.06)):
    """Runs as the tournament writes them: a grid with its best inside, and seeds at the best rate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.json").write_text("{}")
    for arm, loss in losses.items():
        rows = [(rate, training.GRID_SEED, loss + 0.1 * (rate != rates[1])) for rate in rates]
        rows += [(rates[1], seed, loss + 0.01 * seed + 0.001 * (seed == 1) * (arm == "you")) for seed in seeds]
        for lr, seed, value in rows:
            run = {"arm": arm, "lr": lr, "seed": seed, "val": [[40, 5.0], [400, value]], "train": []}
            (folder / f"{arm}@{lr:g}-seed{seed}.json").write_text(json.dumps(run))
    return training.read(folder)


def test_training_confirmed_refuted_and_not_yet_trained(tmp_path):
    runs = trained(tmp_path / "a", ARMS)
    assert all(v.verdict == CONFIRMED for v in training.verdicts(runs)), list(training.verdicts(runs))
    difference = runs.difference("You", "PE")
    assert difference is not None
    assert difference.mean == pytest.approx(0.05, abs=1e-3)
    text = "\n".join(
        " ".join([name, *cells])
        for table in (training.rates(runs), training.compared(runs))
        for name, cells in table.rows
    )
    assert "Jordan 3.74 3.64 * 3.74" in text
    assert "Jordan 0.03 3.65 3 +0.0600 ± 0.0000 (n = 3)" in text
    worse = trained(tmp_path / "b", {**ARMS, "polar-express": 3.65, "exact": 3.5})
    found = {(v.claim, v.says): v for v in training.verdicts(worse)}
    order = found["C22", "Polar Express ends below Jordan and You, each at its best rate"]
    assert (order.verdict, order.why) == (NOT_SEEN, "a rival is below Polar Express")
    assert found["C22", "Polar Express is best at every rate"].verdict == NOT_SEEN
    assert found["ablation 2", "the exact factor (SVD) is no better than five steps"].verdict == NOT_SEEN
    near = trained(tmp_path / "c", {**ARMS, "polar-express": 3.62})
    assert next(training.verdicts(near)).why == "a difference, but of less than 0.02"
    partial = trained(tmp_path / "d", {"torch": 3.6, "polar-express": 3.5}, seeds=(0,))
    assert all(v.verdict == NOT_TRAINED for v in training.verdicts(partial))
    assert all(v.verdict == NOT_TRAINED for v in training.verdicts(training.read(tmp_path / "none")))


def test_a_diverged_run_is_infinite(tmp_path):
    trained(tmp_path, ARMS)
    path = tmp_path / "you@0.06-seed1000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val": [[40, None]]}))
    runs = training.read(tmp_path)
    assert runs.grid("You")[0.06] == math.inf
    assert "diverged" in dict(training.rates(runs).rows)["You"]
    assert runs.best("You") == 0.03


def test_the_page_of_the_quick_preset(tmp_path):
    """Every claim C1 to C22 has a verdict, every figure is drawn, no cell breaks the table."""
    trained(tmp_path / "runs", ARMS)
    app = reproduce.reproduction({"quick": lambda notice: study.run(notice, study.QUICK, tmp_path / "runs")})
    called = CliRunner().invoke(app, ["--out", str(tmp_path / "out")])
    assert called.exit_code == 0, called.output
    plain = json.loads((tmp_path / "out" / "polar_express.json").read_text())
    assert {f"C{i}" for i in range(1, 23)} <= {v["claim"] for v in plain["verdicts"]}
    assert not any("|" in v[key] for v in plain["verdicts"] for key in v)
    false = {v["claim"] for v in plain["verdicts"] if v["verdict"] == FALSE}
    assert false == {"text 1", "text 2", "text 5"}
    # What a GPT of width 64 shows of Figure 3 may differ from the paper's.
    open_ = {v["claim"] for v in plain["verdicts"] if v["verdict"] == NOT_SEEN}
    assert open_ <= {"degrees 2", "figure 3"}
    text = (tmp_path / "out" / "polar_express.md").read_text()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 6 for line in text.splitlines() if line.startswith("| C"))
    for end in ("", "-products", "-first", "-half", "-training"):
        assert (tmp_path / "out" / f"polar_express{end}.png").read_bytes().startswith(b"\x89PNG")
