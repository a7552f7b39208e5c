"""`studies.momenta` and `studies.budget`: the momenta are Muon's own, verdicts can fail, whole files are written."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import matfn
from matfn.iteration.target import POLAR
from matfn.optim.rules.polar import Polar
from matfn.train import TrainError
from matfn.train import recipe as recipes
from studies import momenta
from studies.accuracy.work import steps_of
from studies.budget import verdicts
from studies.budget.__main__ import app
from studies.budget.errors import ALL, dense, drawn_cases, of_case, spectrum_cases
from studies.budget.rivals import BUDGETS, OTHERS, OURS, RIVALS, perfect, rival
from studies.budget.steps import Count
from studies.budget.time import overhead
from studies.spectra import drawn


def test_momenta_are_what_muon_orthogonalizes(recipe, tmp_path, watcher, monkeypatch):
    """The stacks that `Polar` is given, bit for bit, at the steps asked for; nearly equal shapes come padded."""
    given = []

    def same(s, m):
        rows, columns = m.shape
        inside = s.shape[0] >= rows and s.shape[1] >= columns
        return inside and torch.equal(s[:rows, :columns], m) and not s[rows:].any() and not s[:, columns:].any()

    def update(self, stack, runs):
        given.extend(stack.clone().unbind(0))
        return self.factor(stack, out=stack)

    monkeypatch.setattr(Polar, "update", update)
    found = momenta.capture(recipe, "matfn Muon", at=[1, 5], only=["*"], directory=tmp_path, watcher=watcher)
    assert {m.step for m in found} == {1, 5}
    hidden = [m for m in found if m.name.startswith("blocks")]
    per_step = len(given) // 5
    assert len(hidden) == 2 * per_step
    for step in (1, 5):
        stacks = given[(step - 1) * per_step : step * per_step]
        for m in (m for m in hidden if m.step == step):
            assert any(same(s, m.matrix) for s in stacks), m.name
    assert {"embed.weight", "head.weight"} <= {m.name for m in found}


def test_capturing_does_not_change_the_run(recipe, tmp_path, watcher):
    from matfn.train.data import load_corpus
    from matfn.train.loop import Trainer

    momenta.capture(recipe, "torch Muon", at=[4], only=["*.q.*"], directory=tmp_path / "a", watcher=watcher)
    losses = [line["loss"] for line in watcher.lines if "loss" in line]
    plain = Trainer(recipe, recipe.arm("torch Muon"), load_corpus(recipe.data), seed=0, directory=tmp_path / "b")
    plain.advance(4, watcher)
    assert [line["loss"] for line in plain.history if "loss" in line] == losses[:4]


def test_momenta_refused(recipe, tmp_path, watcher):
    for at in ([], [0], [13]):
        with pytest.raises(TrainError, match="--at must name steps from 1 to"):
            momenta.capture(recipe, "AdamW", at=at, only=["*"], directory=tmp_path, watcher=watcher)
    with pytest.raises(TrainError, match=r"matches no matrix; known: embed\.weight"):
        momenta.capture(recipe, "AdamW", at=[1], only=["none"], directory=tmp_path, watcher=watcher)
    torch.save({"other": 1}, tmp_path / momenta.FILE)
    with pytest.raises(TrainError, match="holds no momenta"):
        momenta.load(tmp_path)


def test_steps_to_an_accuracy_end_where_the_method_says():
    """Of the identity there is nothing to do but one step, the interval being a rounding wide."""
    A = torch.eye(8, dtype=torch.float64)
    method = matfn.RitzMinimax(tol=1e-6)
    assert steps_of(method, POLAR, lambda m: matfn.orthogonalize(A, method=m)) <= 2
    A = torch.diag(torch.logspace(-3, 0, 8, dtype=torch.float64))
    assert 2 < steps_of(method, POLAR, lambda m: matfn.orthogonalize(A, method=m)) < 12


def test_errors_are_those_of_the_scalar_map():
    """A schedule acts on singular values alone: its error on a matrix is its error on the spectrum."""
    case = next(spectrum_cases(24, 1))
    found, _ = of_case(case, torch.float64)
    s = case.spectrum / np.linalg.norm(case.spectrum)
    for name in ("Newton-Schulz", "Jordan", "Polar Express"):
        for place, steps in enumerate(BUDGETS):
            after = rival(name, steps).schedule(2)(s)
            assert found[name][place] == pytest.approx(np.sqrt(np.mean((1 - after) ** 2)), rel=2e-3, abs=1e-9)
    assert found["You"][: BUDGETS.index(5)] == [None] * 3


def test_zeros_count_only_over_all_values():
    case = next(c for c in spectrum_cases(32, 1) if c.name == "rank-deficient")
    assert case.rank == 24
    on_range, over_all = of_case(case, torch.float64)
    for a, b in zip(on_range["PRISM-5"], over_all["PRISM-5"], strict=True):
        assert b == pytest.approx(math.sqrt((24 * a**2 + 8) / 32), rel=2e-3)


def test_drawn_spectra():
    """Descending from 1, repeatable, different; some end in zeros, and not all."""
    spectra = [drawn(40, 30, seed) for seed in range(20)]
    assert all(len(s) == 30 and s[0] == 1 and (np.diff(s) <= 0).all() and s.min() >= 0 for s in spectra)
    assert np.array_equal(spectra[3], drawn(40, 30, 3))
    assert len({s[5] for s in spectra}) == 20
    assert 0 < sum(s[-1] == 0 for s in spectra) < 10
    case = next(drawn_cases(1, 16))
    assert torch.allclose(torch.linalg.svdvals(case.A), torch.from_numpy(drawn(16, 16, 0).copy()), atol=1e-14)
    assert dense(np.array([1.0, 0.5]), 5).shape == (5, 2)


def errors(ours, others):
    """Made-up errors, the same at every budget."""
    return {name: [ours if name == OURS else others if name in OTHERS else 9.0] * len(BUDGETS) for name in RIVALS}


def test_a_perfect_choice_bounds_every_composition():
    """None for any one interval is better, 1 % for the grid aside, and nothing said of errors below 1e-3."""
    for case in (*spectrum_cases(48, 1), *drawn_cases(4, 48)):
        s = case.spectrum[: case.rank]
        bound = perfect(s)
        for lower in (1e-3, 0.05, 0.4):
            schedule = matfn.PolarExpress(steps=6, lower=lower, safety=1, cushion=0).schedule()
            after = list(schedule.trace(s))
            for b, steps in zip(bound, BUDGETS, strict=True):
                assert b <= max(1.01 * np.sqrt(np.mean((1 - after[steps - 1]) ** 2)), 1.2e-3)


def test_verdicts_can_fail():
    good, even, bad = errors(0.1, 0.3), errors(0.3, 0.3), errors(0.32, 0.3)
    assert verdicts.no_worse({"a: x": good, "a: y": even}, "").met
    assert verdicts.no_worse({"a: x": errors(0.0009, 0.0)}, "").met  # within 1e-3
    worse = verdicts.no_worse({"a: x": good, "a: y": bad}, "")
    assert not worse.met
    assert worse.measured.startswith("5 of 10: y at")
    could = {name: [0.1] * len(BUDGETS) for name in "abc"}
    assert verdicts.half({"a": good, "b": bad}, could, "").met
    assert not verdicts.half({"a": good, "b": bad, "c": even}, could, "").met
    assert verdicts.trained({"a": good}, could, "", ours=4, other="Jordan").met
    failed = verdicts.trained({"a": good, "b": even}, could, "", ours=5, other="Polar Express")
    assert not failed.met
    assert failed.measured.startswith("1 of 2 (a perfect choice: 2)")
    assert verdicts.ratio(good, 4) == pytest.approx(0.101 / 0.301)
    fine, slow = Count("x", 0.1, {"P": 10}, 6, 6, 5), Count("y", 0.1, {"P": 9}, 6, 7, 7)
    never = Count("z", 0.0, {"P": None}, None, None, None)
    assert verdicts.steps([fine, never]).met
    assert not verdicts.steps([fine, slow]).met
    assert [v.met for v in verdicts.roots([fine], "P")] == [True, True]
    assert [v.met for v in verdicts.roots([fine, slow], "P")] == [False, False]
    of = verdicts.of_group({"a: x": good, "a: x" + ALL: bad, "b: y": even}, "a")
    assert of == {"a: x": good}
    assert verdicts.of_group({"a: x": good, "a: x" + ALL: bad}, "a", over_all=ALL) == {"a: x": bad}


def test_the_arithmetic_of_the_measurement():
    """The products are those of 6 Lanczos steps on 2 vectors, 12 n^2; the limit holds at n = 1024, not at n = 64."""
    first = overhead(64, torch.float32, 0)
    assert first.products == pytest.approx(12 * 64**2 / (3 * 64**3))
    assert 0 < first.operations < 1000
    assert not verdicts.small([first]).met
    assert verdicts.small([overhead(1024, torch.float32, 0)]).met


def test_the_commands(recipe, tmp_path):
    (tmp_path / "tiny.toml").write_text(recipes.text(recipe))
    arguments = ["--arm", "matfn Muon", "--at", "2", "--at", "3", "--only", "*.down.*", "--out", str(tmp_path / "m")]
    called = CliRunner().invoke(momenta.app, [str(tmp_path / "tiny.toml"), *arguments])
    assert called.exit_code == 0, called.output
    source, kept = momenta.load(tmp_path / "m")
    assert [m.step for m in kept] == [2, 3]
    assert "1 layers of width 16" in source
    arguments = ["--quick", "--size", "16", "--dtypes", "float32", "--momenta", str(tmp_path / "m")]
    called = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "b"), "--json"])
    assert called.exit_code == 0, called.output
    printed = json.loads(called.stdout)
    written = json.loads(Path(tmp_path / "b" / "ritz_minimax.json").read_text())
    assert written["targets"] == printed["targets"]
    assert "threads" in written["conditions"]
    page = (tmp_path / "b" / "ritz_minimax.md").read_text()
    for picture in ("steps", "time", "ratio", "momenta"):
        assert f"(ritz_minimax-{picture}-float32.png)" in page
        assert (tmp_path / "b" / f"ritz_minimax-{picture}-float32.png").stat().st_size > 10_000
    assert "down.weight" in json.dumps(written["errors"])


def test_the_command_refuses():
    called = CliRunner().invoke(app, ["--dtypes", "int8"])
    assert called.exit_code == 2
    assert "int8" in called.output
