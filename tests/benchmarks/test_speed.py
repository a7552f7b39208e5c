"""`python -m benchmarks.polar | step | roots | scaling`: what they time and how, and what they say of errors."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import matfn
from benchmarks import errors as speed_errors
from benchmarks import kernels as speed_kernels
from benchmarks import peers
from benchmarks import polar as speed_polar
from benchmarks import report as speed_report
from benchmarks import roots as speed_roots
from benchmarks import scaling as speed_scaling
from benchmarks import step as speed_step
from benchmarks.budget import Budget
from benchmarks.command import command
from benchmarks.errors import DENSE, deviation, direction, matrix
from benchmarks.makers import FLOAT32, families, float32_muon
from benchmarks.report import front
from benchmarks.rows import Row
from benchmarks.timing import Pace, interleaved

ONCE = Pace(rounds=1, repeats=0)


class Machine:
    """A clock, and works that take what they are told, one entry a call, then the last one for ever."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def clock(self):
        return self.now

    def work(self, name, *seconds):
        left = list(seconds)

        def call():
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_rounds_are_interleaved_and_ratios_are_of_one_round():
    """The machine is twice and four times as slow in later rounds: medians scatter, ratios are exact."""
    machine = Machine()
    works = {"base": machine.work("base", 1, 1, 2, 4), "half": machine.work("half", 2, 2, 4, 8)}
    timings = interleaved(works, "base", Pace(rounds=3, bound=9.0), clock=machine.clock)
    assert timings["half"].seconds == (2, 4, 8)
    assert timings["half"].ratios == (0.5, 0.5, 0.5)
    assert timings["half"].ratio == 0.5
    assert timings["base"].median == 2
    assert timings["base"].spread == pytest.approx((3 - 1.5) / 2)
    assert machine.calls == ["base", "half", *["base", "half"], *["half", "base"], *["base", "half"]]


def test_a_row_that_scatters_is_measured_again_and_the_calmer_attempt_kept():
    machine = Machine()
    works = {"base": machine.work("base", 1), "wild": machine.work("wild", 1, 1, 9, 1, 2, 2, 2)}
    timings = interleaved(works, "base", Pace(rounds=3, bound=0.1), clock=machine.clock)
    assert timings["wild"].attempts == 2
    assert timings["wild"].seconds == (2, 2, 2)
    assert timings["wild"].ratios == (0.5, 0.5, 0.5)
    assert timings["base"].attempts == 1


def test_at_most_two_repeats():
    machine = Machine()
    wild = machine.work("wild", *([1, 9] * 50))
    timings = interleaved({"base": machine.work("base", 1), "wild": wild}, "base", Pace(rounds=4), clock=machine.clock)
    assert timings["wild"].attempts == 3
    assert machine.calls.count("wild") == 1 + 3 * 4


def test_what_is_too_slow_is_called_once_and_what_is_short_often():
    machine = Machine()
    works = {"base": machine.work("base", 1e-4), "slow": machine.work("slow", 100)}
    timings = interleaved(works, "base", Pace(rounds=2, limit=10), clock=machine.clock)
    assert machine.calls.count("slow") == 1
    assert machine.calls.count("base") == 1 + 2 * 20  # 2 ms a sample
    assert timings["slow"].seconds == (100,)
    assert timings["slow"].ratios == (1e-6,)
    assert timings["base"].median == pytest.approx(1e-4)


def test_preparation_is_not_timed():
    machine = Machine()

    def prepare(name):
        machine.now += 50

    timings = interleaved({"a": machine.work("a", 1e-4)}, "a", Pace(rounds=2), clock=machine.clock, prepare=prepare)
    assert timings["a"].median == pytest.approx(1e-4)
    assert len(machine.calls) == 1 + 2  # one call a sample: the next one needs preparing


@pytest.mark.parametrize("shape", [(20, 31), (31, 20), (DENSE + 60, DENSE + 90)], ids=str)
def test_the_deviation_is_that_of_the_singular_values(shape):
    """Estimated, beyond `DENSE`, to a tenth where all singular values are equally wrong in the mean."""
    U = matfn.orthogonalize(matrix("log-uniform 1e-3", shape, torch.float32))
    exact = (1 - torch.linalg.svdvals(U.double())).square().mean().sqrt().item()
    assert deviation(U) == pytest.approx(exact, rel=0.1 if min(shape) > DENSE else 1e-6)


def test_direction_and_nan():
    X = matrix("gaussian", (8, 12), torch.float64)
    U = matfn.polar(X).U
    assert direction(X, U) == pytest.approx(1, abs=1e-9)
    assert direction(X, -U) == pytest.approx(-1, abs=1e-9)
    assert deviation(X * float("nan")) != deviation(X * float("nan"))


def test_a_spectrum_is_what_it_says():
    s = torch.linalg.svdvals(matrix("log-uniform 1e-3", (30, 50), torch.float64))
    assert s[0].item() == pytest.approx(1, rel=1e-5)
    assert s[-1].item() == pytest.approx(1e-3, rel=1e-3)


def test_missing_peers_are_named():
    gone = peers.Peer("nobody's", "no-such-package", "no_such_module", lambda module: None)
    other = peers.Peer("another version", "torch", "torch", lambda module: module.no_such_function)
    found, absent = peers.installed([gone, other])
    assert found == {}
    assert "not installed" in absent["nobody's"]
    assert "does not fit" in absent["another version"]


POLAR, _ = peers.installed(peers.POLAR)
ROOTS, _ = peers.installed(peers.ROOTS)


@pytest.mark.parametrize("peer", POLAR, ids=lambda peer: peer.name)
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)], ids=str)
def test_peers_give_a_polar_factor(peer, shape):
    """Within the plateau of Jordan's tuning, 0.32, and a step's rounding; and the argument is left alone."""
    rounding = matfn.PolarExpress().schedule(2).rounding * 2**-8  # 0.19, of quintics in bfloat16
    X = torch.stack([matfn.polar(matrix("gaussian", shape, torch.float32, seed)).U for seed in (1, 2)])
    X = X * torch.tensor([1.0, 30.0])[:, None, None]
    given = X.clone()
    U = POLAR[peer](X)
    assert torch.equal(X, given)
    assert U.shape == X.shape
    assert U.dtype == X.dtype
    for x, u in zip(X, U, strict=True):
        assert deviation(u) < 0.35
        assert (u / u.norm() - x / x.norm()).norm() < rounding


@pytest.mark.parametrize("peer", [p for p in peers.STEP if not p.compiles], ids=lambda peer: peer.name)
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)], ids=str)
def test_the_scale_of_a_peer_is_its_scale(peer, shape):
    found, _ = peers.installed([peer])
    if not found:
        pytest.skip("not installed")
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = matfn.polar(matrix("gaussian", shape, torch.float32)).U
    found[peer]([("w.0", weight)]).step()
    assert deviation(weight.detach() / (peers.LR * peer.scale(*shape))) < 0.35


@pytest.mark.parametrize("peer", ROOTS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("p", [2, 4])
def test_peers_give_roots(peer, p):
    A = torch.stack([torch.diag(torch.linspace(0.05, 0.4, 6)) for _ in range(2)])
    R = ROOTS[peer](A, p)
    assert torch.allclose(torch.linalg.matrix_power(R, p) @ A, torch.eye(6).expand(2, 6, 6), atol=0.02)


@pytest.fixture(scope="module")
def polar():
    return speed_polar.run((speed_polar.Case((24, 32), 2, "float32"),), ONCE)


def test_every_method_engine_kernel_and_peer_is_a_row(polar):
    named = {row.name for row in polar.rows}
    assert set(matfn.METHODS) <= named
    assert {"polar-express, gram", "polar-express, direct"} & named  # the one that is not chosen
    assert {speed_polar.MUON, "polar-express, direct, eager", "polar-express, gram, eager"} <= named
    assert {peer.name for peer in peers.POLAR} <= named | set(polar.absent)
    assert [row.name for row in polar.rows if row.choice] == ["polar-express"]


def test_rows_have_errors_beside_times(polar):
    rows = {row.name: row for row in polar.rows}
    errors = {name: row.errors.get("rms, log-uniform 1e-3") for name, row in rows.items()}
    assert errors["exact"] < 1e-6
    assert 1e-2 < errors["polar-express"] < 0.21 < errors["newton-schulz"]
    assert all(row.note or (row.median > 0 and row.ratio > 0 and row.rounds == 1) for row in polar.rows)
    count = 2 * 2 * 24 * 24 * (2 * 32 + 24) * 5
    row = rows["polar-express, direct, eager"]
    assert row.rate * row.median == pytest.approx(count)


def test_a_run_hands_over_what_it_has_after_each_case():
    cases = [speed_polar.Case((8, 12), batch, "float32") for batch in (1, 2)]
    seen = []
    report = speed_polar.run(cases, ONCE, keep=lambda report: seen.append(report))
    assert [len(part.cases()) for part in seen] == [1, 2]
    assert seen[-1].rows == report.rows
    assert seen[0].rows == report.rows[: len(seen[0].rows)]


def test_cases_come_by_size():
    for presets in (speed_polar.PRESETS, speed_roots.PRESETS, speed_scaling.PRESETS):
        for cases, pace in presets.values():
            assert [case.volume for case in cases] == sorted(case.volume for case in cases)
            assert pace.seconds < 480


def test_a_budget_leaves_out_what_it_has_no_time_for_and_says_so():
    """Ten seconds for two cases: five each, and what the first leaves is the second's; times grow with the volume."""
    machine = Machine()
    budget = Budget(10, 2, limit=3, clock=machine.clock)
    budget.open()
    assert budget.refusal("slow", "float32", 1.0, 2, 0) == ""  # nothing is known yet
    machine.now = 0.5
    budget.called("slow", "float32", 1.0, "small", 0.5)
    budget.called("quick", "float32", 1.0, "small", 0.01)
    budget.open()  # 9.5 seconds for the last
    assert "about 4 s a call, foretold from small" in budget.refusal("slow", "float32", 8.0, 0, 0)
    assert budget.refusal("slow", "bfloat16", 8.0, 0, 2) == ""
    assert budget.refusal("slow", "float32", 3.7, 0, 2) == ""  # 1.85 s a call, five calls
    assert "used up" in budget.refusal("slow", "float32", 4.0, 0, 2)
    assert budget.refusal("slow", "float32", 4.0, 0, 1) == ""  # baseline and choice stay
    budget.called("slow", "float32", 4.0, "large", 2.0)  # four calls more are promised: 8 of 9.5 seconds
    assert budget.refusal("quick", "float32", 20.0, 0, 2) == ""
    assert "used up" in budget.refusal("quick", "float32", 40.0, 0, 2)
    machine.now = 8
    assert "of the run is used up" in budget.refusal("slow", "float32", 4.0, 0, 0)  # 2 s a call, two calls, 2 s left


def test_a_budget_counts_rounds():
    machine = Machine()
    budget = Budget(10, 1, clock=machine.clock)
    budget.open()
    wanted = Pace(rounds=9, repeats=2)
    assert budget.pace(wanted, [0.01]) == wanted
    assert budget.pace(wanted, [0.5, 0.5]) == replace(wanted, repeats=0)
    assert budget.pace(wanted, [1.0, 1.0]) == replace(wanted, rounds=4, repeats=0)
    machine.now = 20
    assert budget.pace(wanted, [1.0]) == replace(wanted, rounds=1, repeats=0)
    unbounded = Budget(float("inf"), 1, clock=machine.clock)
    unbounded.open()
    assert unbounded.pace(wanted, [1.0]) == wanted


def test_large_factors_are_orthonormal(monkeypatch):
    monkeypatch.setattr(speed_errors, "_FACTORED", 10)
    s = torch.linalg.svdvals(matrix("log-uniform 1e-3", (30, 50), torch.float64))
    assert s[0].item() == pytest.approx(1, rel=1e-5)
    assert s[-1].item() == pytest.approx(1e-3, rel=1e-3)


def test_refusals_are_rows(monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "amd-avx512-bf16")  # which iterates in bfloat16
    report = speed_polar.run((speed_polar.Case((8, 8), 1, "bfloat16"),), ONCE)
    row = next(row for row in report.rows if row.name == "polar-express:degree=(9,9,9)")
    assert row.note.startswith("refused: ")
    assert row.median is None


def test_blocked_rows_count_what_they_compute():
    n = 2 * speed_kernels.HEIGHTS[0]
    kernel = speed_kernels.kernels((n, n), torch.float32)[f"blocked {speed_kernels.HEIGHTS[0]}"]
    schedule = matfn.PolarExpress().schedule(2)
    count = speed_kernels.count_of(schedule, matfn.Direct(), kernel, (n, n), torch.float32)
    assert count == 5 * n**3 * (0.75 + 0.75 + 1)


def test_a_step_of_everyone(monkeypatch):
    monkeypatch.setitem(speed_step.MODELS, "tiny", {"qkv": (24, 8, 2), "up": (16, 8, 1)})
    momenta, kept = [matrix("i^-1", (8, 12), torch.float32)], []
    report = speed_step.run(["tiny"], ONCE, keep=kept.append, momenta=momenta, compiled=False)
    assert report.cases() == ["tiny, bfloat16 weights", "tiny, float32 iteration", "tiny, bfloat16 iteration"]
    assert [len(part.cases()) for part in kept] == [1, 2, 3]
    rows = {(row.case.removeprefix("tiny, "), row.name): row for row in report.rows}
    assert {peer.name for peer in peers.STEP} <= {name for _, name in rows} | set(report.absent)
    assert all(row.errors["rms"] < 0.45 and row.errors["direction"] > 0.7 for row in rows.values())
    assert all(0 < row.errors[speed_step.MEMORY] < 30 for row in rows.values())
    floats = {name: row for (case, name), row in rows.items() if case == "float32 iteration"}
    assert floats["matfn, float32, accurate"].errors["rms, momenta"] == pytest.approx(
        deviation(matfn.orthogonalize(momenta[0])), rel=1e-3
    )
    assert floats["matfn, float32, jordan"].errors["rms"] == pytest.approx(floats[FLOAT32].errors["rms"], rel=1e-3)
    assert next(iter(floats.values())).ratio == 1


def test_what_would_take_too_long_is_foretold():
    sides = {"up": (64, 32, 50), "proj": (32, 32, 50)}
    given = {name: speed_step.gradient((m, n), 0) for name, (m, n, _) in sides.items()}
    maker = families(compiled=False)[0][-1].makers["torch.optim.Muon"]
    assert speed_step.foretold(maker, sides, given, 60.0) == ""
    note = speed_step.foretold(maker, sides, given, 0.0)
    assert note.startswith("left out: about ")
    assert note.endswith(" s a step, foretold from one 32 x 32 matrix")


def test_who_comes_late_is_left_out():
    assert speed_step.late(1e9, [1.0], 10.0) == ""  # the baseline and the library's choice are always there
    assert speed_step.late(2.0, [1.0, 1.0], 10.0) == ""
    assert speed_step.late(2.1, [1.0, 1.0], 10.0) == "left out: the 10 s of this case are used up"


@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_the_float32_peer_is_the_published_iteration(shape):
    """Against torch's own, which rounds to bfloat16 in each of five steps: eps 2^-8, grown tenfold at most."""
    ours, theirs = (torch.nn.Parameter(torch.zeros(shape)) for _ in range(2))
    one, two = float32_muon([("w", ours)]), torch.optim.Muon([theirs], lr=peers.LR, weight_decay=0.0)
    for seed in range(3):
        ours.grad = matrix("gaussian", shape, torch.float32, seed)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    assert (ours - theirs).norm() / ours.norm() < 10 * 2**-8
    assert one.state[ours]["momentum_buffer"].dtype == torch.float32


def test_roots_in_blocks():
    report = speed_roots.run([speed_roots.Blocks(3, 16, 4)], ONCE)
    rows = {row.name: row for row in report.rows}
    assert {peer.name for peer in peers.ROOTS} <= set(rows) | set(report.absent)
    assert rows["matfn exact, batched"].errors["error"] < 1e-6
    assert rows["matfn minimax, certified"].errors["error"] < 1e-3
    assert rows[speed_roots.BASELINE].ratio == 1


def test_fractions_are_of_the_best_product_of_the_dtype():
    rows = [
        Row("8 x 8, batch 1, float32", speed_scaling.BASELINE, rate=100.0),
        Row("16 x 16, batch 1, float32", speed_scaling.BASELINE, rate=200.0),
        Row("8 x 8, batch 1, float32", "direct, eager", rate=50.0),
        Row("8 x 8, batch 1, bfloat16", speed_scaling.BASELINE, rate=400.0),
        Row("16 x 16, batch 1, bfloat16", "onednn matmul", rate=800.0),
        Row("16 x 16, batch 1, float16", "direct, eager", rate=50.0),
    ]
    found = [row.errors.get("fraction") for row in speed_scaling.fractions(rows)]
    assert found == [0.5, 1.0, 0.25, 0.5, 1.0, None]


def test_scaling_counts_and_draws(tmp_path):
    loads = [speed_scaling.Load(n, ratio, 2, "float32") for n in (8, 16) for ratio in (1, 2)]
    report = speed_scaling.run(loads, ONCE)
    plain = speed_kernels.plain_kernels(torch.float32)
    expected = {f"{what}, {name}" for what in ("direct", "gram", "X X^T") for name in plain}
    expected |= {"torch matmul"} | {f"{name} matmul" for name in plain if name != "eager"}
    assert expected < {row.name for row in report.rows}
    assert [row.name for row in report.rows if row.choice]
    assert all(row.errors["fraction"] > 0 for row in report.rows)
    assert all(path.stat().st_size for path in speed_report.write(report, tmp_path))


def test_the_front():
    assert front([(1, 5), (2, 3), (3, 4), (0.5, 9), (2, 3)]) == [3, 0, 1]


def test_a_report_is_whole_files(polar, tmp_path):
    broken = polar.__class__(**{**polar.__dict__, "rows": (*polar.rows, Row("x", "nan", {"rms": float("nan")}))})
    paths = speed_report.write(broken, tmp_path)
    assert [path.name for path in paths] == ["bench-polar.json", "bench-polar.md", "bench-polar.png"]
    read = json.loads(paths[0].read_text())
    assert len(read["rows"]) == len(broken.rows)
    assert read["rows"][-1]["errors"] == {"rms": None}
    assert read["conditions"]["torch"] == torch.__version__
    assert "gram-newton-schulz" in read["conditions"]
    page = paths[1].read_text()
    assert "| polar-express * |" in page
    assert "Not yet measured on a GPU" in page


@pytest.mark.parametrize(
    ("name", "arguments"), [("polar", ["--preset", "slow"]), ("roots", ["--only", "no such case"])], ids=str
)
def test_mistakes_are_told_in_a_line(name, arguments):
    result = CliRunner().invoke(command(name), arguments)
    assert result.exit_code == 2
    assert "error:" in result.stderr


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(speed_roots.PRESETS, "quick", ((speed_roots.Blocks(2, 8, 2),), ONCE))
    threads = torch.get_num_threads()
    result = CliRunner().invoke(command("roots"), ["--out", str(tmp_path), "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert f"{speed_roots.CHOICE} *" in result.stdout
    assert json.loads((tmp_path / "bench-roots.json").read_text())["conditions"]["threads"] == "1"
    assert torch.get_num_threads() == threads


def test_rounds_are_those_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(speed_roots.PRESETS, "quick", ((speed_roots.Blocks(2, 8, 2),), ONCE))
    result = CliRunner().invoke(command("roots"), ["--out", str(tmp_path), "--rounds", "2"])
    assert result.exit_code == 0, result.output
    assert {row["rounds"] for row in json.loads((tmp_path / "bench-roots.json").read_text())["rows"]} == {2}


@pytest.mark.parametrize("shape", [(48, 48), (48, 100), (100, 48)])
@pytest.mark.parametrize("share", [0.0, 1 / 16, 1 / 4])
@pytest.mark.parametrize("engine", [matfn.Direct(), matfn.Gram(())], ids=str)
def test_products_of_deflation_are_counted(shape, share, engine):
    """As torch counts its own calls; products with k x k matrices, and S^T X of one pass, are left out of the count."""
    schedule = matfn.PolarExpress((5, 5, 3), norm="schatten4", deflation=share).schedule(2)
    with FlopCounterMode(display=False) as counter:
        matfn.orthogonalize(torch.randn(shape), method=schedule, engine=engine, products=matfn.kernels.EAGER)
    count = speed_kernels.count_of(schedule, engine, matfn.kernels.EAGER, shape, torch.float32)
    (m, n), k = shape, int(share * min(shape))
    # T T^T and R R^T over the long side; Y^T Y, two whitenings and P C over the short one; four terms of the root.
    small = k * k * (2 * max(m, n) + 4 * min(m, n) + 4 * k) + m * n * (k > 0)
    assert count <= counter.get_total_flops() / 2 <= count + small
