"""The rules, the text, the predictions and the findings of benchmarks/gpu_train.py, without training."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

pytest.importorskip("benchmarks.gpu_train_parts.rules", reason="benchmarks/ is not there: an installed package")
from benchmarks.gpu_train_parts import findings, forecast, text
from benchmarks.gpu_train_parts.contenders import ARMS, COMPARED, KEPT, TIMED
from benchmarks.gpu_train_parts.rules import (
    FAR,
    FULL,
    GRID_SEED,
    GROWN,
    MOST,
    RUNGS,
    best_of,
    chosen,
    losses,
    queue,
    survivors,
    to_do,
)
from matfn.train.model import skeleton
from studies.tournament.mixture import write_shard

PARTS = ("speed", "grid", "seeds", "large")


def rehearse(loss, *, settings=FULL, seconds=lambda run: 1.0, parts=PARTS, rows=None):
    """The rows of all runs, with `loss(run)`; None diverges, a text is an error."""
    rows = [] if rows is None else list(rows)
    for part in parts:
        while (run := to_do(part, settings, rows)) is not None:
            found = loss(run)
            row = {**asdict(run), "step_seconds": seconds(run)}
            rows.append(row | ({"error": found} if isinstance(found, str) else {"loss": found}))
            assert len(rows) < 1000
    return rows


def bowl(best, **least):
    """Losses that are least at a rate given as a place in the arm's grid, which may lie beyond it."""

    def loss(run):
        grid = ARMS[run.arm].rates
        return least.get(run.arm, 0.0) + 0.01 * abs(math.log2(run.lr / grid[2]) - best)

    return loss


def test_halving_takes_the_rate_inside():
    rows = rehearse(bowl(1))
    for name in COMPARED:
        grid = ARMS[name].rates
        assert set(losses("rung 1", name, rows)) == set(grid)
        assert set(losses("rung 2", name, rows)) == {grid[2], grid[3], grid[4]}
        assert chosen(name, rows) == grid[3]
    steps = {row["stage"]: row["steps"] for row in rows if row["stage"] != "large"}
    assert {steps["seeds"] * share for share in RUNGS.values()} == {steps["rung 1"], steps["rung 2"]}
    assert all(row["seed"] == GRID_SEED for row in rows if row["stage"] in RUNGS)
    assert all(row["seed"] < FULL.seeds for row in rows if row["stage"] in ("seeds", "large"))


@pytest.mark.parametrize("best", [-4, 4])
def test_a_grid_grows_while_its_best_rate_is_at_an_edge(best):
    rows = rehearse(bowl(best), parts=("speed", "grid"))
    for name in COMPARED:
        rates = losses("rung 1", name, rows)
        assert len(rates) == 5 + abs(best) - 2 + 1
        assert chosen(name, rows) == ARMS[name].rates[2] * 2.0**best


def test_a_grid_that_never_ends_is_given_up():
    """A best rate at an edge is never taken, not even of an arm that is always kept."""
    rows = rehearse(bowl(20))
    assert len(losses("rung 1", "torch", rows)) == 5 + GROWN
    assert {row["stage"] for row in rows} == {"speed", "rung 1"}
    assert chosen("torch", rows) is None
    assert survivors(FULL, rows) == []


def test_rung_2_grows_when_longer_runs_want_another_rate():
    def loss(run):
        return bowl(0)(run) if run.stage == "rung 1" else bowl(-2)(run)

    rows = rehearse(loss, parts=("speed", "grid"))
    assert chosen("default", rows) == ARMS["default"].rates[0]
    assert best_of("rung 1", "default", rows) == ARMS["default"].rates[2]


def test_arms_that_are_far_go_no_further_but_the_kept_do():
    rows = rehearse(bowl(0, adamw=5.0, normuon=1.01 * FAR, tables=0.99 * FAR, exact=0.01))
    assert not losses("rung 2", "normuon", rows)
    assert losses("rung 2", "adamw", rows)
    assert losses("rung 2", "tables", rows)
    seeded = {row["arm"] for row in rows if row["stage"] == "seeds"}
    assert seeded >= set(KEPT)
    assert len(seeded) == len(KEPT) + MOST
    assert seeded == {*KEPT, "polar-express", "eight-steps"}


def test_arms_that_fail_or_are_slow_leave_the_grid():
    def loss(run):
        return "no such module" if run.arm == "normuon" else bowl(0)(run)

    rows = rehearse(loss, seconds=lambda run: {"exact": 3.01, "torch": 9.0}.get(run.arm, 1.0))
    tried = {row["arm"] for row in rows if row["stage"] == "rung 1"}
    assert tried == set(COMPARED) - {"normuon", "exact"}  # torch is slow, but kept
    assert {row["arm"] for row in rows if row["stage"] == "speed"} == {*COMPARED, *TIMED}


def test_the_middle_rates_come_first_and_other_arms_wait_for_the_whole_grid():
    rows = rehearse(bowl(0), parts=("speed", "grid"))
    first = [row for row in rows if row["stage"] == "rung 1"][: len(COMPARED)]
    assert [(row["arm"], row["lr"]) for row in first] == [(name, ARMS[name].rates[2]) for name in COMPARED]
    assert all(set(survivors(FULL, rows[:cut])) <= set(KEPT) for cut in range(len(rows)))
    assert len(survivors(FULL, rows)) == len(KEPT) + MOST


def test_runs_that_diverge_count_as_infinite():
    def loss(run):
        return None if run.lr > ARMS[run.arm].rates[2] else bowl(0)(run)

    rows = rehearse(loss)
    assert chosen("default", rows) == ARMS["default"].rates[2]
    assert to_do("grid", FULL, rehearse(lambda run: None, parts=("speed", "grid"))) is None


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been():
    whole = rehearse(bowl(1, normuon=0.02, adamw=0.2))
    for cut in range(0, len(whole), 7):
        assert rehearse(bowl(1, normuon=0.02, adamw=0.2), rows=whole[:cut]) == whole


def test_large_runs_take_the_rates_of_the_small_model():
    rows = rehearse(bowl(0, normuon=-0.01))
    large = [(row["arm"], row["lr"]) for row in rows if row["stage"] == "large"]
    middle = {name: ARMS[name].rates[2] for name in COMPARED}
    adamw = [("adamw", middle["adamw"]), ("adamw", middle["adamw"] / 2)]
    assert large == [("torch", middle["torch"]), ("default", middle["default"]), *adamw, ("normuon", middle["normuon"])]
    assert all(run.key for part in PARTS for run in queue(part, FULL, rows))


def seeds(**by_arm):
    """Rows of paired seeds."""
    rows = []
    for arm, values in by_arm.items():
        for seed, loss in enumerate(values):
            val = [[50, 6.0], [100, loss if loss is not None else None]]
            rows.append({"stage": "seeds", "arm": arm, "lr": 0.03, "seed": seed, "steps": 100, "loss": loss, "val": val,
                         "step_seconds": {"default": 0.01, "torch": 0.02}.get(arm, 0.05)})  # fmt: skip
    return rows


def test_findings_are_paired_by_seed():
    stats = pytest.importorskip("scipy.stats")
    a, b = [3.0, 3.2, 3.1, 3.5, 3.3], [3.01, 3.22, 3.1, 3.53, 3.3]
    rows = seeds(default=a, torch=b, normuon=[3.0, None, 3.1, 3.5, 3.3])
    found = findings.primary(rows)
    assert found is not None
    difference = np.subtract(a, b)
    half = stats.t.isf(0.025, 4) * difference.std(ddof=1) / math.sqrt(5)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (difference.mean(), difference.mean() - half, difference.mean() + half)
    )
    assert findings.error_bar(rows) == pytest.approx(stats.t.isf(0.025, 4) * difference.std(ddof=1))
    arms = {arm.name: arm for arm in findings.compared(rows)}
    assert arms["default"].difference is not None
    assert arms["default"].difference.comparisons == 2
    assert arms["normuon"].mean == math.inf
    # torch's step takes twice as long, so it has made 50 of 100 steps when the fastest ends.
    assert findings.at_equal_time(arms["torch"], list(arms.values())) == pytest.approx(6.0)
    assert findings.at_equal_time(arms["default"], list(arms.values())) == pytest.approx(np.mean(a))


def test_of_two_large_rates_the_better_counts():
    rows = [{"stage": "large", "arm": "adamw", "lr": lr, "loss": loss} for lr, loss in ((1, None), (2, 3.0), (3, 4.0))]
    assert [row["lr"] for row in findings.large(rows)] == [2]


def test_operations_are_those_that_torch_counts():
    """torch counts full attention, and the prediction half of it, because it is causal."""
    from torch.utils.flop_counter import FlopCounterMode

    for scale in (FULL.small, FULL.large):
        model = skeleton(scale.model, forecast.VOCABULARY, context=scale.context)
        tokens = torch.zeros(1, scale.context, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counted:
            model(tokens)
        attention = 2.0 * scale.model.layers * scale.context * scale.model.width
        assert counted.get_total_flops() / scale.context == pytest.approx(forecast.flops(scale) / 3 + attention)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(forecast.parameters(scale), rel=1e-3)


def test_predictions_keep_to_what_was_measured():
    """6 x 512 on an H200: torch's Muon, eager, took 8.7 ms longer than AdamW, ours 3.7 ms."""
    assert 8.7e-3 <= forecast.optimizer_seconds("torch", FULL.small) <= 8.7e-3 + 1e-3
    assert 3.7e-3 <= forecast.optimizer_seconds("default", FULL.small) <= 3.7e-3 + 1e-3
    assert "200 steps of 32768 tokens" in forecast.printed(FULL)


def test_the_page_has_the_plan():
    """docs/gpu_training.md prints what --plan prints; times there may differ by 15 %, because counts move."""
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "gpu_training.md").read_text()
    assert forecast.printed(FULL).splitlines()[0].removeprefix("Primary number: ").rstrip(".") in page.replace(
        "\n", " "
    )
    table = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].strip("`") in (*PARTS, "all"):
            table[cells[0].strip("`")] = [float(cell) for cell in cells[1:]]
    lines = {line.split()[0]: line.split()[1:] for line in forecast.printed(FULL).splitlines() if line}
    for part in (*PARTS, "all"):
        expected = [float(value) for value in lines[part]]
        assert table[part][:2] == expected[:2]
        assert table[part][2:] == pytest.approx(expected[2:], rel=0.15)


@pytest.fixture
def mixture(tmp_path):
    """A folder as studies.tournament.mixture writes it, of 60 short documents."""
    generator = np.random.default_rng(0)
    pieces = [np.append(generator.integers(1, 300, 200), 0) for _ in range(60)]
    tokens = np.concatenate(pieces).astype(np.uint16)
    (tmp_path / "mix" / "bpe16k").mkdir(parents=True)
    write_shard(tmp_path / "mix" / "bpe16k" / "mixture.bin", tokens)
    facts = {"tokens": {"bpe16k": {"vocabulary": 300, "end_of_text": 0}}}
    (tmp_path / "mix" / "facts.json").write_text(json.dumps(facts))
    return tmp_path / "mix"


def test_a_packed_text_is_the_same_text(mixture, tmp_path):
    whole, packed = text.corpus(str(mixture), 16), tmp_path / "text.xz"
    facts = text.pack(str(mixture), packed)
    back = text.corpus(str(packed), 16)
    assert np.array_equal(back.train, whole.train)
    assert np.array_equal(back.val, whole.val)
    assert back.facts == whole.facts
    assert back.vocabulary == whole.vocabulary == 300
    assert facts["bytes_of_the_file"] == packed.stat().st_size < 2 * whole.train.size
    fewer = text.pack(str(mixture), packed, 1000)
    assert fewer["train_tokens_kept"] == 1000
    assert np.array_equal(text.corpus(str(packed), 16).train, whole.train[:1000])


def test_a_text_that_is_damaged_or_missing_is_said(mixture, tmp_path):
    packed = tmp_path / "text.xz"
    text.pack(str(mixture), packed)
    content = packed.read_bytes()
    for wrong in (content[:-40], content[:100] + b"?" + content[101:], b"", b"text"):
        packed.write_bytes(wrong)
        with pytest.raises(SystemExit, match="is no packed text, or it is damaged"):
            text.corpus(str(packed), 16)
    with pytest.raises(SystemExit, match="there is no such file or folder"):
        text.corpus(str(tmp_path / "none"), 16)
    with pytest.raises(SystemExit, match=r"has no facts.json with bpe16k"):
        text.corpus(str(tmp_path), 16)


def test_tokens_that_were_changed_are_refused_and_validation_has_its_own_limit(mixture, tmp_path, monkeypatch):
    packed = tmp_path / "text.xz"
    with monkeypatch.context() as changed:
        changed.setattr(text, "_digest", lambda *_: "of other tokens")
        text.pack(str(mixture), packed)
    with pytest.raises(SystemExit, match="its tokens are not those that were packed"):
        text.corpus(str(packed), 16)
    monkeypatch.setattr(text, "VAL", 17)
    text.pack(str(mixture), packed, 1000)
    back = text.corpus(str(packed), 16)
    assert (back.train.size, back.val.size) == (1000, 17)


def test_a_longer_run_has_more_steps_of_the_same_models():
    longer = FULL.longer(3)
    assert longer.small == replace(FULL.small, steps=3 * FULL.small.steps)
    assert longer.large == replace(FULL.large, steps=3 * FULL.large.steps)
