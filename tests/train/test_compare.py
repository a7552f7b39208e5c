"""Comparing: the whole of it on a tiny recipe, its statistics against known values, a report that stands alone."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats as reference

from matfn.train import Stopped, TrainError, compare, drawing, report
from matfn.train import recipe as recipes
from matfn.train.optimizers import unlike
from matfn.train.outcome import differences, interval, leaders, outcome, resolution, rows, student
from matfn.train.recipe import CompareTable
from matfn.train.schedules import ScheduleTable, StepLine
from matfn.train.settings import override


@pytest.fixture
def two_seeds(recipe):
    return replace(recipe, compare=CompareTable(seeds=(0, 1)))


def test_compare_and_report(two_seeds, tmp_path, watcher):
    result = compare.run(two_seeds, tmp_path, watcher)
    assert [row.arm for row in result.rows] == ["AdamW", "torch Muon", "matfn Muon"]
    assert [(pair.first, pair.second) for pair in result.differences] == [
        ("AdamW", "torch Muon"),
        ("AdamW", "matfn Muon"),
        ("torch Muon", "matfn Muon"),
    ]
    assert all(pair.nats.count == 2 and pair.nats.half_width is not None for pair in result.differences)
    assert len(result.runs) == 6
    recorded = json.loads((tmp_path / "result.json").read_text())
    assert recorded["rows"][0]["val"]["mean"] == result.rows[0].val.mean
    assert recorded["data"]["sha256"]
    assert {"torch", "threads", "processor", "matfn"} <= set(recorded["conditions"])
    path = report.write(result, tmp_path)
    _stands_alone(path.read_text())
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.partial")) + list(tmp_path.rglob("*.pt"))


def _stands_alone(page: str) -> None:
    """No attribute or style of the page fetches anything; every reference is to an id inside it."""

    class Reader(HTMLParser):
        references: list[str]
        ids: set[str]
        tags: set[str]

        def handle_starttag(self, tag, attrs):
            self.tags.add(tag)
            for name, value in attrs:
                if name in ("src", "href", "xlink:href", "data", "action"):
                    self.references.append(value)
                if name == "id":
                    self.ids.add(value)

    reader = Reader()
    reader.references, reader.ids, reader.tags = [], set(), set()
    reader.feed(page)
    assert reader.references
    assert all(value.startswith("#") and value[1:] in reader.ids for value in reader.references)
    assert not reader.tags & {"script", "link", "iframe", "img"}
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert {"svg", "table", "pre"} <= reader.tags


def test_order_does_not_change_the_losses(recipe, tmp_path, watcher):
    turns = compare.run(recipe, tmp_path / "turns", watcher)
    alone = compare.run(replace(recipe, compare=CompareTable(order="sequential")), tmp_path / "alone", watcher)
    assert [run.train for run in turns.runs] == [run.train for run in alone.runs]
    assert [run.final for run in turns.runs] == [run.final for run in alone.runs]


def test_interrupted_comparison_goes_on_identically(two_seeds, tmp_path, watcher):
    whole = compare.run(two_seeds, tmp_path / "whole", watcher)

    def stop() -> bool:
        return len(watcher.lines) >= limit

    for more in (17, 31, 40):
        watcher.lines.clear()
        limit = more
        with pytest.raises(Stopped):
            compare.run(two_seeds, tmp_path / "parts", watcher, stop=stop)
    parts = compare.run(two_seeds, tmp_path / "parts", watcher)
    assert [run.train for run in parts.runs] == [run.train for run in whole.runs]
    assert [[v[:2] for v in run.val] for run in parts.runs] == [[v[:2] for v in run.val] for run in whole.runs]


def test_a_diverging_arm_does_not_take_the_others_along(table, tmp_path, watcher):
    recipe = recipes.from_table(override(override(table, "arms.0.lr=1000"), "arms.0.weight_decay=1000"))
    result = compare.run(recipe, tmp_path, watcher)
    assert result.rows[0].val is None
    assert result.rows[0].diverged == 1
    assert result.rows[1].val is not None
    assert report.cells(result.rows[0], result)[2] == "diverged"
    _stands_alone(report.write(result, tmp_path).read_text())


def test_another_recipe_does_not_mix_in(recipe, table, tmp_path, watcher):
    compare.run(recipe, tmp_path, watcher)
    with pytest.raises(TrainError, match="another recipe"):
        compare.run(recipes.from_table(override(table, "arms.0.lr=0.5")), tmp_path, watcher)
    with pytest.raises(TrainError, match="nothing to compare"):
        compare.run(replace(recipe, arms=recipe.arms[:1]), tmp_path / "one", watcher)


def test_student_quantiles_match_scipy():
    for freedom in (1, 2, 3, 4, 9, 30):
        assert student(freedom) == pytest.approx(reference.t.ppf(0.975, freedom), rel=1e-12)


def test_interval_matches_scipy():
    values = [1.55, 1.57, 1.56, 1.53]
    got, wanted = interval(values), reference.ttest_1samp(values, 0).confidence_interval()
    assert got.mean - got.half_width == pytest.approx(wanted.low, rel=1e-12)
    assert got.mean + got.half_width == pytest.approx(wanted.high, rel=1e-12)
    assert interval([2.0]).half_width is None
    assert str(interval([2.0])) == "2.0000"


def _lines(final: float, steps: int = 8) -> list[dict]:
    lines = [
        {"step": s, "loss": 3.0 / s, "seconds": 1.0 if s == 1 else 0.1, "optimizer_seconds": 0.02}
        for s in range(1, steps + 1)
    ]
    return [*lines, {"step": steps, "val_loss": final, "elapsed": 2.0}]


def test_outcomes_are_paired_by_seed():
    """B is 0.1 better for every seed although the seeds differ by far more: only pairing sees it."""
    runs = [outcome(_lines(2.0 + seed), arm="A", seed=seed, lr=1.0) for seed in range(3)]
    runs += [outcome(_lines(1.9 + seed + 0.001 * (seed - 1)), arm="B", seed=seed, lr=1.0) for seed in range(3)]
    (pair,) = differences(runs)
    assert pair.nats.mean == pytest.approx(-0.1)
    assert pair.nats.resolved
    assert rows(runs)[0].val.half_width > 1
    assert "3 seeds" in resolution(runs, 8)


def test_leaders_are_those_not_told_apart():
    """One seed: 0.02 is no gap and 0.05 is one. Three seeds: the paired interval decides."""
    runs = [outcome(_lines(loss), arm=arm, seed=0, lr=1.0) for arm, loss in (("A", 1.02), ("B", 1.0), ("C", 1.05))]
    assert leaders(rows(runs), differences(runs)) == {"A", "B"}
    runs = [outcome(_lines(2.0 + seed), arm="A", seed=seed, lr=1.0) for seed in range(3)]
    runs += [outcome(_lines(1.98 + 1.001 * seed), arm="B", seed=seed, lr=1.0) for seed in range(3)]
    runs += [outcome(_lines(1.9 + 1.2 * seed), arm="C", seed=seed, lr=1.0) for seed in range(3)]
    assert leaders(rows(runs), differences(runs)) == {"B", "C"}
    assert leaders([], []) == set()


def test_unpaired_seeds_are_left_out():
    runs = [outcome(_lines(2.0), arm="A", seed=0, lr=1.0), outcome(_lines(5.0), arm="A", seed=1, lr=1.0)]
    runs += [outcome([*_lines(1.0)[:3], {"step": 4, "diverged": 1}], arm="B", seed=1, lr=1.0)]
    runs += [outcome(_lines(1.5), arm="B", seed=0, lr=1.0)]
    (pair,) = differences(runs)
    assert (pair.nats.count, pair.nats.mean) == (1, -0.5)
    assert not pair.nats.resolved


def test_timings_leave_the_first_steps_out():
    run = outcome(_lines(1.0), arm="A", seed=0, lr=1.0)
    assert run.step_seconds == pytest.approx(0.1)
    assert run.optimizer_share == pytest.approx(0.2)


def test_schedule_plot_follows_the_coefficients(tmp_path):
    """Newton-Schulz of degree 3 by hand: s (3 - s^2) / 2, twice."""
    steps = tuple(StepLine(k, (0.1, 1.0), (1.5, -0.5), 0.5) for k in (1, 2))
    table = ScheduleTable("by hand", 2, 0.1, "none", steps)
    s = np.array([0.5])
    once = 0.5 * (3 - 0.25) / 2
    assert table.after(s, 1) == pytest.approx(once, rel=1e-15)
    assert table.after(s, 2) == pytest.approx(once * (3 - once**2) / 2, rel=1e-15)
    drawing.png(drawing.schedule_map(table), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_few_tokens_are_counted_and_many_are_rounded(recipe, table, tmp_path, watcher):
    result = compare.run(recipe, tmp_path, watcher)
    assert "for 12 steps, 768 bytes, on" in report.lead(result)
    longer = recipes.from_table(override(table, "train.steps=31250"))
    assert "for 31250 steps, 2.00 million bytes, on" in report.lead(replace(result, recipe=longer))


def test_only_the_models_own_matrices_compare_like_for_like(recipe, table):
    assert unlike(recipe, 256) == ""


def test_fused_and_transposed_matrices_are_said_beside_the_table(table, tmp_path, watcher):
    """GPT-2: c_attn is q, k and v in one, and c_fc's sides are swapped. An even scale leaves only the first."""
    pytest.importorskip("transformers")
    table = override(override(override(table, "model.name=gpt2"), "model.tied=true"), "train.steps=4")
    recipe = recipes.from_table(table)
    note = unlike(recipe, 256)
    assert "torch Muon orthogonalizes gpt2.transformer.h.0.attn.c_attn.weight whole" in note
    assert "matfn Muon cuts it into 3 matrices" in note
    assert "stored (in, out), and the scale of torch Muon takes in for out" in note
    even = unlike(recipes.from_table(override(table, "arms.1.scale=moonlight")), 256)
    assert "whole" in even
    assert "stored" not in even
    assert unlike(replace(recipe, arms=recipe.arms[:2]), 256) == ""
    result = compare.run(recipe, tmp_path, watcher)
    assert note in result.note
    assert "Not like for like" in report.write(result, tmp_path).read_text()
