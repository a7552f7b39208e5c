"""Verdicts from the tournament: a made-up folder of runs, complete and not, and the comparison of Shampoo's roots."""

import json

import pytest

from finished_stage import BASE, write
from studies.polargrad import training as polargrad
from studies.prism import training as prism
from studies.tournament.statistics import difference
from studies.trained import RESULTS, trained
from studies.verdict import CONFIRMED, NOT_SEEN, NOT_TRAINED


def by_claim(verdicts):
    return {verdict.claim: verdict for verdict in verdicts}


def test_without_runs_nothing_is_said(tmp_path):
    for verdict in [*prism.verdicts(tmp_path), *polargrad.verdicts(tmp_path)]:
        assert verdict.verdict in (NOT_TRAINED, "not tested")
    assert by_claim(prism.verdicts(tmp_path))["GPT 1"].measured.startswith("0 of ")


def test_a_complete_stage_gives_verdicts(tmp_path):
    write(tmp_path)
    stage = trained(tmp_path)
    assert stage.progress.complete
    found = by_claim([*prism.verdicts(tmp_path), *polargrad.verdicts(tmp_path)])
    assert found["GPT 1"].verdict == CONFIRMED
    assert float(found["GPT 1"].measured.split()[0]) == pytest.approx(-0.1, abs=0.005)
    assert found["GPT 2"].verdict == NOT_SEEN  # the same loss but for the jitter
    assert found["GPT 3"].verdict == found["GPT 4"].verdict == found["LM 3"].verdict == CONFIRMED
    assert found["LM 4"].verdict == CONFIRMED
    assert float(found["LM 4"].measured.split("AdamW ")[1].split(",")[0]) == pytest.approx(0.2, abs=0.01)
    assert found["LM 1"].verdict == NOT_SEEN


def test_the_wrong_sign_is_not_confirmed(tmp_path):
    write(tmp_path, losses=BASE | {"prism-3": 4.2, "adamw-cold": 4.1, "torch-cold": 4.2})
    found = by_claim([*prism.verdicts(tmp_path), *polargrad.verdicts(tmp_path)])
    assert found["GPT 1"].verdict == found["LM 4"].verdict == NOT_SEEN
    assert float(found["GPT 1"].measured.split()[0]) == pytest.approx(0.1, abs=0.005)


def test_the_interval_of_a_verdict_is_the_corrected_one(tmp_path):
    """A mean between the half-widths of the plain and of the corrected interval is not seen, one beyond both is."""
    pair = "prism-3", "polar-express-3"
    runs = trained(write(tmp_path / "equal", losses=BASE | dict.fromkeys(pair, 4.1))).runs
    plain, corrected = difference(runs, *pair), difference(runs, *pair, comparisons=8)
    near = (plain.high - plain.mean + corrected.high - corrected.mean) / 2
    for shift, word in ((near, NOT_SEEN), (3 * near, CONFIRMED)):
        losses = BASE | {pair[0]: 4.1 - plain.mean - shift, pair[1]: 4.1}
        stage = trained(write(tmp_path / word.replace(" ", "-"), losses=losses))
        assert stage.below("", "", *pair).verdict == word


def test_an_arm_is_below_one_that_diverged(tmp_path):
    write(tmp_path)
    path = next((tmp_path / "tournament" / "small").glob("polar-express-3@*-seed0.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val": [[17, None]]}))
    below = trained(tmp_path).below("", "", "prism-3", "polar-express-3")
    assert (below.verdict, below.measured.split(",")[0]) == (CONFIRMED, "a run diverged")
    assert trained(tmp_path).below("", "", "polar-express-3", "prism-3").verdict == NOT_SEEN


def test_a_missing_run_delays_every_verdict(tmp_path):
    write(tmp_path, leave_out=[("normuon", 2)])
    stage = trained(tmp_path)
    assert stage.progress.done == stage.progress.planned - 1
    assert {v.verdict for v in prism.verdicts(tmp_path) if v.claim.startswith("GPT")} == {NOT_TRAINED}


def test_the_correction_is_for_the_table_of_the_rules():
    """Seven pairs and the comparison without warm-up, as docs/tournament.md names them."""
    assert trained(RESULTS).comparisons == 8


def comparison(gap, half, prism_share):
    rows = [
        {"arm": "Shampoo, PRISM", "step_seconds": 0.5, "optimizer_share": prism_share},
        {"arm": "Shampoo, exact", "step_seconds": 0.5, "optimizer_share": 0.5},
    ]
    nats = {"mean": gap, "half_width": half, "count": 3}
    pairs = [{"first": "Shampoo, exact", "second": "Shampoo, PRISM", "nats": nats}]
    recipe = {"model": {"layers": 4, "width": 128}, "train": {"steps": 200}}
    return {"rows": rows, "differences": pairs, "recipe": recipe}


@pytest.mark.parametrize(
    ("made", "same", "faster"),
    [(comparison(0.001, 0.005, 0.7), CONFIRMED, NOT_SEEN), (comparison(-0.02, 0.005, 0.3), NOT_SEEN, CONFIRMED)],
)
def test_shampoo(tmp_path, made, same, faster):
    (tmp_path / "training.json").write_text(json.dumps(made))
    found = by_claim(prism.shampoo(tmp_path / "training.json"))
    assert found["Shampoo 2"].verdict == same
    assert found["Shampoo 3"].verdict == faster
