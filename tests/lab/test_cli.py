"""The command line: what it prints, and that a user's mistake is a line and status 2, not a traceback."""

import itertools
import json
import re
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import matfn
from matfn.cli import app
from matfn.lab import recipe as recipes
from matfn.lab import train
from matfn.lab.settings import to_toml


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs `matfn` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def path(table, tmp_path):
    """The tiny recipe as a file."""
    (tmp_path / "tiny.toml").write_text(to_toml(table))
    return tmp_path / "tiny.toml"


def test_version_and_help(cli):
    assert cli("--version").output.strip() == f"matfn {matfn.__version__}"
    for command in ("train", "compare", "coeffs", "methods"):
        assert command in cli("--help").output
        assert cli(command, "--help").exit_code == 0


def test_methods_lists_all(cli):
    output = cli("methods").output
    assert all(name in output for name in matfn.METHODS)
    listed = json.loads(cli("methods", "--json").output)
    assert [line["name"] for line in listed] == list(matfn.METHODS)
    assert all(line["summary"] for line in listed)


def test_coeffs_prints_what_the_schedule_holds(cli, tmp_path):
    schedule = matfn.method("polar-express:steps=3,lower=1e-2").schedule(2)
    result = cli("coeffs", "polar-express:steps=3,lower=1e-2", "--plot", "map.png")
    assert result.exit_code == 0
    assert all(f"{c:+.17g}" in result.output for row in schedule.coefficients for c in row)
    assert (tmp_path / "map.png").stat().st_size > 10_000
    table = json.loads(cli("coeffs", "polar-express:steps=3,lower=1e-2", "--json").output)
    assert [tuple(step["coefficients"]) for step in table["steps"]] == [tuple(row) for row in schedule.coefficients]
    assert table["steps"][-1]["error"] == float(schedule.error())


@pytest.mark.parametrize("name", ["newton-schulz", "tuned"])
def test_coeffs_of_schedules_made_for_no_interval(cli, name):
    steps = json.loads(cli("coeffs", name, "--json").output)["steps"]
    assert steps[0]["interval"][1] == 1.0
    for before, after in itertools.pairwise(steps):
        low, high = after["interval"]
        assert max(abs(1 - low), abs(1 - high)) == before["error"]


@pytest.mark.parametrize("p", [1, 3])
def test_coeffs_for_other_p(cli, p):
    assert json.loads(cli("coeffs", "polar-express:steps=2", "--p", p, "--json").output)["p"] == p


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coeffs", "polar-expres"), "polar-express"),
        (("coeffs", "polar-express:stepz=3"), "steps"),
        (("coeffs", "polar-express:lower=2"), "lower"),
        (("coeffs", "exact"), "has no schedule"),
        (("coeffs", "polar-express", "--plot", "nowhere/map.png"), "no folder"),
        (("train", "none.toml"), "cannot read the recipe"),
        (("train", "--set", "train.stepz=3"), "did you mean 'steps'"),
        (("train", "--resume", "nowhere"), "holds no checkpoint"),
        (("train", "none.toml", "--resume", "nowhere"), "beside it"),
        (("compare",), "give a recipe"),
        (
            ("train", "--set", "optimizer.method=newton", "--set", "train.steps=1", "--set", "train.warmup=0"),
            "optimizer.method",
        ),
    ],
)
def test_mistakes_end_with_status_2(cli, arguments, message):
    result = cli(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_train_resume_and_json(cli, path, tmp_path):
    result = cli("train", path, "--arm", "matfn Muon", "--out", "run", "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["arm"] == "matfn Muon"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_loss"] == summary["val_loss"]
    assert recipes.load(tmp_path / "run" / "recipe.toml").optimizer.name == "matfn Muon"
    again = cli("train", "--resume", "run", "--json")
    assert json.loads(again.stdout)["val_loss"] == summary["val_loss"]
    other = cli("train", path, "--arm", "AdamW", "--out", "run")
    assert other.exit_code == 2
    assert "another recipe" in other.stderr


def test_train_asks_which_arm(cli, path):
    result = cli("train", path)
    assert result.exit_code == 2
    assert "--arm" in result.stderr


def test_interrupt_says_how_to_go_on(cli, path, monkeypatch):
    """Ctrl-C at step 5 leaves a checkpoint; resuming ends with the loss of an uninterrupted run."""
    whole = json.loads(cli("train", path, "--arm", "AdamW", "--out", "whole", "--json").stdout)
    step = train.Trainer._one_step

    def interrupted(trainer):
        import signal

        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "_one_step", interrupted)
        result = cli("train", path, "--arm", "AdamW", "--out", "cut")
    assert result.exit_code == 2
    assert "stopped after step 5" in result.stderr
    command = re.search(r"matfn (train --resume \S+)", result.stderr).group(1)
    resumed = json.loads(cli(*command.split(), "--json").stdout)
    assert resumed["val_loss"] == whole["val_loss"]


def test_divergence_is_a_line(cli, path):
    result = cli("train", path, "--arm", "AdamW", "--set", "arms.0.lr=1000", "--set", "arms.0.weight_decay=1000")
    assert result.exit_code == 2
    assert "at step" in result.stderr


def test_compare_prints_table_and_report_last(cli, path, tmp_path):
    result = cli("compare", path, "--set", "compare.seeds=[0, 1]")
    assert result.exit_code == 0, result.stderr
    assert "±" in result.stdout
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("report")
    assert (tmp_path / last.split()[-1]).is_file()
    assert json.loads(cli("compare", path, "--json", "--out", "other").stdout)["rows"][0]["arm"] == "AdamW"


def test_importing_matfn_brings_no_lab():
    names = ("matfn.lab", "matfn.cli", "rich", "typer", "matplotlib", "transformers")
    code = f"import sys, matfn; print([m for m in sys.modules if m.startswith({names})])"
    output = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_threads_are_set_only_when_asked(cli, path):
    before = torch.get_num_threads()
    assert cli("train", path, "--arm", "AdamW", "--out", "a").exit_code == 0
    assert torch.get_num_threads() == before
