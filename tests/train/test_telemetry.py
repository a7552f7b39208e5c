"""[telemetry] of a recipe: lines in the run's folder, the training unchanged, resuming, and mistakes named."""

import json
import sys

import pytest

from matfn.train import TrainError
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import METRICS, TELEMETRY, Trainer
from matfn.train.metrics import read_metrics
from matfn.train.settings import override


def _recipe(table, *assignments):
    for assignment in ("telemetry.every=4", "telemetry.budget=1.0", *assignments):
        table = override(table, assignment)
    return recipes.from_table(table)


def _trainer(recipe, directory, arm="matfn Muon"):
    return Trainer(recipe, recipe.arm(arm), load_corpus(recipe.data), seed=0, directory=directory)


def _lines(directory):
    return [json.loads(line) for line in (directory / TELEMETRY).read_text().splitlines()]


@pytest.mark.parametrize("arm", ["AdamW", "torch Muon", "matfn Muon"])
def test_every_optimizer_is_measured_and_none_changed(table, recipe, tmp_path, watcher, arm):
    _trainer(_recipe(table), tmp_path / "seen", arm).advance(12, watcher)
    _trainer(recipe, tmp_path / "plain", arm).advance(12, watcher)
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / which / METRICS) if "loss" in line]
        for which in ("seen", "plain")
    ]
    assert losses[0] == losses[1]
    assert not (tmp_path / "plain" / TELEMETRY).exists()
    lines = [line for line in _lines(tmp_path / "seen") if "parameter" in line]
    assert {line["step"] for line in lines} == {1, 5, 9}
    assert {"head.weight", "blocks.0.q.weight"} <= {line["parameter"] for line in lines}
    assert all(line["nuclear_norm"] >= line["gradient_norm"] * (1 - 1e-6) for line in lines)


def test_its_time_is_kept_apart(table, tmp_path, watcher):
    trainer = _trainer(_recipe(table), tmp_path)
    trainer.advance(12, watcher)
    steps = [line for line in trainer.history if "loss" in line]
    told = [line["telemetry_seconds"] for line in steps if "telemetry_seconds" in line]
    assert len(told) == 3
    assert sum(told) == pytest.approx(trainer.telemetry_seconds)
    assert all(line["optimizer_seconds"] <= line["seconds"] for line in steps)


def test_resuming_drops_the_lines_of_lost_steps(table, tmp_path, watcher):
    recipe = _recipe(table, "telemetry.only=['blocks.*']")
    first = _trainer(recipe, tmp_path)
    first.advance(6, watcher)
    first.save()
    first.advance(10, watcher)
    second = _trainer(recipe, tmp_path)
    second.advance(12, watcher)
    steps = [line["step"] for line in _lines(tmp_path) if "parameter" not in line]
    assert steps == [1, 5, 9]
    assert all(line["parameter"].startswith("blocks.") for line in _lines(tmp_path) if "parameter" in line)


def test_mistakes_are_named(table, tmp_path, monkeypatch):
    with pytest.raises(TrainError, match=r"telemetry.only = \['nothing.\*'\] matches no parameter"):
        _trainer(_recipe(table, "telemetry.only=['nothing.*']"), tmp_path / "a")
    with pytest.raises(TrainError, match=r"telemetry\.only must name something"):
        _recipe(table, "telemetry.only=[]")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainError, match=r"telemetry.tensorboard: .* pip install tensorboard"):
        _trainer(_recipe(table, "telemetry.tensorboard=true"), tmp_path / "b")
