"""`python -m studies.polar_express`: searches against known answers, verdicts that can fall either way, the page."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from finished_stage import write
from studies import reproduce
from studies.polar_express import composition, gradients, gram, maps, matrices, optimality, printed, training
from studies.polar_express import report as study
from studies.tournament.runs import GRID_SEED
from studies.tournament.statistics import best, difference, grid
from studies.trained import told, trained
from studies.verdict import CONFIRMED, FALSE, NOT_SEEN, NOT_TRAINED, judged

ARMS = {"adamw": 4.0, "torch": 3.62, "you": 3.61, "polar-express": 3.58, "polar-express-3": 3.7, "exact": 3.581}


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
    found = gram.conditions(gram.printed_rows(1.05), 1)
    assert set(found) == {(1,), (2,), (3,), (4,)}
    assert found[2,] == pytest.approx(84.6, abs=1)
    assert found[1,] == pytest.approx(456, abs=5)


def test_a_verdict_says_why_only_where_it_is_due():
    assert judged("C0", "", "", "", True, why="x", condition="y").why == "y"
    assert judged("C0", "", "", "", False, why="x", condition="y").why == "x"
    assert judged("C0", "", "", "", False, otherwise=FALSE).verdict == FALSE


def test_training_confirmed_refuted_and_not_yet_trained(tmp_path):
    stage = trained(write(tmp_path / "a", losses=ARMS))
    assert all(v.verdict == CONFIRMED for v in training.verdicts(stage)), list(training.verdicts(stage))
    first = next(training.verdicts(stage)).measured
    assert float(first.split("You ")[1].split()[0]) == pytest.approx(0.03, abs=0.005)
    assert first.endswith("8 seeds (95 %, corrected for 8 comparisons)")
    worse = trained(write(tmp_path / "b", losses=ARMS | {"polar-express": 3.65, "exact": 3.5}))
    found = {(v.claim, v.says): v for v in training.verdicts(worse)}
    order = found["C22", "Polar Express ends below Jordan and You, each at its best rate"]
    assert (order.verdict, order.why) == (NOT_SEEN, "a rival is below Polar Express")
    assert found["C22", "Polar Express is best at every rate"].verdict == NOT_SEEN
    assert found["ablation 2", "the exact factor (SVD) is no better than five steps"].verdict == NOT_SEEN
    near = trained(write(tmp_path / "c", losses=ARMS | {"polar-express": 3.6}))
    assert next(training.verdicts(near)).why == "a difference, but of less than 0.02"
    partial = trained(write(tmp_path / "d", losses=ARMS, leave_out=[("you", 2)]))
    assert all(v.verdict == NOT_TRAINED and " of " in v.measured for v in training.verdicts(partial))
    assert all(v.verdict == NOT_TRAINED and not v.measured for v in training.verdicts(trained(tmp_path / "none")))


def test_the_tables_of_training(tmp_path):
    """The same numbers as `studies.tournament.statistics`, in the paper's names."""
    runs = training.taken(trained(write(tmp_path, losses=ARMS)).runs)
    assert {run.arm for run in runs} == set(ARMS)
    by_rate, by_seed = dict(training.rates(runs).rows), dict(training.compared(runs).rows)
    assert "3.62 *" in by_rate["Jordan"]
    assert sum(cell.endswith("*") for cell in by_rate["Jordan"]) == 1
    rate, loss, seeds, less = by_seed["Jordan"]
    at = best(runs, "torch")
    assert at is not None
    assert (float(rate), seeds) == (at.lr, "8")
    assert float(loss) == pytest.approx(3.62, abs=0.005)
    assert less == told(difference(runs, "torch", "polar-express"))
    assert by_seed["PE"][-1] == ""


def diverge(folder, name, *, searched):
    """Make the last loss of an arm's runs null: of the greatest rate in the search, or of every compared seed."""
    of = (folder / "tournament" / "small").glob(f"{name}@*.json")
    rows = {path: json.loads(path.read_text()) for path in of}
    rows = {path: row for path, row in rows.items() if (row["seed"] == GRID_SEED) == searched}
    greatest = max(row["lr"] for row in rows.values())
    for path, row in rows.items():
        if row["lr"] == greatest:
            path.write_text(json.dumps(row | {"val": [[400, None]]}))


def test_a_diverged_run_is_infinite(tmp_path):
    diverge(write(tmp_path / "a", losses=ARMS), "you", searched=True)
    runs = trained(tmp_path / "a").runs
    assert "diverged" in dict(training.rates(runs).rows)["You"]
    assert min(grid(runs, "you").values()) == pytest.approx(3.61)
    diverge(write(tmp_path / "b", losses=ARMS), "you", searched=False)
    order = next(training.verdicts(trained(tmp_path / "b")))
    assert order.verdict == CONFIRMED
    assert "You a run diverged" in order.measured
    diverge(write(tmp_path / "c", losses=ARMS), "polar-express", searched=False)
    order = next(training.verdicts(trained(tmp_path / "c")))
    assert (order.verdict, order.why) == (NOT_SEEN, "a run of Polar Express diverged")


def test_the_page_of_the_quick_preset(tmp_path):
    """Every claim C1 to C22 has a verdict, every figure is drawn, no cell breaks the table."""
    write(tmp_path / "runs", losses=ARMS)
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
