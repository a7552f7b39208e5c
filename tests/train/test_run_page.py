"""`matfn report`: the page of a run and of a comparison, and what it says if something is missing or damaged."""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import matfn
from matfn.cli import app
from matfn.optim import History, Record
from matfn.optim.telemetry.report import SHOWN
from matfn.train import TrainError, about, choice_map, compare, run_page, single
from matfn.train import recipe as recipes
from matfn.train.outcome import outcome
from matfn.train.settings import override
from matfn.train.terminal import screen


def with_telemetry(table, *more):
    for assignment in ("telemetry.every=4", "telemetry.budget=1.0", *more):
        table = override(table, assignment)
    return recipes.from_table(table)


def check_alone(page):
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert not re.search(r"\b(?:src|href)\s*=\s*[\"'](?!data:)", page)
    assert "<script" not in page


def test_the_page_of_a_run(table, tmp_path):
    single.run(with_telemetry(table), tmp_path / "run", screen(stderr=True), arm="matfn Muon")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "run" / "training.html").read_text()
    check_alone(page)
    for wanted in (
        "tiny",
        "matfn Muon",
        "12 steps.",
        "nats per byte",
        "blocks.0.q",
        "What the plan decided",
        "rows are looked",
    ):
        assert wanted in page, wanted
    assert all(look.title in page for look in SHOWN.values())
    known = about.recorded(tmp_path / "run")
    assert known.conditions["torch"] == torch.__version__
    assert known.layers[0] == "embed.weight"
    [choices] = known.choices.values()
    assert any("PolarExpress" in choice for _, decisions in choices for _, choice, _ in decisions)
    assert torch.__version__ in page


def test_the_page_of_a_comparison_also_without_telemetry(table, recipe, tmp_path, watcher):
    compare.run(recipe, tmp_path / "plain", watcher)
    page = run_page.page(tmp_path / "plain")
    assert "--set telemetry.every=50" in page
    compare.run(with_telemetry(table), tmp_path / "seen", watcher)
    page = run_page.page(tmp_path / "seen")
    check_alone(page)
    assert "By layer: torch Muon" in page
    assert page.count("the median of the layers") >= len(SHOWN)
    assert {"AdamW", "torch Muon", "matfn Muon"} == set(about.recorded(tmp_path / "seen").choices)
    (tmp_path / "seen" / about.ABOUT).unlink()  # as in a run of an earlier version
    assert "Not recorded" in run_page.page(tmp_path / "seen")


def test_what_is_missing_or_damaged_is_named(table, tmp_path, watcher):
    with pytest.raises(TrainError, match=r"holds no recipe.toml: give the folder"):
        run_page.page(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert done.exit_code == 2
    single.run(with_telemetry(table), tmp_path / "run", screen(stderr=True), arm="AdamW")
    telemetry = tmp_path / "run" / "telemetry.jsonl"
    whole = telemetry.read_bytes()
    telemetry.write_bytes(whole[:-20])  # a crash, or a reader beside the run
    assert "What the updates did" in run_page.page(tmp_path / "run")
    telemetry.write_bytes(b"[]\n" + whole)
    with pytest.raises(TrainError, match=r"telemetry\.jsonl"):
        run_page.page(tmp_path / "run")
    telemetry.unlink()
    (tmp_path / "run" / about.ABOUT).write_text(json.dumps({"conditions": []}))
    with pytest.raises(TrainError, match=r"about\.json"):
        run_page.page(tmp_path / "run")


def test_the_map_of_choices_is_what_explain_says(tmp_path):
    found = choice_map.choice_map("muon")
    for m, n in ((0, 0), (3, 15), (20, 8), (12, 12)):
        plan = matfn.explain((found.sides[m], found.sides[n]), "muon")
        name = found.names[found.chosen[m, n]]
        assert str(plan.precision).removeprefix("torch.") in name
        assert type(plan.engine).__name__ in name
    path = tmp_path / "map.png"
    done = CliRunner().invoke(app, ["explain", "768x3072", "--map", str(path)])
    assert done.exit_code == 0, done.output
    assert path.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, ["explain", "64x64", "--verb", "sqrtm", "--map", str(path)]).exit_code == 2
    assert CliRunner().invoke(app, ["explain", "--map", str(tmp_path / "map.svg")]).exit_code == 2


def seen(arm, seed, losses, values=None):
    """A run as its files would show it: validation losses of every step, and a figure of some layers."""
    numbers = {"loss": 3.0, "lr": 0.1, "seconds": 0.02, "optimizer_seconds": 0.005}
    lines = [{"step": k, "val_loss": loss, "elapsed": 1.0, **numbers} for k, loss in enumerate(losses, start=1)]
    history = History()
    if values:
        history(Record(1, {f"w.{k}": {"nu": value} for k, value in enumerate(values)}, 0.0, 0.0, 0))
    return run_page.Seen(arm, seed, 0, lines, outcome(lines, arm=arm, seed=seed, lr=0.1), history)


def test_the_numbers_of_the_page_are_those_of_the_runs(monkeypatch):
    drawn = []
    monkeypatch.setattr(run_page, "chart", lambda lines, **_: drawn.append({x.name: x.points for x in lines}) or "")
    runs = [seen("a", 0, [3.0, 2.5], [1.0, 2.0, 30.0]), seen("a", 1, [3.1, 2.6]), seen("b", 0, [3.2, 2.7])]
    table = run_page._results(runs, "byte")
    assert re.findall(r"<td>(\d\.\d{4})</td>", table) == ["2.5000", "2.6000", "2.7000"]
    assert [(run.arm, run.seed) for run in run_page._first(runs)] == [("a", 0), ("b", 0)]
    assert list(run_page._medians(runs[:1]))
    assert drawn.pop() == {"a": [(1, 2.0)]}
    list(run_page._curves(runs[:1], "byte"))
    assert {name: points[0] for name, points in drawn[-1].items()} == {"step": (1, 20.0), "optimizer": (1, 5.0)}


def test_a_comparison_is_as_far_as_its_last_run(recipe):
    runs = [seen("a", 0, [3.0, 2.5, 2.4]), seen("b", 0, [3.2])]
    assert run_page._lead(recipe, runs).endswith(f"step 1 of {recipe.train.steps} so far.")


def test_a_run_without_matrix_optimizers_has_no_plan(tmp_path):
    model = torch.nn.Linear(3, 3)
    about.write(tmp_path, model, [("AdamW", [torch.optim.AdamW(model.parameters())])], torch.device("cpu"))
    known = about.recorded(tmp_path)
    assert (known.plan, known.choices, known.layers) == ([], {"AdamW": []}, ["weight", "bias"])


def test_the_cross_of_the_map_is_at_rows_and_columns():
    found = choice_map.ChoiceMap("muon", "m", (16, 32, 64), ("A",), np.zeros((3, 3), int))
    [cross] = choice_map.draw(found, (16, 64)).axes[0].lines
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (64, 16)


def test_log_axes_show_numbers(tmp_path):
    """The style of the figures forbids formulas, in which matplotlib writes powers of ten."""
    from matfn.train import drawing
    from matfn.train.schedules import schedule_table

    figure = drawing.schedule_map(schedule_table("polar-express"))
    drawing.png(figure, tmp_path / "map.png")
    labels = [
        text.get_text() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in axis.get_ticklabels()
    ]
    assert labels
    assert not any("$" in label for label in labels)
    assert {"1e-06", "0.01", "1"} <= set(labels)


def test_a_missing_extra_is_named(monkeypatch):
    from matfn.train import terminal

    told, status = terminal._told(ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"))
    assert 'pip install "matfn[train]"' in told
    assert status == 2
