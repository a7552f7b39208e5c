"""The command line: what it prints, and that a user's mistake is a line and status 2, not a traceback."""

import errno
import itertools
import json
import re
import sys

import pytest
import torch
from typer.testing import CliRunner

import matfn
from child import completed
from matfn.cli import app
from matfn.train import TrainError, files
from matfn.train import loop as train
from matfn.train import recipe as recipes
from matfn.train.settings import to_toml


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
    for line in listed:  # the arguments can be copied into a recipe
        assert matfn.method(f"{line['name']}:{line['defaults']}".rstrip(":")) == matfn.METHODS[line["name"]]()


def test_methods_has_one_row_for_each(cli):
    starts = [line.split()[0] for line in cli("methods").output.splitlines()[1:] if not line.startswith(" ")]
    assert starts == list(matfn.METHODS)


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
        (("coeffs", "polar-express", "--plot", "."), "ends in .png"),
        (("coeffs", "polar-express", "--plot", "map.xyz"), "ends in .png"),
        (("coeffs", "polar-express", "--plot", "folder.png"), "ends in .png"),
        (("train", "none.toml"), "cannot read the recipe"),
        (("train",), "give a recipe"),
        (("train", "empty.toml", "--set", "train.stepz=3"), "did you mean 'steps'"),
        (("train", "--resume", "nowhere"), "holds no checkpoint"),
        (("train", "none.toml", "--resume", "nowhere"), "beside it"),
        (("compare",), "give a recipe"),
        (("train", "empty.toml", "--set", "optimizer.method=newton"), "optimizer.method = 'newton'"),
    ],
)
def test_mistakes_end_with_status_2(cli, tmp_path, arguments, message):
    (tmp_path / "empty.toml").touch()
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    _mistake(cli(*arguments), message)
    assert sorted(tmp_path.rglob("*")) == before, "a mistake left something behind"


def _mistake(result, message):
    """One line on stderr, status 2."""
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error:")


@pytest.mark.parametrize("order", ["interleaved", "sequential"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("method=exact", "precision=bfloat16"), "arms.2: Muon: Exact(singular='refuse') does not iterate"),
        (("method=newton",), "arms.2.method = 'newton': unknown method"),
        (("method=prism:steps=0",), "arms.2.method = 'prism:steps=0': steps must be"),
        (("kind=adamw",), "arms.2.method belongs to kind"),
    ],
)
def test_a_bad_arm_is_named_by_its_place_before_anything_is_written(cli, path, tmp_path, order, settings, message):
    """Sequential arms too: the last one's mistake must not wait for the others' training."""
    given = [word for text in settings for word in ("--set", f"arms.2.{text}")]
    for command in (("train", path, "--arm", "matfn Muon"), ("compare", path, "--set", f"compare.order={order}")):
        _mistake(cli(*command, *given), message)
        assert not (tmp_path / "runs").exists()


def test_what_only_the_first_step_refuses_is_named_too(cli, path, tmp_path, monkeypatch):
    def refused(optimizer):
        raise NotImplementedError("no products\n in this precision")

    monkeypatch.setattr("matfn.optim.Muon.step", refused)
    _mistake(cli("compare", path), "arms.2: no products in this precision")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("out", ["afile", "afile/below", "/proc/foo"])
def test_bad_output_folders_are_refused_before_the_work(cli, path, tmp_path, monkeypatch, command, out):
    def worked(*_, **__):
        raise AssertionError("work was done first")

    for module in ("single", "compare"):
        monkeypatch.setattr(f"matfn.train.{module}.load_corpus", worked)
    (tmp_path / "afile").write_text("mine")
    words = {"train": ("train", path, "--arm", "AdamW"), "compare": ("compare", path)}
    _mistake(cli(*words[command], "--out", out), f"cannot make the folder '{out}'")
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_folder_that_work_leaves_empty_is_taken_away(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(TrainError), files.folder(tmp_path / "mine" / "a" / "b"):
        raise TrainError
    assert [entry.name for entry in tmp_path.rglob("*")] == ["mine"]
    with pytest.raises(TrainError), files.folder(tmp_path / "mine"):
        raise TrainError
    with files.folder(tmp_path / "mine" / "a" / "b") as folder:
        (folder / "written").touch()
    assert (tmp_path / "mine" / "a" / "b" / "written").exists()


def test_what_the_system_refuses_is_a_line(cli, path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "run/metrics.jsonl")

    monkeypatch.setattr(train, "Metrics", full)
    _mistake(cli("train", path, "--arm", "AdamW", "--out", "run"), "run/metrics.jsonl: No space left on device")


@pytest.mark.parametrize("damage", ["garbage", "list", "keys", "weights", "log"])
def test_a_damaged_run_is_a_line(cli, path, tmp_path, damage):
    assert cli("train", path, "--arm", "AdamW", "--out", "run", "--json").exit_code == 0
    file = tmp_path / "run" / ("metrics.jsonl" if damage == "log" else "checkpoint.pt")
    state = torch.load(tmp_path / "run" / "checkpoint.pt")
    if damage in ("garbage", "log"):
        file.write_text("garbage\n")
    else:
        weights = {**state, "model": {}}
        torch.save({"list": [1], "keys": {"step": 3}, "weights": weights}[damage], file)
    _mistake(cli("train", "--resume", "run"), f"run/{file.name} is damaged")


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
    assert result.exit_code == 130
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


def test_importing_matfn_does_not_import_train():
    names = ("matfn.train", "matfn.cli", "rich", "typer", "matplotlib", "transformers")
    code = f"import sys, matfn; print([m for m in sys.modules if m.startswith({names})])"
    done = completed((sys.executable, "-c", code))
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_threads_are_set_only_when_asked(cli, path):
    before = torch.get_num_threads()
    assert cli("train", path, "--arm", "AdamW", "--out", "a").exit_code == 0
    assert torch.get_num_threads() == before
