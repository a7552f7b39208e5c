"""Grids of learning rates: the best goes on, edges are said, resuming is exact; and losses at equal seconds."""

import json
from dataclasses import replace

import pytest

from matfn.train import Stopped, TrainError, compare, report
from matfn.train import recipe as recipes
from matfn.train.outcome import Outcome, loss_at, outcome, rows, time_views
from matfn.train.recipe import TrainTable
from matfn.train.settings import override

RATES = (1e-4, 0.01, 0.02)


@pytest.fixture
def gridded(table):
    """AdamW and torch's Muon search, our Muon does not."""
    arms = [{**arm, "rates": list(RATES)} for arm in table["arms"][:2]] + table["arms"][2:]
    return {**table, "arms": arms, "compare": {"grid": {"steps": 8, "seed": 7}}}


def test_the_best_rate_of_the_grid_goes_to_the_seeds(gridded, tmp_path, watcher):
    recipe = recipes.from_table(gridded)
    assert compare.remaining(recipe, tmp_path) == (9, 6 * 8 + 3 * 12)
    result = compare.run(recipe, tmp_path, watcher)
    assert compare.remaining(recipe, tmp_path) == (0, 0)
    assert [found.arm for found in result.searches] == ["AdamW", "torch Muon"]
    for found, row in zip(result.searches, result.rows, strict=False):
        assert found.rates == RATES
        assert row.lr == found.best == RATES[found.losses.index(min(found.losses))]
    assert result.rows[2].lr == 0.02
    recorded = json.loads((tmp_path / "result.json").read_text())
    assert recorded["searches"][0]["best"] == result.searches[0].best
    page = report.write(result, tmp_path).read_text()
    assert "Learning rates" in page
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_each_trial_is_the_run_that_its_rate_alone_gives(gridded, tmp_path, watcher):
    """A grid's loss is that of a plain comparison with this rate, the grid's steps and its seed."""
    result = compare.run(recipes.from_table(gridded), tmp_path / "grid", watcher)
    plain = {**gridded, "arms": [{k: v for k, v in arm.items() if k != "rates"} for arm in gridded["arms"]]}
    for assignment in (f"arms.0.lr={RATES[1]}", "train.steps=8", "compare.seeds=[7]"):
        plain = override(plain, assignment)
    alone = compare.run(recipes.from_table(plain), tmp_path / "alone", watcher)
    assert result.searches[0].losses[1] == alone.runs[0].final


def test_an_interrupted_grid_goes_on_identically(gridded, tmp_path, watcher):
    recipe = recipes.from_table(gridded)
    whole = compare.run(recipe, tmp_path / "whole", watcher)

    def stop() -> bool:
        return len(watcher.lines) >= limit

    for more in (5, 30, 40, 20):
        watcher.lines.clear()
        limit = more
        with pytest.raises(Stopped):
            compare.run(recipe, tmp_path / "parts", watcher, stop=stop)
    parts = compare.run(recipe, tmp_path / "parts", watcher)
    assert parts.searches == whole.searches
    assert [run.train for run in parts.runs] == [run.train for run in whole.runs]


def test_edges_and_divergence_are_said(gridded):
    arm = replace(recipes.from_table(gridded).arms[0], lr=1.0)

    def found(*losses):
        tried = [
            Outcome("x", 0, 0.0, (), () if v is None else ((8, v, 1.0),), 0.1, 0.1, None if v else 3) for v in losses
        ]
        return compare.best_rate(arm, 8, tried)

    best, inside = found(2.0, 1.0, 3.0)
    assert (best.lr, best.rates, inside.warning) == (RATES[1], (), "")
    assert "is the lowest" in found(1.0, 2.0, 3.0)[1].warning
    assert "is the highest" in found(3.0, 2.0, 1.0)[1].warning
    best, inside = found(2.0, 1.0, None)
    assert (best.lr, inside.losses[2]) == (RATES[1], None)
    best, lost = found(None, None, None)
    assert best.lr == RATES[0]
    assert "all of them diverged" in lost.warning
    assert compare.best_rate(arm, 8, []) == (arm, None)
    assert compare.edge_warnings([inside, lost]).endswith("may lie outside: AdamW (all of them diverged).")
    assert compare.edge_warnings([found(2.0, 1.0, 3.0)[1]]) == ""


def test_rates_that_do_not_rise_are_refused(gridded):
    with pytest.raises(TrainError, match=r"arms\.0\.rates must rise"):
        recipes.from_table(override(gridded, "arms.0.rates=[0.1, 0.01]"))
    with pytest.raises(TrainError, match=r"arms\.0\.rates\.1 must lie in"):
        recipes.from_table(override(gridded, "arms.0.rates=[0.1, -1.0]"))


def _run(arm: str, seed: int, passes: float, optimizer: list[float]) -> Outcome:
    """Ten steps and five evaluations; the loss is 10 - step, less 0.1 for each seed."""
    lines = []
    for step in range(1, 11):
        own = optimizer[step % len(optimizer)]
        lines.append({"step": step, "loss": 1.0, "seconds": passes + own, "optimizer_seconds": own})
        if step % 2 == 0:
            lines.append({"step": step, "val_loss": 10 - step - 0.1 * seed, "elapsed": 1.0})
    return outcome(lines, arm=arm, seed=seed, lr=1.0)


def test_equal_time_is_read_off_the_curves():
    """B's optimizer works hard at every other step: its mean counts, and B is at step 5.5 when A is at step 10."""
    runs = [_run(arm, seed, 0.09, own) for seed in (0, 1) for arm, own in (("A", [0.01]), ("B", [0.02, 0.2]))]
    table = rows(runs)
    # Behind the first five steps B has 0.02, 0.2, 0.02, 0.2, 0.02, of mean 0.092: a step takes 0.182.
    assert [row.step_seconds for row in table] == pytest.approx([0.1, 0.182])
    early, late = time_views(runs, table, TrainTable(steps=10, warmup=2, cooldown=0.4))
    assert (early.seconds, late.seconds) == (pytest.approx(0.6), pytest.approx(1.0))
    assert [row.step for row in late.rows] == pytest.approx([10, 1.0 / 0.182])
    assert late.rows[0].val.mean == pytest.approx(-0.05)
    assert late.rows[1].val.mean == pytest.approx(10 - 1.0 / 0.182 - 0.05)
    (pair,) = late.differences
    assert pair.nats.mean == pytest.approx(10 - 1.0 / 0.182)
    assert pair.nats.count == 2
    assert [row.val.mean for row in early.rows] == pytest.approx([3.95, 10 - 0.6 / 0.182 - 0.05])


def test_losses_between_evaluations():
    run = _run("A", 0, 0.1, [0.1])
    assert loss_at(run, 1.9) is None
    assert loss_at(run, 2) == 8
    assert loss_at(run, 3.5) == pytest.approx(6.5)
    assert loss_at(run, 10 + 1e-9) == 0
    assert loss_at(replace(run, diverged=10), 4) is None
    assert time_views([replace(run, diverged=10)], rows([replace(run, diverged=10)]), TrainTable()) == []


def test_many_arms_are_compared_with_the_best():
    runs = [_run(arm, seed, 0.1, [0.1]) for arm in "ABCDE" for seed in (0, 1)]
    worse = [replace(r, val=tuple((s, v + 0.1 * "ABCDE".index(r.arm), e) for s, v, e in r.val)) for r in runs]
    pairs = compare.differences(worse)
    means = {row.arm: row.val.mean for row in rows(worse)}
    lines = report.difference_lines(pairs, means, "byte")
    assert [line[:15] for line in lines] == [f"{arm} minus A: +0.{n}" for n, arm in enumerate("BCDE", 1)]
    assert len(report.difference_lines(compare.differences(worse[:6]), dict(list(means.items())[:3]), "byte")) == 3
