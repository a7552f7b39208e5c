"""benchmarks/gpu_train.py on the CPU, in its smallest form: a run, a stop, its resumption, failures, what it shows."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks.gpu_train_parts.rules", reason="benchmarks/ is not there: an installed package")
pytest.importorskip("matplotlib")
from benchmarks.gpu_parts.case import Bench
from benchmarks.gpu_train_parts import record, runs
from benchmarks.gpu_train_parts.rules import QUICK, key_of, queue, to_do
from benchmarks.gpu_train_parts.show import NOT_YET
from child import completed
from matfn.train.data import Corpus

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "benchmarks.gpu_train", "--device", "cpu", "--quick", "--eager"]
ARMS = ("adamw", "torch", "default")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def script(*words):
    """The script in a process of its own, in the root of the repository."""
    return completed([*RUN, "--arms", *ARMS, *map(str, words)], env=ENVIRONMENT, cwd=ROOT)


def called(monkeypatch, *words):
    """The command in this process; pytest's handler of SIGTERM stays."""
    from benchmarks import gpu_train

    monkeypatch.setattr("sys.argv", ["gpu_train", *words])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    gpu_train.main()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that is stopped from outside after five rows and then goes on: the folder, and the rows at the stop."""
    out = tmp_path_factory.mktemp("gpu_train") / "out"
    command = [*RUN, "--arms", *ARMS, "--out", str(out)]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = 0
        for line in process.stdout:
            lines += "ms a step" in line
            if lines == 5:
                break
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    assert "the folder has the runs so far" in said
    assert "Traceback" not in said
    before = record.read(out)
    again = script("--out", out)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    return out, before


def test_a_stopped_run_goes_on_and_ends(done):
    out, before = done
    rows = record.read(out)
    assert len(before) >= 5
    assert rows[: len(before)] == before
    keys = [key_of(row) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {row["call"] for row in rows} == {0, 1}
    settings = replace(QUICK, arms=ARMS)
    assert all(to_do(part, settings, rows) is None for part in ("speed", "grid", "seeds", "large"))
    assert [key_of(row) for row in rows if row["stage"] == "seeds"] == [r.key for r in queue("seeds", settings, rows)]


def test_rows_have_losses_and_times(done):
    rows = record.read(done[0])
    trained = [row for row in rows if "error" not in row]
    assert {row["arm"] for row in rows if "error" in row} == {"default, graph=True", "gram-newton-schulz"}
    for row in trained:
        assert 0 < row["loss"] < 6
        assert row["val"][-1] == [row["steps"], row["loss"]]
        assert 0 < row["optimizer_seconds"] < row["step_seconds"]
        assert row["compiled"] == "eager"
    assert all(len(row["val"]) == 8 for row in trained if row["stage"] in ("seeds", "large"))


def test_runs_of_a_seed_begin_alike_and_repeat(done):
    """Arms of one seed have the same first loss, of another seed another one; what ran twice has the same losses."""
    rows = [row for row in record.read(done[0]) if row["stage"] == "seeds"]
    first = {seed: {row["train"][0] for row in rows if row["seed"] == seed} for seed in (0, 1)}
    assert all(len(losses) == 1 for losses in first.values())
    assert first[0] != first[1]


def test_show_claims_nothing_of_a_run_without_a_gpu(done, monkeypatch, capsys):
    out = done[0]
    called(monkeypatch, "--show", str(out))
    page = (out / "results.md").read_text()
    assert NOT_YET in page
    assert NOT_YET in capsys.readouterr().out
    assert all((out / f"{name}.png").stat().st_size > 10_000 for name in ("differences", "rates", "seconds", "times"))


def test_other_settings_need_another_folder(done, monkeypatch):
    with pytest.raises(SystemExit, match="holds runs with other settings"):
        called(monkeypatch, "--device", "cpu", "--quick", "--arms", *ARMS, "--out", str(done[0]), "--seeds", "3")


def test_without_time_the_next_run_is_named(tmp_path, monkeypatch, capsys):
    words = ("--device", "cpu", "--quick", "--seconds", "0.001", "--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stop:
        called(monkeypatch, *words)
    assert stop.value.code == 1
    assert "left to do: speed (next: speed: adamw @ 0.002, seed 0)" in capsys.readouterr().out


def test_seeds_without_a_grid_say_what_they_wait_for(tmp_path, monkeypatch, capsys):
    words = ("--device", "cpu", "--quick", "--only", "seeds", "--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stop:
        called(monkeypatch, *words)
    assert stop.value.code == 1
    assert "left to do: seeds (no arm has a best rate inside its grid so far)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "gpu"), "--device must be cpu, cuda or one GPU such as cuda:1, got 'gpu'"),
        (("--seconds", "nan"), "--seconds must be a positive number, got nan"),
        (("--longer", "0"), "--longer must be a positive number, got 0"),
        (("--seeds", "0"), "--seeds must be between 1 and 1000"),
        (("--out", str(ROOT / "README.md")), "--out must be a folder, got the file"),
        (("--arms", "sgd"), "invalid choice: 'sgd'"),
        (("--pack", "x.xz"), "--pack needs --text FOLDER"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(words, said, monkeypatch, capsys):
    from benchmarks import gpu_train

    monkeypatch.setattr(gpu_train, "measure", lambda *_: pytest.fail("something ran"))
    with pytest.raises(SystemExit) as stop:
        called(monkeypatch, "--device", "cpu", "--quick", *words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_said(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no CUDA device is seen by torch"):
        called(monkeypatch, "--text", "stdlib", "--out", str(tmp_path / "out"))


def task(folder, *, compiled=False, arms=ARMS):
    """Settings so small that a run takes a fraction of a second, on tokens of a cycle."""
    tokens = (torch.arange(4000) % 7).to(torch.uint8).numpy()
    corpus = Corpus(tokens, tokens[:500], 256, "byte", {}, "")
    return runs.Task("cpu", True, replace(QUICK, arms=arms), corpus, folder, 0, os.getppid(), compiled)


def worked(task, bench, part="speed"):
    """The rows that a part writes in this process."""
    list(runs._work(part, task, bench))
    return {row["arm"]: row for row in record.read(task.folder)}


def test_a_failing_arm_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    """An error, too little memory, and an arm that cost an earlier process its life."""

    def failing(model, lr):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runs, "ARMS", {**runs.ARMS, "torch": replace(runs.ARMS["torch"], make=failing)})
    first = to_do("speed", replace(QUICK, arms=ARMS), [])
    assert first is not None
    rows = worked(task(tmp_path), Bench(task(tmp_path), broken={f"speed: {first.key}": "killed"}, case="speed"))
    assert rows["adamw"]["error"] == "killed"
    assert rows["torch"]["error"] == "OutOfMemoryError: CUDA out of memory"
    assert rows["default"]["loss"] > 0
    assert to_do("grid", replace(QUICK, arms=ARMS), list(rows.values())).arm == "default"  # pyright: ignore


def test_a_model_that_cannot_be_compiled_runs_eager(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    rows = worked(task(tmp_path, compiled=True, arms=("default",)), Bench(task(tmp_path), case="speed"))
    assert rows["default"]["compiled"] == "eager: torch.compile failed: RuntimeError: no compiler"
    assert rows["default"]["loss"] > 0


def test_a_traced_model_has_the_losses_of_the_eager_one(tmp_path):
    """One trace serves several runs, whose weights are copied into the one model."""
    found = []
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        folder.mkdir()
        rows = worked(task(folder, compiled=compiled, arms=("adamw", "default")), Bench(task(folder), case="speed"))
        assert rows["default"]["compiled"] == ("traced" if compiled else "eager")
        found.append([rows[arm]["loss"] for arm in ("adamw", "default")])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_a_lost_machine_leaves_half_a_line(tmp_path):
    record.append(tmp_path, {"a": 1})
    with (tmp_path / record.RUNS).open("a") as file:
        file.write('{"a": 2, "lo')
    assert record.read(tmp_path) == [{"a": 1}]
    record.append(tmp_path, {"a": 3})
    assert record.read(tmp_path) == [{"a": 1}, {"a": 3}]
    assert json.loads((tmp_path / record.RUNS).read_text().splitlines()[1]) == {"a": 3}


def test_measuring_needs_few_packages():
    """torch with what it brings, numpy, mpmath and filelock: a card's machine may have no other package."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("typer", "rich", "matplotlib", "tokenizers", "transformers", "pytest", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import benchmarks.gpu_train
import benchmarks.gpu_train_parts.forecast
"""
    process = completed([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT)
    assert process.returncode == 0, process.stderr[-2000:]
