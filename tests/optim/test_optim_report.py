"""report(), the history of telemetry, loggers of other packages, and the plan as HTML."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from matfn import Direct, PolarExpress, explain
from matfn.optim import (
    SOAP,
    AdaMuon,
    History,
    JsonLines,
    Muon,
    NorMuon,
    PolarGrad,
    Record,
    Scalars,
    Shampoo,
    Telemetry,
    TensorBoard,
    plan,
)
from matfn.optim.model.table import totals
from matfn.optim.telemetry import choices, report
from matfn.optim.telemetry.report import SHOWN, curves


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 16), nn.Linear(16, 12))


def trained(kind, steps=3, **options):
    """An optimizer of this class after a few measured steps, and the losses."""
    model, losses = network(), []
    optimizer = kind(plan(model), lr=0.01)
    telemetry = Telemetry(optimizer, every=1, budget=1.0, **options)
    for _ in range(steps):
        loss = model(torch.randint(0, 12, (4, 6))).square().mean()
        loss.backward()
        losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    telemetry.detach()
    return optimizer, losses, telemetry


def check_alone(page):
    """Nothing in the page is loaded from elsewhere."""
    assert page.startswith("<!doctype html>")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert not re.search(r"\b(?:src|href)\s*=\s*[\"'](?!data:)", page)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page


@pytest.mark.parametrize("kind", [Muon, NorMuon, AdaMuon, PolarGrad, Shampoo, SOAP])
def test_every_optimizer_has_a_page(kind, tmp_path):
    optimizer, losses, _ = trained(kind)
    page = optimizer.report(tmp_path / "page.html", losses=losses)
    assert (tmp_path / "page.html").read_text() == page
    check_alone(page)
    assert all(look.title in page for look in SHOWN.values())
    for wanted in (
        "Learning rates",
        "1.weight",
        "rows are looked up by token",
        torch.__version__,
        "prefers-color-scheme",
    ):
        assert wanted in page, wanted
    if kind is not SOAP:  # which computes no matrix function by a run plan
        assert "How the matrices are computed" in page


def test_without_telemetry_the_page_says_how_to_record():
    model = network()
    optimizer = Muon([(name, p) for name, p in model.named_parameters() if p.ndim == 2], lr=0.01)
    page = optimizer.report(losses={"one": [3.0, 2.0], "two": [(1, 3.0), (5, 1.0)]}, title="<mine>")
    check_alone(page)
    assert "Telemetry(optimizer, every=50)" in page
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "made without plan(model)" in page
    assert all(look.title not in page for look in SHOWN.values())


def test_the_losses_are_drawn():
    optimizer, losses, _ = trained(Muon)
    named = optimizer.report(losses={"one": losses, "two": losses})
    assert "as given to report()" in named
    assert all(f"</svg>{name}</li>" in named for name in ("one", "two"))
    assert "as given to report()" not in optimizer.report()


def test_great_losses_of_the_first_steps_alone_are_cut_off():
    """Of 200 steps the first five are great; a hill at step 50 stays in the figure."""
    points = [(float(k), 100.0 if k <= 5 else 4.0 if k == 50 else 1.0) for k in range(1, 201)]
    low, high = report._most(curves(points, ""))
    assert 0.5 < low < 1 < 4 < high < 5


def test_the_last_values_are_those_that_were_measured_in_the_order_of_the_model():
    history = History()
    history(Record(1, {f"w.{k}": {"gradient_norm": 1.0, "nu": float(k)} for k in (10, 9)}, 0.0, 0.1, 0))
    history(Record(2, {"z": {"gradient_norm": 1.0, "nu": 3.0}, "w.9": {"nu": 77.0}}, 0.0, 0.1, 0))
    history(Record(3, {"a": {"gradient_norm": 1.0, "nu": 5.0}}, 0.0, 0.1, 0))
    assert [math.isnan(value) for value in history.figures["nu"]["z"]] == [True, False, True]
    found = re.findall(r"<tr><td>(.*?)</td>.*?<td>([^<]*)</td></tr>", report.last_values(history, ["z"]))
    assert found == [("z", "3"), ("a", "5"), ("w.9", "77"), ("w.10", "10")]


def test_the_axis_of_orthogonality_begins_at_zero(monkeypatch):
    limits = {}
    monkeypatch.setattr(report, "by_layer", lambda *_, **of: limits.update({of["said"]: of["limits"]}) or "")
    history = History()
    history(record(1, orthogonality=0.5, ratio=0.5))
    assert list(report.figure_cards(history))
    assert limits[SHOWN["orthogonality"].title][0] == 0
    assert 0 < limits[SHOWN["ratio"].title][0] < 0.5


def test_a_value_that_json_lacks_is_read_as_not_measured():
    history = History.parse(b'{"step": 1, "parameter": "w", "nu": null}\n', "x")
    assert math.isnan(history.figures["nu"]["w"][0])


def test_many_shapes_of_one_choice_are_counted():
    plans = [explain((n, 64), "muon", method=PolarExpress(), engine=Direct()) for n in range(64, 72)]
    [(told, _)] = choices.choice_rows([*plans, *plans])
    assert told.endswith("69 x 64 and 2 other shapes")


def test_a_copy_has_no_history_and_still_a_page():
    optimizer, _, _ = trained(Muon)
    assert len(optimizer.history) == 3
    other = copy.deepcopy(optimizer)
    assert other.history is None
    assert "Nothing was recorded" in other.report()


def test_a_history_from_a_file_gives_the_same_figures(tmp_path):
    with_file, _, telemetry = trained(Muon)
    sink = JsonLines(tmp_path / "telemetry.jsonl")
    for k, step in enumerate(telemetry.history.steps):
        figures = {}
        for name, rows in telemetry.history.figures.items():
            for param, row in rows.items():
                figures.setdefault(param, {})[name] = row[k]
        sink(
            Record(
                step, figures, 0.1, telemetry.history.share, 0, {g: r[k] for g, r in telemetry.history.rates.items()}
            )
        )
    sink.close()
    read = History.read(tmp_path / "telemetry.jsonl")
    assert read.steps == telemetry.history.steps
    assert read.rates == telemetry.history.rates
    for name, rows in telemetry.history.figures.items():
        for param, row in rows.items():
            if any(map(math.isfinite, row)):
                assert read.figures[name][param] == row
    cut = re.compile(r"<tr><td>date</td>.*")
    own, other = (cut.split(with_file.report(history=h))[0] for h in (None, tmp_path / "telemetry.jsonl"))
    assert own == other


def test_damaged_lines_are_named(tmp_path):
    path = tmp_path / "telemetry.jsonl"
    path.write_text('{"step": 1, "parameter": "w", "nu": 1.0}\n{"step": "x"}\n')
    with pytest.raises(ValueError, match=r"telemetry.jsonl is damaged or no telemetry: line 2"):
        History.read(path)
    path.write_text('{"step": 1, "parameter": "w", "nu": null}\n{"step": 2, "para')  # a crash cut the last line
    assert History.read(path).steps == [1]


@pytest.mark.parametrize("most", [2, 3, 8])
def test_a_history_is_never_longer_than_asked(most):
    history = History(most)
    for step in range(1, 40):
        history(record(step, nu=1.0))
        assert len(history) <= most


def record(step, **figures):
    return Record(step, {"w": figures}, 0.0, 0.25, 2, {"matrix": 0.1 * step})


def test_a_history_stays_small_and_covers_the_whole_training():
    history = History(most=8)
    for step in range(1, 101):
        history(record(step, nu=float(step)))
    assert len(history) <= 8
    assert history.steps[0] == 1
    assert history.steps[-1] == 100
    assert list(history.figures["nu"]["w"]) == history.steps
    assert list(history.rates["matrix"]) == pytest.approx([0.1 * step for step in history.steps])
    assert (history.share, history.skipped) == (0.25, 2)


def test_a_second_optimizer_adds_to_the_same_step():
    history = History()
    history(record(1, nu=1.0))
    history(Record(1, {"v": {"nu": 2.0}}, 0.0, 0.1, 0, {"group": 0.5}))
    history(Record(2, {"v": {"nu": 3.0}}, 0.0, 0.1, 0))
    assert history.steps == [1, 2]
    assert list(history.figures["nu"]["v"]) == [2.0, 3.0]
    assert math.isnan(history.figures["nu"]["w"][1])
    with pytest.raises(ValueError, match="step 1 comes after step 2"):
        history(record(1, nu=1.0))


@pytest.mark.parametrize("bad", [3.0, ["a"], {"x": 3.0}, [(1, 2, 3)], [None]])
def test_bad_losses_are_refused(bad):
    with pytest.raises(TypeError, match=r"Muon.report: losses must be one number for each step"):
        curves(bad, "Muon.report: losses")


def test_bad_arguments_are_refused(tmp_path):
    optimizer, _, _ = trained(Muon, steps=1)
    with pytest.raises(TypeError, match=r"Muon.report: history must be a History or the path of a file, got 3"):
        optimizer.report(history=3)
    with pytest.raises(TypeError, match=r"Muon.report: title must be a text"):
        optimizer.report(title=3)
    with pytest.raises(OSError, match="nothing"):
        optimizer.report(tmp_path / "nothing" / "page.html")
    with pytest.raises(ValueError, match="most must be at least 2"):
        History(most=1)


class Logger:
    """Remembers what it was given, like a run of Weights & Biases."""

    def __init__(self):
        self.steps = {}

    def log(self, values, step):
        self.steps.setdefault(step, {}).update(values)


class Writer:
    """Remembers what it was given, like a writer of TensorBoard."""

    def __init__(self):
        self.scalars, self.flushed = {}, 0

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def flush(self):
        self.flushed += 1


def test_loggers_of_both_kinds_get_the_same_scalars():
    logger, writer = Logger(), Writer()
    optimizer = Muon(plan(network_ := network()), lr=0.02)
    telemetry = Telemetry(optimizer, Scalars(logger), Scalars(writer), every=2, budget=1.0)
    for _ in range(3):
        network_(torch.randint(0, 12, (4, 6))).square().mean().backward()
        optimizer.step()
    telemetry.detach()
    assert set(logger.steps) == {1, 3}
    assert {
        (tag, step): value for step, found in logger.steps.items() for tag, value in found.items()
    } == writer.scalars
    assert {"condition/1.weight", "rate/matrix", "telemetry/share"} <= set(logger.steps[1])
    assert logger.steps[3]["rate/matrix"] == 0.02
    assert all(math.isfinite(value) for found in logger.steps.values() for value in found.values())
    assert writer.flushed == 2


def test_a_logger_without_a_method_is_refused():
    with pytest.raises(TypeError, match=r"add_scalar\(tag, value, step\) or log\(values, step=step\), got 3"):
        Scalars(3)


def test_tensorboard_itself(tmp_path):
    pytest.importorskip("tensorboard")
    sink = TensorBoard(tmp_path)
    sink(record(7, nu=3.0))
    sink.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [event] = events.Scalars("nu/w")
    assert (event.step, event.value) == (7, 3.0)


def test_the_plan_as_a_page_and_in_a_notebook():
    model = nn.Sequential()
    model.add_module("embed", nn.Embedding(12, 8))
    model.add_module("a<b", nn.Linear(8, 16))
    model.add_module("head", nn.Linear(16, 12))
    made = plan(model, mesh="2")
    page = made.to_html()
    check_alone(page)
    for entry in made:
        assert entry.reason.split("<")[0] in page
    assert "a&lt;b.weight" in page
    assert "a<b" not in page
    assert page.count('<tr class="look">') == len(made.looks)
    assert "What a step costs each process" in page
    part = made._repr_html_()
    assert part.startswith('<div class="matfn-plan">')
    assert part.endswith("</div>")
    assert "a&lt;b.weight" in part
    assert "body" not in re.sub("tbody", "", part)  # its style does not reach the notebook


def test_a_notebook_marks_the_guesses():
    """Perhaps the wide layer is two matrices, and perhaps the other one is the output."""
    made = plan(nn.ModuleDict({"wide": nn.Linear(16, 32, bias=False), "down": nn.Linear(16, 16, bias=False)}))
    assert made._repr_html_().count('<tr class="look">') == len(made.looks) > 0


def test_the_shares_of_the_rules_are_counted():
    """By hand: 8 x 16 + 16 x 12 numbers of layers, 12 x 8 of the embedding, 16 + 12 of biases."""
    assert totals(plan(network(), overrides={"2.weight": "matrix"}, allow=("head",))) == [
        ("matrix", "320", "72.1%", "2", "2"),
        ("adamw", "96", "21.6%", "1", ""),
        ("adamw, no wd", "28", "6.3%", "2", ""),
    ]


def test_a_plan_of_a_model_without_memory():
    with torch.device("meta"):
        model = network()
    assert "The plan of Sequential" in plan(model).to_html()
