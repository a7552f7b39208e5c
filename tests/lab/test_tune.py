"""`matfn tune`: the plans it weighs, what it foretells of them, the choice it marks, and what it writes."""

import json

import pytest
import torch
from typer.testing import CliRunner

import matfn
from matfn.cli import app
from matfn.engines.cost import sweeps
from matfn.kernels import Blocked
from matfn.lab import tune, tune_plans, tune_rates, tune_report
from matfn.lab.speed_errors import matrix
from matfn.lab.speed_polar import SPECTRA
from matfn.lab.speed_timing import Pace

SMALL = 16  # products: 90 schedules, most of them on disk after the first run


@pytest.fixture(scope="module", autouse=True)
def few():
    """Fewer schedules than the command weighs."""
    usual = tune_plans.plans

    def fewer(shape, dtype, lower, most=SMALL):
        return usual(shape, dtype, lower, most)

    patch = pytest.MonkeyPatch()
    patch.setattr(tune, "plans", fewer)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tuning():
    request = tune_rates.Request((24, 40), torch.float32, 2, rows=4, pace=Pace(rounds=1, repeats=0))
    return tune.tune(request)


def test_mixes_fall_and_keep_to_the_cost():
    found = list(tune_plans.mixes(12))
    assert (9, 9, 9) in found
    assert (9, 5, 5) in found
    assert (5, 5, 5, 5) in found
    assert (3,) * 6 in found
    assert (3,) * 7 not in found
    assert (5, 9, 5) not in found
    assert len(found) == len(set(found))
    assert all(3 <= len(degrees) <= 8 for degrees in tune_plans.mixes(100))


def test_what_a_dtype_does_not_bear_is_refused_by_name():
    plans, refused = tune_plans.plans((16, 16), torch.bfloat16, 1e-3, SMALL)
    assert "9-9-9" in refused
    assert not any(9 in plan.degrees for plan in plans)
    plans, _ = tune_plans.plans((16, 16), torch.float32, 1e-3, SMALL)
    assert any(9 in plan.degrees for plan in plans)


def test_a_plan_foretells_its_error_and_its_rounding():
    plans, _ = tune_plans.plans((16, 64), torch.float32, 1e-3, SMALL)
    schedule = matfn.PolarExpress().schedule(2)
    direct, gram = (plan for plan in plans if plan.degrees == (5,) * 5)
    assert direct.error == gram.error == schedule.error()
    assert direct.rounding == pytest.approx(schedule.rounding * 2**-24)
    assert gram.rounding >= direct.rounding
    assert direct.multiply_adds() == 5 * 16**3 * (1 + 2 * 4)
    assert gram.multiply_adds() < direct.multiply_adds()
    assert direct.multiply_adds(Blocked(1)) < direct.multiply_adds()


def test_the_model_adds_what_it_counts():
    plans, _ = tune_plans.plans((16, 64), torch.float32, 1e-3, SMALL)
    plan = next(p for p in plans if p.degrees == (9, 9, 3))
    seconds = dict.fromkeys(plan.products, 1.0)
    per_entry = 1e-6
    expected = 5 + len(plan.products) + per_entry * sweeps(plan.schedule, (16, 64))
    assert tune_plans.predicted(plan, seconds, 5.0, per_entry, (16, 64)) == pytest.approx(expected)


def test_the_choice_is_the_library_s_and_it_is_measured(tuning):
    (chosen,) = [c for c in tuning.measured if c.choice]
    assert chosen.plan.degrees == (5,) * 5
    assert repr(chosen.plan.engine) == tuning.engine
    assert chosen.kernel == tuning.kernel[0] == "eager"
    assert tuning.kernel[1]
    assert "triton" in tuning.absent


def test_errors_are_those_of_the_schedule(tuning):
    """The scalar map of the singular values, divided by the norm; float32 adds what `rounding` foretells at most."""
    s = torch.linalg.svdvals(matrix(SPECTRA[1], (24, 40), torch.float32).double())
    for c in tuning.measured:
        expected = (1 - c.plan.schedule(s / s.norm())).square().mean().sqrt().item()
        assert abs(c.errors[tune.FIGURE] - expected) <= 10 * c.plan.rounding
        assert c.predicted > 0
        assert c.timing.median > 0


def test_the_front_is_not_beaten(tuning):
    points = [(c.errors[tune.FIGURE], c.timing.median, c.best) for c in tuning.measured]
    for error, seconds, best in points:
        beaten = any(e <= error and s <= seconds and (e, s) != (error, seconds) for e, s, _ in points)
        assert best != beaten


def test_every_kernel_is_there_with_its_rate(monkeypatch):
    monkeypatch.setattr(
        tune_rates, "kernels", lambda shape, dtype: {"eager": matfn.kernels.EAGER, "blocked 8": Blocked(8)}
    )
    request = tune_rates.Request((16, 16), torch.float32, pace=Pace(rounds=1, repeats=0))
    found, choice, _ = tune_rates.candidates(request)
    products = tune_plans.plans((16, 16), torch.float32, 1e-3, SMALL)[0][0].products
    rates, _ = tune_rates.measured_rates(request, found, list(dict.fromkeys(products)))
    symmetric = {product for product in products if product.symmetric}
    assert {rate.product for rate in rates if rate.kernel == "blocked 8"} == symmetric
    assert {rate.product for rate in rates if rate.kernel == "eager"} == set(products)
    blocked = next(rate for rate in rates if rate.kernel == "blocked 8")
    assert blocked.rate * blocked.seconds == pytest.approx(2 * 0.75 * 16**3)
    assert choice.products == found["eager"]


def test_it_is_written_down(tuning, tmp_path):
    paths = tune_report.write(tuning, tmp_path)
    assert all(path.stat().st_size for path in paths)
    read = json.loads(paths[0].read_text())
    assert read["choice"]["kernel"] == "eager"
    assert len(read["foretold"]) == len(tuning.foretold)
    assert sum(row["choice"] for row in read["measured"]) == 1
    heads, rows = tune_report.candidate_table(tuning)
    assert all(len(row) == len(heads) for row in rows)
    assert any("*" in row[1] for row in rows)
    assert any("triton" in line for line in tune_report.lines(tuning))


@pytest.mark.parametrize(
    "arguments",
    [["--shape", "768"], ["--shape", "0x4"], ["--dtype", "int8"], ["--device", "tpu"], ["--lower", "2"]],
    ids=str,
)
def test_mistakes_are_told_in_a_line(arguments):
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert result.exit_code == 2
    assert "error:" in result.stderr


def test_the_command(tmp_path):
    options = ["--shape", "16x24", "--dtype", "fp32", "--rounds", "1", "--rows", "3", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["tune", *options])
    assert result.exit_code == 0, result.output
    assert "choice: Direct()" in result.stdout
    assert (tmp_path / "tune.png").exists()
