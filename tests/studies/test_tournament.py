"""`studies.tournament`: statistics, rules and page, on made-up runs whose truth is known."""

import json
import math
import os
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from studies.tournament import report, statistics
from studies.tournament.arms import ARMS
from studies.tournament.choice import Size, choose
from studies.tournament.equal_time import cut, equal_time
from studies.tournament.progress import left, progress
from studies.tournament.rules import cold, families, rows
from studies.tournament.run import STAGES
from studies.tournament.runs import GRID_SEED, Run, collect, read, restore
from studies.tournament.statistics import Interval, detectable, difference, paired, student
from studies.tournament.timing import steps
from studies.tournament.verdicts import answers, removes


def run(arm, loss, seed, lr=0.03, *, ms=10.0):
    """A run whose validation loss falls from loss + 1 at step 100, by 1/2 each hundred steps, to `loss` at step 300."""
    val = ((100, loss + 1), (200, loss + 0.5), (300, loss)) if math.isfinite(loss) else ((17, math.inf),)
    return Run(arm, lr, seed, val, (loss,), ms / 1000, (ms - 8) / 1000)


def seeds(arm, losses, **options):
    return [run(arm, loss, seed, **options) for seed, loss in enumerate(losses)]


def grid(arm, losses, rates=None):
    found = rates or ARMS[arm].rates
    return [run(arm, loss, GRID_SEED, lr) for lr, loss in zip(found, losses, strict=True)]


def written(folder: Path, runs):
    """The files that `studies.tournament.run` would leave."""
    folder.mkdir(parents=True)
    for one in runs:
        val = [(step, loss if math.isfinite(loss) else None) for step, loss in one.val]
        row = {"arm": one.arm, "lr": one.lr, "seed": one.seed, "val": val, "train": [1.23456789]}
        row |= {"step_seconds": one.step_seconds, "optimizer_seconds": one.optimizer_seconds}
        (folder / f"{one.arm}@{one.lr:g}-seed{one.seed}.json").write_text(json.dumps(row))


@pytest.mark.parametrize("outside", [0.4, 0.05, 0.05 / 21, 1e-6])
@pytest.mark.parametrize("freedom", [1, 2, 7, 11])
def test_the_quantiles_of_student_are_scipys(outside, freedom):
    scipy = pytest.importorskip("scipy.stats")
    assert student(outside, freedom) == pytest.approx(scipy.t.isf(outside / 2, freedom), rel=1e-9)


def test_an_interval_is_the_textbooks():
    scipy = pytest.importorskip("scipy.stats")
    a, b = [1.0, 2.0, 4.0, 3.0], [0.5, 1.0, 3.5, 3.5]
    plain, corrected = paired(a, b), paired(a, b, comparisons=5)
    for interval, level in ((plain, 0.95), (corrected, 0.99)):
        test = scipy.ttest_rel(a, b).confidence_interval(level)
        assert (interval.low, interval.high) == pytest.approx((test.low, test.high))
    assert plain.mean == corrected.mean == 0.375
    assert plain.pairs == 4


def test_intervals_cover_the_truth_as_often_as_they_say():
    """2000 made-up comparisons of five pairs; the count of a fair coin of .95 is within four deviations."""
    draw, truth, count = random.Random(0), 0.013, 2000
    covered = 0
    for _ in range(count):
        b = [draw.gauss(1.8, 0.02) for _ in range(5)]
        a = [x + truth + draw.gauss(0, 0.01) for x in b]
        interval = paired(a, b)
        covered += interval.low <= truth <= interval.high
    assert abs(covered - 0.95 * count) < 4 * math.sqrt(count * 0.95 * 0.05)


def test_a_detectable_difference_is_detected_four_times_in_five():
    draw, count = random.Random(1), 3000
    sizes = Interval(0.0, -1.0, 1.0, 1.0, 8)
    truth = detectable(sizes)
    found = sum(paired([truth + draw.gauss(0, 1) for _ in range(8)], [0.0] * 8).apart for _ in range(count))
    # The formula is an approximation: .79 by the noncentral t.
    assert 0.76 < found / count < 0.84


def test_a_diverged_run_is_infinite_and_no_interval_hides_it():
    lost = paired([math.inf, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert (lost.mean, lost.word, lost.apart) == (math.inf, "diverged", False)
    assert math.isnan(lost.low)
    assert paired([1.0], [math.inf]).word == "the other diverged"
    both = paired([math.inf, 1.0, 3.0], [math.inf, 0.5, 1.5])
    assert (both.pairs, both.mean) == (2, 1.0)
    assert math.isnan(paired([math.inf, 1.0], [1.0, math.inf]).mean)


def test_bad_sides_are_refused():
    with pytest.raises(ValueError, match="2 and 1 losses"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="comparisons is at least 1, got 0"):
        paired([1.0], [1.0], comparisons=0)
    with pytest.raises(ValueError, match="no grid but runs at the rates"):
        statistics.losses([run("torch", 1.0, 0, 0.03), run("torch", 1.0, 1, 0.06)], "torch")


def test_one_pair_or_none_has_no_interval():
    assert paired([2.0], [1.0]).word == "not told apart"
    assert paired([], []).pairs == 0


def test_missing_seeds_are_compared_on_the_common_ones():
    runs = [*seeds("torch", [1.0, 2.0, 3.0, 4.0]), *seeds("you", [1.5, 2.5]), run("you", 9.0, 7)]
    interval = difference(runs, "you", "torch")
    assert (interval.mean, interval.pairs) == (0.5, 2)


def test_the_compared_runs_are_those_at_the_best_rate():
    runs = [*grid("torch", [5, 4, 3, 4, 5]), *seeds("torch", [1.0, 1.1]), run("torch", 7.0, 0, 0.06)]
    assert statistics.best(runs, "torch") == statistics.Best(0.03, 3, True)
    assert statistics.losses(runs, "torch") == {0: 1.0, 1: 1.1}


def test_a_best_rate_at_the_edge_is_not_inside():
    runs = grid("torch", [3, 4, 5, 6, math.inf])
    assert statistics.best(runs, "torch") == statistics.Best(0.0075, 3, False)
    wider = [*runs, run("torch", 3.5, GRID_SEED, 0.00375)]
    assert statistics.best(wider, "torch").inside
    assert statistics.diverged(runs, searched=True) == [runs[-1]]
    assert not statistics.diverged(runs)


def test_progress_counts_planned_runs():
    demo = STAGES["demo"]
    whole = [r for arm in demo.arms for r in seeds(arm, [1.0] * 12)]
    assert progress(demo, whole).complete
    assert not progress(demo, whole[:-1]).complete
    assert (progress(demo, whole[:-1]).done, progress(demo, []).planned) == (95, 96)


def test_progress_knows_open_grids_and_arms_that_lose_early():
    stage = replace(STAGES["middle"], arms=("torch", "exact", "default"))
    assert progress(stage, []).planned == 3 * (5 + 4)
    grids = [*grid("torch", [3, 2, 1, 2, 3]), *grid("exact", [3, 2, 1.2, 2, 3]), *grid("default", [1, 2, 3, 4, 5])]
    state = progress(stage, grids)
    # torch: 5 + 4 seeds; exact is .2 above the least: 5 + 3 seeds; default is at its edge: 6 rates + 4 seeds.
    assert (state.done, state.planned, state.open_grids) == (15, 27, ("default",))
    more = [run("default", 1.1, GRID_SEED, 0.00375), *seeds("default", [1.0] * 4, lr=0.0075)]
    more += [*seeds("torch", [1.0] * 4), *seeds("exact", [1.0] * 3)]
    assert progress(stage, [*grids, *more]).complete


def test_tables_have_the_comparisons_of_the_rules():
    demo, _ = families("demo", STAGES["demo"].arms)
    assert (demo.comparisons, demo.corrected) == (7, False)
    torch, oracles, claims = families("small", STAGES["small"].arms)
    assert (torch.comparisons, oracles.comparisons, claims.comparisons) == (21, 6, 8)
    assert all(family.corrected for family in (torch, oracles, claims))
    assert [f.comparisons for f in families("middle", STAGES["middle"].arms)] == [4, 3]


def test_rows_are_sorted_and_judged_by_the_interval_of_the_rules():
    family = families("middle", ("torch", "exact", "default"))[0]
    runs = [*seeds("torch", [1.0, 1.1]), *seeds("exact", [1.2, 1.31]), *seeds("default", [0.9, 1.0])]
    found = rows(family, runs)
    assert [row.arm for row in found] == ["default", "exact"]
    assert all(row.judged is row.corrected for row in found)
    assert all(a.plain.mean <= b.plain.mean for a, b in pairwise(found))
    assert found[1].corrected.high > found[1].plain.high


def test_the_demo_is_judged_by_plain_intervals_and_the_claims_by_corrected_ones():
    arms = ("adamw-cold", "adamw", "torch-cold", "torch", "jordan", "default")
    runs = [r for k, arm in enumerate(arms) for r in seeds(arm, [1.0, 1.1 + 0.01 * k, 1.3 - 0.02 * k])]
    for family, plain in ((families("demo", STAGES["demo"].arms)[0], True), (families("small", ARMS)[2], False)):
        found = rows(family, runs)
        assert len(found) >= 2
        assert all(row.judged is (row.plain if plain else row.corrected) for row in found)
        assert all(row.corrected.comparisons == family.comparisons for row in found)
    assert "(adamw-cold - adamw)" in [row.arm for row in found]


def test_cold_is_a_difference_of_differences():
    runs = [*seeds("adamw-cold", [3.0, 3.2]), *seeds("adamw", [2.0, 2.0])]
    runs += [*seeds("torch-cold", [1.5, 1.5]), *seeds("torch", [1.0, 1.1])]
    assert cold(runs).mean == pytest.approx((0.5 + 0.8) / 2)


def test_equal_time_cuts_the_slow_arms():
    """The slow arm takes twice the time, so at the end of the fast one it is at step 150, between two validations."""
    runs = [*seeds("torch", [1.0, 1.2]), *seeds("exact", [0.9, 1.1], ms=20.0), *seeds("you", [math.inf])]
    times = {"torch": 0.01, "exact": 0.02, "you": 0.011}
    torch, you, exact = equal_time(runs, times, "torch", comparisons=1)
    assert (torch.arm, torch.step, torch.end, torch.loss) == ("torch", 300, pytest.approx(1.1), pytest.approx(1.1))
    assert (exact.step, exact.end) == (150, pytest.approx(1.0))
    assert exact.loss == pytest.approx(1.0 + 0.75)
    assert exact.against.mean == pytest.approx(1.75 - 1.1)
    assert you.against.word == "diverged"


def test_a_cut_leaves_grids_whole_and_no_validation_twice():
    whole, searched = run("torch", 1.0, 0), run("torch", 1.0, GRID_SEED)
    assert cut([whole, searched], {"torch": 0.01}, 2.0) == [replace(whole, val=whole.val[:2]), searched]


def test_a_step_takes_the_common_forward_and_the_timed_optimizer():
    runs = [*seeds("torch", [1.0]), *seeds("exact", [1.0], ms=20.0), *seeds("you", [1.0], ms=11.0)]
    assert steps(runs, {"torch": 0.005}) == pytest.approx({"torch": 0.013, "exact": 0.020, "you": 0.011})


def size(name, seconds=None, **losses):
    arms = {arm.replace("_", "-"): of for arm, of in losses.items()}
    times = dict.fromkeys(arms, 1.0) | {k.replace("_", "-"): v for k, v in (seconds or {}).items()}
    return Size(name, [r for arm, of in arms.items() for r in seeds(arm, of)], times)


NOISE = [0.0, 0.02, -0.02, 0.01]


def near(level, wobble=0.0005):
    """Losses of four seeds; the differences of two arms have deviations of about `wobble`."""
    return [level + n + wobble * (-1) ** i for i, n in enumerate(NOISE)]


@pytest.mark.parametrize(
    ("sizes", "arm", "why"),
    [
        ([size("s", default=near(1.0), exact=near(0.9, 0.0))], "exact", "told apart"),
        ([size("s", default=near(1.0), exact=near(1.1, 0.0))], "default", "is the default"),
        # lower on one size, higher on the other: no arm fulfils the rule on both
        (
            [size("s", default=near(1.0), exact=near(0.9, 0.0)), size("m", default=near(1.0), exact=near(1.1, 0.0))],
            "default",
            "No arm fulfils",
        ),
        # the mean is lower, but the differences are +-.05: nothing is told apart
        ([size("s", default=near(1.0, 0.05), exact=near(0.99, -0.05))], "default", "neither told apart"),
        # within .003 of the lowest and faster
        ([size("s", {"torch": 0.9}, default=near(1.0), torch=near(1.002))], "torch", "faster"),
        ([size("s", {"torch": 1.1}, default=near(1.0), torch=near(1.002))], "default", "is the default"),
        ([size("s", {"torch": 0.9}, default=near(1.0), torch=near(1.004))], "default", "is the default"),
        # a run that diverged is infinite
        ([size("s", default=near(1.0), exact=[0.5, 0.5, 0.5, math.inf])], "default", "is the default"),
        # on each side another run diverged: neither is below the other
        ([size("s", default=[math.inf, 1, 1, 1], exact=[1, math.inf, 1, 1])], "default", "is the default"),
        # t is 4: told apart in one comparison (3.2), not in three (4.9)
        ([size("s", default=near(1.0, 0.0), exact=near(0.98, 0.00866))], "exact", "told apart"),
        (
            [size("s", default=near(1.0, 0.0), exact=near(0.98, 0.00866), torch=near(1.5), ritz=near(1.5))],
            "default",
            "neither told apart",
        ),
        # faster on one size, slower on the other
        (
            [
                size("s", {"torch": 0.9}, default=near(1.0), torch=near(1.002)),
                size("m", {"torch": 1.1}, default=near(1.0, 0.05), torch=near(0.99, -0.05)),
            ],
            "default",
            "neither told apart",
        ),
        # tried on one size only
        ([size("s", default=near(1.0), exact=near(0.9)), size("m", default=near(1.0))], "default", "is the default"),
    ],
)
def test_the_rule_for_the_default(sizes, arm, why):
    choice = choose(sizes, "default")
    assert choice.arm == arm
    assert why in choice.why


def test_the_rule_needs_a_size_with_the_present_default():
    with pytest.raises(ValueError, match="wanted sizes that all have the arm 'default'"):
        choose([size("s", exact=near(1.0))], "default")


@pytest.mark.parametrize(
    ("base", "changed", "direct", "word"),
    [
        (0.02, 0.0, -0.02, "removes the difference"),
        (0.05, 0.02, -0.03, "lowers the loss, and a difference stays"),
        (0.0, 0.0, 0.0, "no difference to remove, and none made"),
        (0.02, 0.05, 0.03, "raises the loss"),
        (0.02, 0.01, 0.0, "cannot be told from no change"),
    ],
)
def test_what_an_intervention_does(base, changed, direct, word):
    intervals = [Interval(m, m - 0.005, m + 0.005, 0.01, 12) for m in (base, changed, direct)]
    assert removes(*intervals) == word


def test_the_first_question_is_answered_with_its_interventions():
    levels = dict.fromkeys(STAGES["demo"].arms, 1.02) | {"torch": 1.0, "jordan": 1.0, "default-mean-one": 1.0}
    draw = random.Random(0)
    runs = [r for arm, m in levels.items() for r in seeds(arm, [m + draw.gauss(0, 0.001) for _ in range(12)])]
    tables = [rows(family, runs) for family in families("demo", STAGES["demo"].arms)]
    found = answers("demo", tables)
    assert found[0][2] == "higher"
    words = {question.split("(")[-1].rstrip(")"): answer for question, _, answer in found[1:]}
    assert words["default -> jordan"] == words["default -> default-mean-one"] == "removes the difference"
    assert words["default -> exact"] == "cannot be told from no change"
    assert words["jordan -> jordan-mean-one"] == "raises the loss"


def test_runs_are_kept_in_one_file_and_come_back(tmp_path):
    runs = [*grid("torch", [3, 2, 1, 2, math.inf]), *seeds("torch", [1.5])]
    written(tmp_path / "small", runs)
    (tmp_path / "small" / "corpus.json").write_text(json.dumps({"sha256": "ab", "path": "/somewhere/else"}))
    direct = read(tmp_path, "small")
    kept = collect(tmp_path, "small", tmp_path / "kept")
    assert [(r.arm, r.lr, r.seed, r.val) for r in direct] == [(r.arm, r.lr, r.seed, r.val) for r in sorted_(runs)]
    assert read(tmp_path / "kept", "small") == [replace(r, train=(1.23457,)) for r in direct]
    assert json.loads(kept.read_text())["corpus"] == {"sha256": "ab"}
    assert restore(kept, tmp_path / "again") == 6
    assert restore(kept, tmp_path / "again") == 0
    assert [r.loss for r in read(tmp_path / "again", "small")] == [r.loss for r in direct]
    assert read(tmp_path, "middle") == []
    with pytest.raises(FileNotFoundError, match="middle has no runs"):
        collect(tmp_path, "middle", tmp_path)


def test_kept_losses_have_six_digits_and_seconds_four(tmp_path):
    written(tmp_path / "small", [run("torch", 1.23456789, 0, ms=12.3456)])
    collect(tmp_path, "small", tmp_path / "kept")
    [kept] = read(tmp_path / "kept", "small")
    assert (kept.loss, kept.val[0][1], kept.step_seconds) == (1.23457, 2.23457, 0.01235)


def sorted_(runs):
    return sorted(runs, key=lambda r: (r.arm, r.lr, r.seed))


def test_a_page_of_a_partial_stage_gives_no_verdict(tmp_path):
    """Five arms that have begun; one seed diverged, one arm has two seeds."""
    runs = [*seeds("torch", [1.0, 1.1, 1.2]), *seeds("default", [2.0, 2.1, math.inf]), *seeds("exact", [1.0, 1.1])]
    written(tmp_path / "demo", runs)
    page = report.made(tmp_path)
    text = page.markdown({})
    assert "8 of 96 | stage not complete | default at 0.03, seed 2" in text
    assert "stage not complete: no verdict" in text
    assert "higher" not in " ".join(cell for table in page.tables[2:] for _, cells in table.rows for cell in cells)
    for end, (_, draw) in page.figures.items():
        assert draw().axes, end


def test_a_page_of_complete_stages_decides_the_default(tmp_path, monkeypatch):
    """The stages cut to a few arms, all runs there: answers and the default are printed."""
    small = replace(STAGES["small"], arms=("torch", "exact", "polar-express", "default", "normuon", "adamw"))
    cut = {"small": small, "middle": replace(STAGES["middle"], arms=("torch", "exact", "default"))}
    monkeypatch.setattr(report, "STAGES", cut)
    draw = random.Random(0)
    for name, stage in cut.items():
        runs = []
        for place, arm in enumerate(stage.arms):
            runs += grid(arm, [1.4, 1.2, 1.0, 1.2, math.inf])
            losses = [1.0 + 0.01 * place + draw.gauss(0, 0.001) for _ in stage.seeds]
            runs += seeds(arm, losses, lr=ARMS[arm].rates[2])
        written(tmp_path / name, runs)
    page = report.made(tmp_path)
    text = page.markdown({})
    assert text.count("| complete |") == 2
    assert "3. Does another update beat torch's Muon?" in text
    assert "4. Is torch below adamw?" in text
    assert "`torch` fulfils the rule on all sizes and its loss is told apart from `default`" in text
    for end, (_, drawn) in page.figures.items():
        assert drawn().axes, end


def test_the_command_keeps_runs_and_writes_the_page(tmp_path, monkeypatch, capsys):
    written(tmp_path / "new" / "demo", [*seeds("torch", [1.0, 1.1, 1.3]), *seeds("exact", [1.1, 1.2, 1.5])])
    asked = ["report", "--collect", str(tmp_path / "new"), "--runs", str(tmp_path / "kept"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", asked)
    report.main()
    assert (tmp_path / "kept" / "demo.json").exists()
    assert "exact - torch | 1.2667 | +0.1333 |" in (tmp_path / "tournament.md").read_text()
    assert (tmp_path / "tournament-demo-0.png").exists()
    monkeypatch.setattr("sys.argv", ["report", "--progress", str(tmp_path / "new")])
    report.main()
    assert "demo: 6 of 96 runs" in capsys.readouterr().out


def test_the_time_left_is_the_pace_of_the_files(tmp_path):
    for number in range(5):
        path = tmp_path / f"torch@0.03-seed{number}.json"
        path.write_text("{}")
        os.utime(path, (1000 + 60 * number, 1000 + 60 * number))
    assert left(tmp_path, 30) == pytest.approx(0.5)
    assert math.isnan(left(tmp_path / "none", 30))
