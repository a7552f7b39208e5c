"""Runs that are disturbed: two in a folder, signals, full disks, planted links, changed logs and checkpoints."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from child import child, completed
from matfn import cli
from matfn.train import Stopped, TrainError, checkpoint, compare, files, loop, single
from matfn.train import recipe as recipes
from matfn.train.data import load_corpus
from matfn.train.loop import CHECKPOINT, METRICS, Trainer
from matfn.train.metrics import Metrics, read_metrics
from matfn.train.settings import override, to_toml

CURVE = ("step", "loss", "lr", "val_loss")


def curve(folder):
    return [{k: line[k] for k in CURVE if k in line} for line in read_metrics(folder / METRICS)]


def train(recipe, folder, watcher, *, to=12, arm="matfn Muon", save=True):
    """A run to step `to`; returns its trainer."""
    trainer = Trainer(recipe, recipe.arm(arm), load_corpus(recipe.data), seed=0, directory=folder)
    trainer.advance(to, watcher)
    if save:
        trainer.save()
    trainer.metrics.close()
    return trainer


@pytest.fixture
def path(table, tmp_path):
    """The tiny recipe as a file."""
    (tmp_path / "tiny.toml").write_text(to_toml(table))
    return str(tmp_path / "tiny.toml")


def command(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refused(result, *words):
    """One line on stderr, status 2, with these words."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error:")
    assert len(result.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in result.stderr


# Checkpoints


def test_flipped_bits_are_refused_or_without_effect(recipe, tmp_path, watcher):
    """Every 400th bit would take minutes: forty, spread over the file, its directory included."""
    train(recipe, tmp_path / "whole", watcher)
    train(recipe, tmp_path / "cut", watcher, to=6)
    whole, good = curve(tmp_path / "whole"), (tmp_path / "cut" / CHECKPOINT).read_bytes()
    log, refusals = (tmp_path / "cut" / METRICS).read_bytes(), 0
    for number in range(40):
        place = (number * len(good)) // 40 + number
        damaged = bytearray(good)
        damaged[place] ^= 1 << number % 8
        (tmp_path / "cut" / CHECKPOINT).write_bytes(damaged)
        (tmp_path / "cut" / METRICS).write_bytes(log)
        try:
            train(recipe, tmp_path / "cut", watcher, save=False)
        except TrainError as error:
            assert "is damaged" in str(error)  # noqa: PT017 either outcome is right
            refusals += 1
        else:
            assert curve(tmp_path / "cut") == whole, place
    assert refusals >= 20, "padding has no checksum; weights have"


def optimizer_of(state):
    return state["optimizers"]["members"][0]


def deep(change):
    """A change of a nested value."""

    def changed(state):
        change(state)
        return state

    return changed


FIELDS = {
    "a negative step": lambda s: {**s, "step": -5},
    "a huge step": lambda s: {**s, "step": 10**9},
    "another step": lambda s: {**s, "step": 5},
    "the last step": lambda s: {**s, "step": 12},
    "step 0": lambda s: {**s, "step": 0},
    "a step of text": lambda s: {**s, "step": "6"},
    "a step of truth": lambda s: {**s, "step": True},
    "half a step": lambda s: {**s, "step": 6.0},
    "no rng": lambda s: {**s, "rng": None},
    "an empty rng": lambda s: {**s, "rng": []},
    "a short rng": lambda s: {**s, "rng": [s["rng"][0][:100]]},
    "an rng of zeros": lambda s: {**s, "rng": [torch.zeros_like(s["rng"][0])]},
    "an rng of floats": lambda s: {**s, "rng": [s["rng"][0].float()]},
    "two rngs": lambda s: {**s, "rng": s["rng"] * 2},
    "no batches": lambda s: {**s, "batches": None},
    "short batches": lambda s: {**s, "batches": s["batches"][:-1]},
    "no model": lambda s: {**s, "model": None},
    "a weight less": lambda s: {**s, "model": dict(list(s["model"].items())[1:])},
    "a weight more": lambda s: {**s, "model": {**s["model"], "more": torch.ones(2)}},
    "weights in float64": lambda s: {**s, "model": {k: v.double() for k, v in s["model"].items()}},
    "weights that are numbers": lambda s: {**s, "model": dict.fromkeys(s["model"], 1.0)},
    "weights of another shape": lambda s: {**s, "model": {k: v.flatten() for k, v in s["model"].items()}},
    "no optimizers": lambda s: {**s, "optimizers": None},
    "one optimizer less": lambda s: {**s, "optimizers": {**s["optimizers"], "members": []}},
    "no schedules": lambda s: {**s, "optimizers": {**s["optimizers"], "schedules": []}},
    "a schedule at another step": deep(lambda s: s["optimizers"]["schedules"][0].update(last_epoch=7)),
    "a schedule of another rate": deep(lambda s: s["optimizers"]["schedules"][0].update(base_lrs=[0.5] * 9)),
    "another learning rate": deep(lambda s: optimizer_of(s)["param_groups"][0].update(lr=0.5)),
    "another momentum": deep(lambda s: optimizer_of(s)["param_groups"][0].update(momentum=0.5, betas=(0.1, 0.2))),
    "an optimizer without state": deep(lambda s: optimizer_of(s).update(state={})),
    "an optimizer at another step": deep(
        lambda s: [e.update(step=torch.tensor(3.0)) for e in optimizer_of(s)["state"].values() if "step" in e]
    ),
    "NaN in a state": deep(lambda s: [e["exp_avg"].fill_(torch.nan) for e in optimizer_of(s)["state"].values()]),
    "a state of another shape": deep(lambda s: optimizer_of(s)["state"][0].update(exp_avg=torch.ones(3))),
    "no record of the metrics": lambda s: {**s, "metrics": {}},
    "another record": lambda s: {**s, "metrics": {**s["metrics"], "bytes": 10}},
    "a record of text": lambda s: {**s, "metrics": "abc"},
    "no recipe": lambda s: {k: v for k, v in s.items() if k != "recipe"},
    "a recipe that is a number": lambda s: {**s, "recipe": 3},
    "another recipe": lambda s: {**s, "recipe": {**s["recipe"], "title": "another"}},
    "another optimizer": lambda s: {**s, "optimizer": {**s["optimizer"], "lr": 0.5}},
    "another seed": lambda s: {**s, "seed": 1},
    "another order": lambda s: {**s, "order": "abc"},
}


@pytest.mark.parametrize("change", FIELDS.values(), ids=FIELDS.keys())
def test_fields_are_checked_against_each_other(recipe, tmp_path, watcher, change):
    train(recipe, tmp_path, watcher, to=6, arm="AdamW")
    torch.save(change(torch.load(tmp_path / CHECKPOINT)), tmp_path / CHECKPOINT)
    with pytest.raises(TrainError, match=r"is damaged|has another|given another"):
        train(recipe, tmp_path, watcher, arm="AdamW")


@pytest.mark.parametrize("arm", ["AdamW", "torch Muon", "matfn Muon"])
def test_a_state_of_every_optimizer_is_checked(recipe, tmp_path, watcher, arm):
    train(recipe, tmp_path, watcher, to=6, arm=arm)
    state = torch.load(tmp_path / CHECKPOINT)
    for member in state["optimizers"]["members"]:
        for entry in member["state"].values():
            for key in set(entry) - {"step"}:
                entry[key] = entry[key] * torch.nan
    torch.save(state, tmp_path / CHECKPOINT)
    with pytest.raises(TrainError, match="is damaged"):
        train(recipe, tmp_path, watcher, arm=arm)


def test_a_checkpoint_of_the_version_before_goes_on(recipe, tmp_path, watcher):
    """It has no order of the documents, no record of the metrics, and its recipe lacks the newest keys."""
    train(recipe, tmp_path / "whole", watcher)
    train(recipe, tmp_path / "old", watcher, to=6)
    state = torch.load(tmp_path / "old" / CHECKPOINT)
    del state["order"], state["metrics"], state["recipe"]["train"]["checkpoint_minutes"]
    torch.save(state, tmp_path / "old" / CHECKPOINT)
    train(recipe, tmp_path / "old", watcher)
    assert curve(tmp_path / "old") == curve(tmp_path / "whole")


def test_renamed_documents_are_another_order(recipe, tmp_path, folder, watcher):
    train(recipe, tmp_path / "run", watcher, to=6)
    (folder / "01.txt").rename(folder / "99.txt")
    with pytest.raises(TrainError, match="another order"):
        train(recipe, tmp_path / "run", watcher)


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: p.mkdir(), lambda p: p.symlink_to("/dev/zero")])
def test_no_checkpoint_and_no_wait(recipe, tmp_path, watcher, make):
    make(tmp_path / CHECKPOINT)
    with pytest.raises(TrainError, match="regular file"):
        train(recipe, tmp_path, watcher)


# Logs


def lines_of(folder):
    return (folder / METRICS).read_text().splitlines(keepends=True)


LOGS = {
    "missing": lambda lines: None,
    "empty": lambda lines: [],
    "short": lambda lines: lines[:3],
    "without a middle": lambda lines: lines[:2] + lines[3:],
    "doubled": lambda lines: lines + lines,
    "in another order": lambda lines: lines[::-1],
    "with another loss": lambda lines: [lines[0].replace('"loss": ', '"loss": 1'), *lines[1:]],
}


@pytest.mark.parametrize("version", ["present", "before"])
@pytest.mark.parametrize("change", LOGS.values(), ids=LOGS.keys())
def test_a_log_is_mended_or_refused(recipe, tmp_path, watcher, change, version):
    """Without a record, an earlier version's log shows what is missing, and not that a number is another."""
    train(recipe, tmp_path / "whole", watcher, arm="AdamW")
    train(recipe, tmp_path / "run", watcher, to=6, arm="AdamW")
    if version == "before":
        state = torch.load(tmp_path / "run" / CHECKPOINT)
        del state["metrics"]
        torch.save(state, tmp_path / "run" / CHECKPOINT)
        if change is LOGS["with another loss"]:
            return
    lines = change(lines_of(tmp_path / "run"))
    if lines is None:
        (tmp_path / "run" / METRICS).unlink()
    else:
        (tmp_path / "run" / METRICS).write_text("".join(lines))
    if change is LOGS["doubled"] and version == "present":  # the record says where the first half ends
        train(recipe, tmp_path / "run", watcher, arm="AdamW")
        assert curve(tmp_path / "run") == curve(tmp_path / "whole")
        return
    with pytest.raises(TrainError, match=r"metrics\.jsonl is damaged"):
        train(recipe, tmp_path / "run", watcher, arm="AdamW")


def test_what_came_after_the_checkpoint_is_cut(recipe, tmp_path, watcher):
    train(recipe, tmp_path / "whole", watcher)
    train(recipe, tmp_path / "run", watcher, to=6)
    kept = (tmp_path / "run" / METRICS).read_text()
    for tail in ("", '{"step": 7, "lo', "garbage\n", '{"step": 7, "loss": 1.0}\n'):
        (tmp_path / "run" / METRICS).write_text(kept + tail)
        trainer = train(recipe, tmp_path / "run", watcher, to=6, save=False)
        assert trainer.step == 6
        assert (tmp_path / "run" / METRICS).read_text() == kept
    train(recipe, tmp_path / "run", watcher)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["removed", "emptied", "doubled", "replaced", "edited"])
def test_a_log_that_somebody_changes_is_written_again_and_told(path, tmp_path, monkeypatch, recipe, watcher, harm):
    log, step = tmp_path / "run" / METRICS, Trainer._one_step

    def disturbed(trainer):
        if trainer.step == 6:
            content = log.read_bytes()
            other = b"%d}\n" % ((content[-3] - ord("0") + 1) % 10)  # the last digit of a time
            log.unlink() if harm in ("removed", "replaced") else None
            changed = {"emptied": b"", "doubled": content * 2, "replaced": content, "edited": content[:-3] + other}
            log.write_bytes(changed[harm]) if harm in changed else None
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", disturbed)
        result = command("train", path, "--arm", "matfn Muon", "--out", tmp_path / "run")
    refused(result, "removed or changed", "--resume")
    assert command("train", "--resume", tmp_path / "run").exit_code == 0
    train(replace(recipe, optimizer=recipe.arm("matfn Muon"), arms=()), tmp_path / "whole", watcher, arm=None)
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_log_lines_are_on_disk_before_the_checkpoint(recipe, tmp_path, watcher, monkeypatch):
    order = []
    monkeypatch.setattr(loop.checkpoint, "save", lambda path, state: order.append(("checkpoint", state["metrics"])))
    real = Metrics.sync
    monkeypatch.setattr(Metrics, "sync", lambda log: order.append(("log", None)) or real(log))
    trainer = train(recipe, tmp_path, watcher, to=3)
    assert [name for name, _ in order] == ["log", "checkpoint"]
    assert order[1][1]["bytes"] == (tmp_path / METRICS).stat().st_size
    assert trainer.step == 3


# Folders


def test_a_second_process_in_a_folder_is_refused(path, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / files.LOCK):
        for words in (("train", path, "--arm", "AdamW"), ("compare", path)):
            refused(command(*words, "--out", tmp_path / "run"), "another process", "--out")
    assert command("train", path, "--arm", "AdamW", "--out", tmp_path / "run").exit_code == 0


def test_the_lock_of_a_dead_process_is_none(path, tmp_path):
    (tmp_path / "run").mkdir()
    code = f"import os, filelock; filelock.FileLock({str(tmp_path / 'run' / files.LOCK)!r}).acquire(); os._exit(1)"
    assert completed([sys.executable, "-c", code]).returncode == 1
    assert command("train", path, "--arm", "AdamW", "--out", tmp_path / "run").exit_code == 0


def test_two_runs_of_one_second_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = files.dated("x")
    first.mkdir(parents=True)
    # In the next second the name would differ anyway.
    assert files.dated("x") not in (first, None)


@pytest.mark.parametrize(
    "labels",
    [
        ("Muon +wd", "Muon -wd"),
        ("A", "a"),
        ("a b", "a-b"),
        ("é", "e\u0301"),
        ("ß", "ss", "SS"),
        ("..", "/", "//", "a/../b"),
        ("x" * 300, "x" * 301),
        ("\N{KELVIN SIGN}", "K", "k"),
        ("a", "A", "a-3f79bb7b435b"),
        ("con", "nul", "aux."),
        ("", " ", "  "),
    ],
)
def test_arms_have_folders_of_their_own(labels):
    """Also on file systems that ignore case or compose accents, and with names of at most 255 bytes."""
    names = compare.folder_names(labels)
    assert len({compare._normal(name) for name in names}) == len(labels)
    assert all(len(f"{name}-seed2147483648".encode()) <= 255 for name in names)
    assert all("/" not in name and "\\" not in name and "." not in name for name in names)


def test_names_without_a_twin_are_those_of_earlier_versions():
    assert compare.folder_names(["AdamW", "torch Muon", "Muön"]) == ["adamw", "torch-muon", "muön"]
    assert compare.folder_names(["AdamW", "A", "a"])[0] == "adamw"


def test_arms_of_like_names_are_both_trained(table, tmp_path, watcher):
    table["arms"] = [{**table["arms"][0], "name": name, "lr": lr} for name, lr in (("A +b", 0.01), ("a -b", 0.02))]
    result = compare.run(recipes.from_table(table), tmp_path, watcher)
    assert len({run.final for run in result.runs}) == 2
    assert len(list(tmp_path.glob("*/metrics.jsonl"))) == 2


def test_rates_that_print_alike_are_both_tried(table, tmp_path):
    table["arms"] = [{**table["arms"][0], "rates": [0.01, 0.0100000001]}, table["arms"][1]]
    [trials, _] = compare.trials_of(recipes.from_table(table), tmp_path)
    assert len({trial.arm.label for trial in trials}) == len({trial.folder for trial in trials}) == 2


def test_a_comparison_of_another_text_does_not_go_on(recipe, tmp_path, folder, watcher):
    with pytest.raises(Stopped):
        compare.run(recipe, tmp_path / "run", watcher, stop=lambda: len(watcher.lines) > 20)
    (folder / "01.txt").write_text("another text " * 40)
    with pytest.raises(TrainError, match="not the one that the comparison"):
        compare.run(recipe, tmp_path / "run", watcher)


@pytest.mark.parametrize("file", ["metrics.jsonl", "finished.json"])
def test_the_log_of_a_finished_arm_is_verified(recipe, tmp_path, watcher, file):
    compare.run(recipe, tmp_path, watcher)
    [place] = tmp_path.glob(f"adamw-seed0/{file}")
    good = place.read_bytes()
    for damage in (good[:-4], good + good, good.replace(b"1", b"2", 1)):
        place.write_bytes(damage)
        with pytest.raises(TrainError, match="is damaged"):
            compare.run(recipe, tmp_path, watcher)
    place.write_bytes(good)
    compare.run(recipe, tmp_path, watcher)


def test_a_finished_comparison_of_an_earlier_version_is_read(recipe, tmp_path, watcher):
    """Its logs have no record; one that is not complete is trained again."""
    whole = compare.run(recipe, tmp_path, watcher)
    for record in tmp_path.glob("*/finished.json"):
        record.unlink()
    log = tmp_path / "adamw-seed0" / METRICS
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:5]))
    watcher.lines.clear()
    again = compare.run(recipe, tmp_path, watcher)
    assert len([line for line in watcher.lines if "loss" in line]) == 12
    assert [run.train for run in again.runs] == [run.train for run in whole.runs]


# Recorded recipes


def test_a_changed_recipe_of_a_run_is_refused(path, tmp_path):
    run = tmp_path / "run"
    assert command("train", path, "--arm", "AdamW", "--out", run).exit_code == 0
    good = (run / "recipe.toml").read_bytes()
    for place in range(0, len(good), 97):
        damaged = bytearray(good)
        damaged[place] ^= 1
        (run / "recipe.toml").write_bytes(damaged)
        result = command("train", "--resume", run)
        if result.exit_code:  # the mark of the checksum is all that may change without a word
            refused(result, "recipe.toml")
        else:
            assert b"# sha256 of the lines above: " not in damaged


# Signals, kills, disks


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("kind", ["train", "compare"])
def test_a_signal_saves_and_says_how_to_go_on(path, tmp_path, monkeypatch, kind, name, status):
    step, number = Trainer._one_step, getattr(signal, name)

    def signalled(trainer):
        if trainer.step == 4 and trainer.table.label == "AdamW":
            signal.raise_signal(number)
        return step(trainer)

    words = {"train": ("train", path, "--arm", "AdamW"), "compare": ("compare", path)}[kind]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", signalled)
        result = command(*words, "--out", tmp_path / "run")
    assert result.exit_code == status
    assert f"go on with: matfn {kind} --resume {tmp_path / 'run'}" in result.stderr
    assert list((tmp_path / "run").rglob(CHECKPOINT))
    assert command(kind, "--resume", tmp_path / "run").exit_code == 0


def test_a_run_killed_before_its_first_checkpoint_starts_again(path, tmp_path, monkeypatch, recipe, watcher):
    def killed(trainer):
        raise SystemExit(-9)

    words = ("train", path, "--arm", "AdamW", "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", killed)
        assert command(*words).exit_code == -9
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    for again in (words, ("train", "--resume", tmp_path / "run")):
        (tmp_path / "run" / CHECKPOINT).unlink(missing_ok=True)
        result = command(*again)
        assert result.exit_code == 0, result.stderr
        assert "starts at step 0" in result.stdout
    assert (tmp_path / "run" / f"before-{METRICS}").exists(), "a whole log is kept"
    train(recipe, tmp_path / "whole", watcher, arm="AdamW")
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    refused(command("train", path, "--arm", "matfn Muon", "--out", tmp_path / "run"), "another recipe")


def test_checkpoints_come_by_the_clock(recipe, tmp_path, watcher, monkeypatch):
    assert recipes.Recipe().train.checkpoint_minutes == 5.0
    now, saved = [0.0], []
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Trainer, "save", lambda self: saved.append(self.step) or setattr(self, "_saved", now[0]))
    step = Trainer._one_step

    def timed(trainer):
        now[0] += 100.0
        return step(trainer)

    monkeypatch.setattr(Trainer, "_one_step", timed)
    train(recipe, tmp_path / "a", watcher, save=False)
    assert saved == [3, 6, 9, 12]
    saved.clear()
    off = replace(recipe, train=replace(recipe.train, checkpoint_minutes=0.0))
    train(off, tmp_path / "b", watcher, save=False)
    assert saved == []


def test_a_full_disk_is_a_line_and_keeps_the_old_checkpoint(tmp_path):
    """Also under a log, a plot and a report. tests/train/full_disk.py writes them where files may have 100 bytes."""
    checkpoint.save(tmp_path / CHECKPOINT, {"model": torch.zeros(10**4)})
    old = (tmp_path / CHECKPOINT).read_bytes()
    done = completed([sys.executable, str(Path(__file__).with_name("full_disk.py")), str(tmp_path)])
    assert done.returncode == 0, done.stderr
    told = dict(map(json.loads, done.stdout.splitlines()))
    assert re.search(
        r"cannot write .*checkpoint\.pt: .*the older one is unchanged; make room", told.pop("write_checkpoint")
    )
    assert sorted(told) == ["write_log", "write_plot", "write_text"]
    assert all(re.search("cannot write .*: File too large", line) for line in told.values()), told
    assert (tmp_path / CHECKPOINT).read_bytes() == old
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, METRICS}


def test_unfinished_files_follow_no_planted_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for name in (f"{CHECKPOINT}.partial", f"{CHECKPOINT}.{os.getpid()}.partial", CHECKPOINT):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    checkpoint.save(tmp_path / CHECKPOINT, {"step": 1})
    assert (tmp_path / "mine").read_text() == "mine"
    assert checkpoint.load(tmp_path / CHECKPOINT) == {"step": 1}


def test_unfinished_files_of_a_killed_process_are_removed_and_others_are_not(tmp_path):
    for name in ("checkpoint.pt.123.partial", "a/metrics.jsonl.9.partial", "grid/b/x.7.partial", "film.partial"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with files.folder(tmp_path):
        pass
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} - {files.LOCK} == {"film.partial"}


KILLED = """
import sys, torch
from matfn.cli import main
torch.set_num_threads(1)
sys.argv = ["matfn", *sys.argv[1:]]
main()
"""


def test_a_process_killed_by_the_system_goes_on_identically(table, tmp_path, recipe, watcher):
    """SIGKILL at two moments; the same command ends the run. tests/kills.py does it 200 times."""
    table = override(override(table, "train.checkpoint_every=4"), "train.steps=60")
    (tmp_path / "long.toml").write_text(to_toml(table))
    run, words = tmp_path / "run", ["train", str(tmp_path / "long.toml"), "--arm", "AdamW", "--out"]
    for until in (3, 30):
        with child([sys.executable, "-c", KILLED, *words, str(run)], stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and (not (run / METRICS).exists() or len(lines_of(run)) < until):
                time.sleep(0.005)
    assert command(*words, run).exit_code == 0
    assert command(*words, tmp_path / "whole").exit_code == 0
    assert curve(run) == curve(tmp_path / "whole")


def test_recorded_is_what_was_trained(path, tmp_path):
    assert command("train", path, "--arm", "AdamW", "--out", tmp_path / "run").exit_code == 0
    recipe = single.recorded(tmp_path / "run")
    assert recipe.optimizer == recipes.load(Path(path)).arm("AdamW")
    assert recipe.arms == ()
    assert json.loads((tmp_path / "run" / METRICS).read_text().splitlines()[0])["step"] == 1
