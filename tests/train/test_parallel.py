"""The commands under torchrun: a comparison, Ctrl-C, a killed process, and torchrun where it has no place."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from matfn import cli
from matfn.train import recipe as recipes
from matfn.train import single
from matfn.train.data import load_corpus
from matfn.train.loop import CHECKPOINT, METRICS, Trainer
from matfn.train.metrics import read_metrics
from matfn.train.settings import to_toml
from small_recipe import Silent

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "matfn_main"]
LIMIT = 90  # seconds for a command: starting three processes on a busy machine takes most of it
EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def path(table, tmp_path):
    """The tiny recipe as a file."""
    (tmp_path / "tiny.toml").write_text(to_toml(table))
    return str(tmp_path / "tiny.toml")


class Torchrun:
    """A command on two processes. It has a session of its own, and all of it is killed at the end, whatever happens."""

    def __init__(self, *words):
        words = [*TORCHRUN, *(str(word) for word in words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(words, text=True, start_new_session=True, env=environment, **pipes)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()

    def workers(self):
        """The ids of the processes that torchrun started; each leads a session."""
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def reaches(self, folder, lines):
        """Wait until the log of a run has some lines."""
        end = time.monotonic() + LIMIT
        while len(read_metrics(folder / METRICS)) < lines:
            assert time.monotonic() < end, "the run makes no steps"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.05)

    def ended(self):
        """The exit status, stdout, and the lines of matfn's errors on stderr."""
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, [line for line in err.splitlines() if line.startswith("error: ")]


def goes_on(folder, steps):
    """Train the run in a folder on, in this process, by some steps; and compare it with a run of one process."""
    recipe = recipes.moved(single.recorded(folder), ["parallel.kind=none"])
    corpus = load_corpus(recipe.data)

    def trained(where, until):
        trainer = Trainer(recipe, recipe.optimizer, corpus, seed=recipe.train.seed, directory=where)
        start = trainer.step
        trainer.advance(start + until, Silent())
        trainer.metrics.close()
        return start, [line["loss"] for line in trainer.history if "loss" in line]

    start, found = trained(folder, steps)
    wanted = trained(folder / "one", start + steps)[1]
    assert len(found) == len(wanted) == start + steps
    # Each step may add its own rounding of the loss and of the weights.
    assert found == pytest.approx(wanted, rel=2 * EPS * len(wanted))
    return start


def test_a_comparison_prints_the_table_of_one_process(path, recipe, tmp_path):
    """Its arms are exact enough to be compared: the iteration of the default precision is not."""
    words = ["compare", path, "--json", "--set", "arms.2.precision=float32", "--set", "arms.1.kind=adamw"]
    with Torchrun(*words, "--set", "parallel.kind=ddp", "--out", tmp_path / "two") as command:
        one = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "one")])
        status, out, errors = command.ended()
    assert (status, errors, one.exit_code) == (0, [], 0)
    found, wanted = json.loads(out), json.loads(one.stdout)
    assert (found["conditions"]["processes"], wanted["conditions"]["processes"]) == ("2", "1")
    assert [run["arm"] for run in found["runs"]] == ["AdamW", "torch Muon", "matfn Muon"]
    for run, other in zip(found["runs"], wanted["runs"], strict=True):
        assert run["val"][-1][1] == pytest.approx(other["val"][-1][1], rel=2 * EPS * recipe.train.steps)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert recipes.recorded(tmp_path / "two" / "recipe.toml")[0].same_curve(
        recipes.recorded(tmp_path / "one" / "recipe.toml")[0]
    )


def test_ctrl_c_stops_all_processes_after_the_same_step(path, tmp_path):
    words = ["train", path, "--arm", "AdamW", "--out", tmp_path / "run", "--set", "train.steps=100000"]
    with Torchrun(*words, "--set", "parallel.kind=ddp") as command:
        command.reaches(tmp_path / "run", 20)
        command.process.send_signal(signal.SIGINT)
        status, _, errors = command.ended()
    step = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["step"]
    assert status != 0
    [error] = errors
    assert error.startswith(f"error: stopped after step {step}; go on with: torchrun --standalone")
    assert goes_on(tmp_path / "run", 3) == step


def test_a_killed_process_ends_the_others_and_the_run_goes_on(path, tmp_path):
    words = ["train", path, "--arm", "AdamW", "--out", tmp_path / "run", "--set", "train.steps=100000"]
    with Torchrun(*words, "--set", "train.checkpoint_every=5", "--set", "parallel.kind=fsdp") as command:
        command.reaches(tmp_path / "run", 20)
        os.kill(command.workers()[-1], signal.SIGKILL)
        status, _, errors = command.ended()
    assert status != 0
    assert len(errors) <= 1, "a process that torchrun ends before it hears of the death says nothing"
    assert all("another process of this run has ended" in error for error in errors)
    assert goes_on(tmp_path / "run", 3) % 5 == 0


def test_torchrun_needs_a_parallel_table(path, tmp_path):
    with Torchrun("train", path, "--arm", "AdamW", "--out", tmp_path / "run") as command:
        status, _, errors = command.ended()
    assert status != 0
    [error] = errors
    assert "2 processes would each train the whole run" in error
    assert not (tmp_path / "run").exists()


def test_a_parallel_table_needs_torchrun(path, tmp_path):
    words = ["train", path, "--arm", "AdamW", "--out", str(tmp_path / "run"), "--set", "parallel.kind=ddp"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert "torchrun --standalone --nproc-per-node 2 -m matfn_main" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_that_goes_on_may_change_parallel_only(path, tmp_path):
    words = ["train", path, "--arm", "AdamW", "--out", str(tmp_path / "run"), "--set", "train.steps=4"]
    assert CliRunner().invoke(cli.app, [*words, "--set", "train.warmup=1"]).exit_code == 0
    result = CliRunner().invoke(cli.app, ["train", "--resume", str(tmp_path / "run"), "--set", "train.steps=9"])
    assert result.exit_code == 2
    assert "keys of [parallel] only" in result.stderr
