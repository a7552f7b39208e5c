"""`python -m studies.tune`: the plans it weighs, what it foretells of them, the choice it marks, and what it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import matfn
from benchmarks.errors import deviation, matrix
from benchmarks.polar import SPECTRA
from benchmarks.timing import Pace, Timing
from matfn.kernels import EAGER, Blocked
from matfn.run.plan import DEFLATED, LIFTED
from matfn.run.preparation import deflated
from studies.tune import laws as tune_laws
from studies.tune import model as tune_model
from studies.tune import plan as tune_plan
from studies.tune import plans as tune_plans
from studies.tune import rates as tune_rates
from studies.tune import report as tune_report
from studies.tune import rounding as tune_rounding
from studies.tune import tune
from studies.tune.__main__ import app

SMALL = 13  # products: 80 schedules, most of them on disk after the first run
ONE = tune_laws.Laws([torch.from_numpy(np.geomspace(1, 1e-3, 40)).diag()])
BF16, FP32 = torch.bfloat16, torch.float32
LOW = (2e-3,), (1.4e-2,)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Fewer schedules than the command weighs."""
    usual = tune_plans.families

    def fewer(shape, lowers, most=SMALL):
        return usual(shape, lowers, most)

    patch = pytest.MonkeyPatch()
    patch.setattr(tune, "families", fewer)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tuning():
    request = tune_rates.Request((24, 40), FP32, 2, lowers=LOW, rows=4, pace=Pace(rounds=1, repeats=0))
    return tune.tune(request)


def test_mixes_fall_to_the_last_and_keep_to_the_cost():
    found = list(tune_plans.mixes(13))
    assert (9, 9, 9) in found
    assert (9, 5, 5) in found
    assert (5, 5, 5, 7) in found
    assert (3,) * 6 in found
    assert (3,) * 7 not in found
    assert (5, 9, 5) not in found
    assert len(found) == len(set(found))
    assert all(3 <= len(degrees) <= 8 for degrees in tune_plans.mixes(100))


def diverges(degrees, cushion):
    """Whether any of the bfloat16 numbers in [lower, 1], on a diagonal, where rounding hits at full, leaves (0, 2)."""
    schedule = matfn.PolarExpress(degrees, lower=2e-3, cushion=cushion).schedule(2)
    values = torch.arange(0x3B03, 0x3F81, dtype=torch.int16).view(BF16)  # all 1150 from 2e-3 to 1, by their bits
    X = torch.diag(values)[None]
    for row in schedule.rows:
        c, B = row.split(X @ X.mT, matfn.kernels.EAGER)
        X = matfn.kernels.EAGER.addmm(X, B, X, alpha=1.0, beta=c)
    values = X[0].diagonal().double()
    return not bool(((values > 0) & (values < 2)).all())


@pytest.mark.parametrize("cushion", [None, 0.1])
@pytest.mark.parametrize(
    "degrees",
    [(5,) * 4, (5,) * 5, (5, 5, 5, 7), (5, 5, 7), (3,) * 6, (7, 5, 5, 5), (9, 5, 5, 5), (5, 7, 5, 5), (9, 9, 9)],
    ids=str,
)
def test_what_bfloat16_bears_is_foretold(degrees, cushion):
    """Quintics, and a step of degree 7 at the end; not one before, though `Schedule.rounding` x roundoff is below 1."""
    schedule = matfn.PolarExpress(degrees, lower=2e-3, cushion=cushion).schedule(2)
    low, high = tune_rounding.rounded(schedule, matfn.Direct(), BF16, 256)
    assert (low > 0 and high < 2) != diverges(degrees, cushion)


def test_the_error_of_a_rounded_number():
    """Log-uniform mantissas, rounded by torch itself."""
    x = 2 ** torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = (x.to(BF16).double() / x - 1).square().mean().sqrt().item() / (torch.finfo(BF16).eps / 2)
    assert error == pytest.approx(tune_rounding.KAPPA, rel=0.01)  # 100,000 samples: 0.3 %


def test_float32_bears_everything_and_gram_only_with_a_restart_in_bfloat16():
    schedule = matfn.PolarExpress((5, 5, 5, 7), lower=2e-3, cushion=0.06).schedule(2)
    for engine in (matfn.Direct(), matfn.Gram(()), matfn.Gram((2,))):
        low, high = tune_rounding.rounded(schedule, engine, FP32, 256)
        assert max(1 - low, high - 1) == pytest.approx(schedule.error(), abs=1e-2)
    assert tune_rounding.rounded(schedule, matfn.Gram(()), BF16, 256) == (-float("inf"), float("inf"))
    low, high = tune_rounding.rounded(schedule, matfn.Gram((2,)), BF16, 256)
    assert 0 < low < high < 2


def test_what_is_expected_is_what_comes_out():
    """In float32 the scalar map on the singular values themselves, by either norm."""
    X = matrix("log-uniform 1e-3", (64, 96), FP32)
    laws = tune_laws.Laws([X])  # all 64 of them
    for norm in ("frobenius", "schatten4"):
        schedule = matfn.PolarExpress((5, 5, 5, 3), lower=2e-3, norm=norm).schedule(2)
        for engine in (matfn.Direct(), matfn.Gram((2,))):
            measured = deviation(matfn.orthogonalize(X, method=schedule, engine=engine))
            assert tune_rounding.expected(schedule, engine, laws, FP32) == pytest.approx(measured, rel=1e-3)


def falling(n, m, power):
    """Singular values j^-power of norm 1, (n, m) with n <= m."""
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(side, n, generator=generator, dtype=torch.float64)).Q for side in (n, m))
    s = torch.arange(1, n + 1, dtype=torch.float64) ** -power
    return (U * (s / s.norm())) @ V.mT


def test_laws_are_what_deflation_leaves():
    """All 64 singular values; of 128 every other one, and the norm of all."""
    X = 3 * falling(64, 90, 1.5)
    laws = tune_laws.Laws([X, X.mT, torch.zeros(64, 90)])
    plain = np.arange(1.0, 65) ** -1.5
    assert np.allclose(laws.after(0.0, "frobenius"), plain / np.linalg.norm(plain), rtol=1e-6)
    for share in (1 / 16, 1 / 8):
        left = torch.linalg.svdvals(deflated(X[None] / X.norm(), share, X.dtype, EAGER)[0]).numpy()
        left = left / np.linalg.norm(left)
        assert laws.after(share, "frobenius").shape == (2, 64)
        assert np.allclose(laws.after(share, "frobenius")[0], left, rtol=1e-6)
        assert np.allclose(laws.after(share, "schatten4")[0], left / np.sum(left**4) ** 0.25, rtol=1e-6)
    s = np.linalg.svd(falling(128, 128, 1.0).numpy(), compute_uv=False)
    (thin,) = tune_laws.Laws([falling(128, 128, 1.0)]).after(0.0, "schatten4")
    assert np.allclose(thin, s[1::2] / np.sum(s**4) ** 0.25, rtol=1e-6)


def test_laws_shrink_large_values_to_c_where_a_gap_lets_the_sketch_find_them():
    """sigma / (1 + sigma^2 / c^2)^(1/2), c^2 the sum of the other squares by k: four values of 1 to .2, 60 of .002."""
    s = np.concatenate([np.geomspace(1, 0.2, 4), np.full(60, 2e-3)])
    (left,) = tune_laws.Laws([falling(64, 64, 0.0) @ torch.from_numpy(s).diag()]).after(1 / 16, "frobenius")
    c2 = np.sum(s[4:] ** 2) / 4
    expected = np.concatenate([s[:4] / np.sqrt(1 + s[:4] ** 2 / c2), s[4:]])
    assert np.allclose(left, np.sort(expected)[::-1] / np.linalg.norm(expected), rtol=0.03)


@pytest.mark.parametrize("power", [0.75, 1.0, 1.5])
@pytest.mark.parametrize("share", [0.0, 1 / 32, 1 / 16, 1 / 8])
def test_what_is_expected_of_deflation_is_what_comes_out(power, share):
    """To the digits of float32 with all values; with a quarter of them, and what bfloat16 adds, to 3 %."""
    schedule = replace(DEFLATED, deflation=share).schedule(2)
    X = falling(64, 90, power).float()
    found = tune_rounding.expected(schedule, matfn.Direct(), tune_laws.Laws([X]), FP32)
    for engine in (matfn.Direct(), matfn.Gram(())):
        assert deviation(matfn.orthogonalize(X, method=schedule, engine=engine)) == pytest.approx(found, rel=2e-3)
    X = falling(256, 300, power).float()
    found = tune_rounding.expected(schedule, matfn.Direct(), tune_laws.Laws([X]), BF16)
    U = matfn.orthogonalize(X, method=schedule, engine=matfn.Direct(), precision=BF16)
    assert deviation(U) == pytest.approx(found, rel=0.03)


def test_what_a_dtype_does_not_bear_is_refused_by_name():
    plans, refused = tune_plans.plans((16, 16), BF16, tune_plans.families((16, 16), LOW, SMALL), ONE)
    assert {"9-9-9", "7-5-5", "7-7-5"} <= set(refused)
    assert not any({7, 9} & set(plan.degrees[:-1]) for plan in plans)
    plans, refused = tune_plans.plans((16, 16), FP32, tune_plans.families((16, 16), LOW, 12), ONE)
    assert any(9 in plan.degrees for plan in plans)
    assert refused == ()


def test_a_plan_foretells_its_error_and_its_cost():
    method = matfn.PolarExpress()
    direct, gram = (
        tune_plan.plan_of(method, engine, (16, 64), FP32, ONE) for engine in (matfn.Direct(), matfn.Gram((2,)))
    )
    assert direct.error == gram.error == method.schedule(2).error()
    assert 0 <= direct.rounding < 1e-2
    assert 0 <= gram.rounding < 1e-2
    assert direct.multiply_adds() == 5 * 16**3 * (1 + 2 * 4)
    assert gram.multiply_adds() < direct.multiply_adds()
    assert direct.multiply_adds(Blocked(1)) < direct.multiply_adds()
    assert direct.total >= direct.expected


def test_no_plan_is_left_out_that_is_clearly_better():
    """Of the plans of one lower end on their front there is none which the race has dropped."""
    kept, _ = tune_plans.plans((16, 64), FP32, tune_plans.families((16, 64), LOW, SMALL)[:1], ONE)
    for degrees in tune_plans.mixes(SMALL):
        plan = tune_plan.plan_of(matfn.PolarExpress(degrees, lower=2e-3), matfn.Direct(), (16, 64), FP32, ONE)
        assert any(
            other.total <= plan.total / 0.93 and other.multiply_adds() <= plan.multiply_adds() / 0.93 for other in kept
        )


def test_the_model_adds_what_it_counts():
    plan = tune_plan.plan_of(matfn.PolarExpress((9, 9, 3)), matfn.Direct(), (16, 64), FP32, ONE)
    seconds = dict.fromkeys(plan.products, 1.0)
    per_entry = 1e-6
    expected = 5 + len(plan.products) + per_entry * tune_plan.sweeps(plan.schedule, (16, 64))
    aside = tune_plan.Aside({0.0: 5.0, 1 / 8: 7.0}, per_entry)
    assert tune_plan.predicted(plan, seconds, aside, (16, 64)) == pytest.approx(expected)
    method = matfn.PolarExpress((9, 9, 3), norm="schatten4", deflation=1 / 8)
    deflating = tune_plan.plan_of(method, matfn.Direct(), (16, 64), FP32, ONE)
    assert tune_plan.predicted(deflating, seconds, aside, (16, 64)) == pytest.approx(expected + 2)


def test_plans_deflate_by_shares_that_have_a_column():
    for rows, shares in ((8, {0.0, 1 / 8}), (16, {0.0, 1 / 16, 1 / 8}), (32, {0.0, 1 / 32, 1 / 16, 1 / 8})):
        _, few = tune_plans.families((rows, 64), tune_plans.LOWERS)
        assert {share for _, share in few.norms} == shares
    found, _ = tune_plans.plans((16, 64), FP32, tune_plans.families((16, 64), LOW, SMALL), ONE)
    names = [plan.name for plan in found]
    assert len(set(names)) == len(names)
    for share, text in ((1 / 16, " S4 deflated 1/16, "), (1 / 8, " S4 deflated 1/8, ")):
        some = [plan for plan in found if plan.deflation == share]
        assert {type(plan.engine) for plan in some} == {matfn.Direct, matfn.Gram}
        assert all(text in plan.name and 2 <= plan.schedule.steps <= 4 for plan in some)
        assert all(plan.schedule.preparation.deflation == share and plan.method.lower == 1.4e-2 for plan in some)


def test_each_share_is_timed_on_what_deflation_takes(monkeypatch):
    seen = []

    def recorded(X, share, dtype, products):
        seen.append((share, dtype, X.dtype, tuple(X.shape)))
        assert torch.allclose(X.norm(dim=(-2, -1)), torch.ones(2))
        return deflated(X, share, dtype, products)

    monkeypatch.setattr(tune_rates, "deflated", recorded)
    request = tune_rates.Request((16, 24), BF16, batch=2, pace=Pace(rounds=1, repeats=0))
    _, aside = tune_rates.measured_rates(request, {"eager": matfn.kernels.EAGER}, [], [0.0, 1 / 16, 1 / 8])
    assert set(seen) == {(share, BF16, FP32, (2, 16, 24)) for share in (1 / 16, 1 / 8)}
    assert set(aside.once) == {0.0, 1 / 16, 1 / 8}
    assert all(seconds > 0 for seconds in aside.once.values())


def test_muon_s_default_is_foretold_with_its_deflation():
    """Of 128 rows and more on a CPU; below there is none."""
    for rows, method in ((128, DEFLATED), (127, LIFTED)):
        plan = tune.usual_plans(tune_rates.Request((rows, 384), BF16), ONE)["Muon"]
        assert plan.method == method
        assert plan.deflation == method.deflation
        assert plan.expected == tune_rounding.expected(method.schedule(2), plan.engine, ONE, BF16)


def test_the_choices_are_the_library_s_and_they_are_measured(tuning):
    chosen = {c.choice: c for c in tuning.measured if c.choice}
    assert set(chosen) == {"orthogonalize", "Muon"}
    assert chosen["orthogonalize"].plan.degrees == (5,) * 5
    assert chosen["Muon"].plan.method == LIFTED
    assert all(c.kernel == tuning.kernel[0] == "eager" for c in chosen.values())
    assert tuning.kernel[1]
    assert "triton" in tuning.absent


def test_errors_are_those_of_the_schedule(tuning):
    """The scalar map of the singular values, divided by the norm; float32 adds what `rounding` foretells at most."""
    X = matrix(SPECTRA[1], (24, 40), torch.float32).double()
    for c in tuning.measured:
        divided = torch.linalg.svdvals(deflated((X / X.norm())[None], c.plan.deflation, X.dtype, EAGER)[0])
        divided = divided / divided.norm(4) if c.plan.method.norm == "schatten4" else divided
        expected = (1 - c.plan.schedule(divided)).square().mean().sqrt().item()
        assert (
            abs(c.errors[tuning.figure] - expected) <= c.plan.rounding + 8**5 * 2**-24
        )  # the margins of Gram, u max|Q|
        assert c.predicted > 0
        assert c.timing.median > 0


def test_the_front_is_not_beaten(tuning):
    points = [(c.errors[tuning.figure], c.timing.median, c.best) for c in tuning.measured]
    for error, seconds, best in points:
        beaten = any(e <= error and s <= seconds and (e, s) != (error, seconds) for e, s, _ in points)
        assert best != beaten


def test_every_kernel_is_there_with_its_rate(monkeypatch):
    monkeypatch.setattr(
        tune_rates, "kernels", lambda shape, dtype: {"eager": matfn.kernels.EAGER, "blocked 8": Blocked(8)}
    )
    request = tune_rates.Request((16, 16), torch.float32, pace=Pace(rounds=1, repeats=0))
    found, choice, _ = tune_rates.candidates(request)
    products = tune_plan.plan_of(matfn.PolarExpress(), matfn.Direct(), (16, 16), FP32, ONE).products
    rates, _ = tune_rates.measured_rates(request, found, list(dict.fromkeys(products)), [0.0])
    symmetric = {product for product in products if product.symmetric}
    assert {rate.product for rate in rates if rate.kernel == "blocked 8"} == symmetric
    assert {rate.product for rate in rates if rate.kernel == "eager"} == set(products)
    blocked = next(rate for rate in rates if rate.kernel == "blocked 8")
    assert blocked.rate * blocked.seconds == pytest.approx(2 * 0.75 * 16**3)
    assert choice == found["eager"]


def test_momenta_are_what_plans_are_weighed_by(tmp_path):
    momenta = [matrix("i^-1", shape, FP32) for shape in ((8, 12), (20, 8))]
    request = tune_rates.Request((12, 16), FP32, lowers=LOW, rows=2, pace=Pace(rounds=1, repeats=0))
    found = tune.tune(request, momenta=momenta)
    assert found.figure == "rms, momenta"
    deflating = [c for c in found.foretold if c.plan.deflation == 1 / 8]
    assert deflating
    for c in (*found.measured, *deflating[:3]):
        mean = np.mean([deviation(matfn.orthogonalize(x, method=c.plan.schedule)) for x in momenta])
        assert c.errors is None or c.errors["rms, momenta"] == pytest.approx(mean, rel=1e-3)
        assert c.plan.expected == pytest.approx(mean, rel=1e-3)
    assert "rms momenta" in tune_report.candidate_table(found)[0]


def test_it_is_written_down(tuning, tmp_path):
    paths = tune_report.write(tuning, tmp_path)
    assert all(path.stat().st_size for path in paths)
    read = json.loads(paths[0].read_text())
    assert read["choice"]["kernel"] == "eager"
    assert len(read["foretold"]) == len({id(c.plan) for c in tuning.foretold})
    assert sorted(row["choice"] for row in read["measured"] if row["choice"]) == ["Muon", "orthogonalize"]
    assert {row["deflation"] for row in read["foretold"]} == {0.0, 1 / 16, 1 / 8}
    assert set(read["aside"]["seconds around the products by share deflated"]) == {"0", "0.0625", "0.125"}
    assert tune_report.aside_table(tuning)[0][1:] == ["not deflated", "deflated 1/16", "deflated 1/8"]
    shown = [text.get_text() for text in tune_report.figure(tuning).legends[0].get_texts()]
    assert {"foretold", "foretold, deflated", "Muon: 5-5-5-5-3"} <= set(shown)
    heads, rows = tune_report.candidate_table(tuning)
    assert all(len(row) == len(heads) for row in rows)
    assert any("*" in row[1] for row in rows)
    assert any("M" in row[1] for row in rows)
    assert any("triton" in line for line in tune_report.lines(tuning))


def test_rows_that_scatter_are_marked(tuning):
    """Quartiles of (1, 1, 1, 1.3, 1.4) are 1 and 1.3: a spread of 30 %, and of the same times by 0 %."""
    quiet, loud = (Timing(times, (1.0,) * 5, 3) for times in ((1.0,) * 5, (1.0, 1.0, 1.0, 1.3, 1.4)))
    for timing, count in ((quiet, 0), (loud, 1)):
        rows = [replace(c, timing=timing if i == 0 else quiet, best=True) for i, c in enumerate(tuning.measured)]
        found = replace(tuning, measured=tuple(rows), beside=(timing, dict(tuning.measured[0].errors)))
        table = tune_report.candidate_table(found)[1]
        assert ["~" in row[1] for row in table] == [bool(count), *[False] * (len(rows) - 1), bool(count)]
        assert table[0][3] == ("30%, 3 times" if count else "0%, 3 times")
        said = [line for line in tune_report.lines(found) if line.startswith("~")]
        assert len(said) == count
        assert all(f"1 of {len(rows)} rows, 1 of them marked +, scatter by more than 10%" in line for line in said)
        assert tune_report.plain(found)["bound"] == 0.1


def test_the_cost_model_is_held_against_measurements(tmp_path):
    cases = [tune_rates.Request((16, 24), dtype) for dtype in (FP32, BF16)]
    seen = []
    found = tune_model.run(cases, Pace(rounds=1, repeats=0), keep=lambda found: seen.append(len(found.cases())))
    assert seen == [1, 2]
    assert {point.kernel for point in found.points} >= {"eager"}
    assert all(point.predicted > 0 and point.measured > 0 for point in found.points)
    names = {point.plan for point in found.points if "bfloat16" in point.case}
    assert not any(name.startswith("9-9-9") for name in names)
    assert any("gram" in name for name in names)
    assert any("direct" in name for name in names)
    assert {"deflated 1/16, gram ()", "deflated 1/16, direct"} <= {name.partition("S4 ")[2] for name in names}
    read = json.loads(tune_model.write(found, tmp_path)[0].read_text())
    assert len(read["points"]) == len(found.points)
    assert "16 x 24, float32" in read["caption"]


def test_the_agreement_is_the_median_ratio():
    points = [tune_model.Point("a", "p", "eager", 2.0, 2.0 * ratio, 9.0, 0.0) for ratio in (0.5, 1.0, 4.0)]
    found = tune_model.Agreement((*points, tune_model.Point("b", "p", "eager", 1.0, 3.0, 9.0, 0.0)), {})
    assert found.ratios("a") == (0.75, 1.0, 2.5)
    assert found.ratios("b") == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--shape", shape] for shape in ("768", "0x4", "1x1", "²x3", "999999999x999999999", "9" * 5000)),
        *(["--dtype", "int8"], ["--device", "tpu"], ["--lower", "2"], ["--lower", "nan"]),
        *(["--batch", "1000000000"], ["--threads", "100000000"], ["--rounds", "0"], ["--out", ""]),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_mistakes_are_told_in_a_line(arguments):
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == 2
    assert "error:" in result.stderr.lower() or "─ Error ─" in result.stderr
    assert "fault of matfn" not in result.stderr


def test_the_command(tmp_path):
    options = [
        "--shape",
        "16x24",
        "--dtype",
        "fp32",
        "--rounds",
        "1",
        "--rows",
        "3",
        "--lower",
        "0.002",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, [*options])
    assert result.exit_code == 0, result.output
    assert "choice: orthogonalize takes 5-5-5-5-5 0.001" in result.stdout
    assert (tmp_path / "tune.png").exists()


def test_sweeps_of_the_weighted_sums():
    assert tune_plan.sweeps(matfn.PolarExpress((3, 5, 7, 9), lower=0.1).schedule(2), (10, 30)) == 8 * 100
