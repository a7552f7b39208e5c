"""More bad input to every key and option, each told in a line; and runs in odd folders, or on a full disk."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from child import completed
from matfn.cli import app
from matfn.train.terminal import guarded
from tests.train import test_bad_input_cli as first
from tests.train.test_bad_input_cli import LONG, SCRIPT, SHARDS, environment, setting

place, is_told = first.place, first.test_bad_input_is_told

# Each key of a recipe with a value that is not allowed, and a part of the message.
VALUES = """
title=1 | string
title=[] | string
title={} | string
model= | table
model=[] | table
model.name=GPT | one of
model.name='' | one of
model.layers=0 | lie in
model.layers=1001 | lie in
model.layers=1.0 | whole number
model.layers='1' | whole number
model.layers=null | whole number
model.width=7 | lie in
model.width=65537 | lie in
model.heads=0 | lie in
model.positions=rope | one of
model.tied=1 | true or false
model.tied=True | true or false
model.name=gpt2 | tied head
data.source=http | one of
data.path=http://x/y | neither a file nor a folder
data.path=/proc/self/mem | /proc/self/mem: Input/output error
data.extensions=[] | holds no file
data.extensions=.txt | must be a list
data.extensions=[1] | must be a string
data.extensions=['txt'] | holds no file ending in 'txt'
data.context=0 | lie in
data.context=2097152 | lie in
data.val_fraction=0 | lie in
data.val_fraction=nan | lie in
data.val_fraction=.5x | must be a number
data.split=shard | needs data.source
data.split=x | one of
data.end_of_text=65536 | lie in
data.vocabulary=0 | lie in
train.batch=0 | lie in
train.batch=1e2 | whole number
train.accumulate=0 | lie in
train.warmup=-1 | lie in
train.cooldown=1.1 | lie in
train.cooldown=-0.1 | lie in
train.clip=-1 | lie in
train.clip= | must be a number
train.autocast=float16 | one of
train.autocast=true | string
train.compile=1 | true or false
train.device= | one of
train.device=mps | one of
train.threads=-1 | lie in
train.seed=-1 | lie in
train.seed=4294967296 | lie in
train.eval_every=0 | lie in
train.eval_windows=0 | lie in
train.checkpoint_every=-1 | lie in
train.checkpoint_minutes=inf | lie in
train.checkpoint_minutes=nan | lie in
telemetry.every=-1 | lie in
telemetry.budget=0 | lie in
telemetry.only=[] | must name something
telemetry.only=* | must be a list
telemetry.exact=2 | true or false
compare.seeds=[] | distinct
compare.seeds=0 | must be a list
compare.seeds=[-1] | lie in
compare.seeds=[true] | whole number
compare.order=random | one of
compare.grid=1 | table
compare.grid.seed=-1 | lie in
compare.grid.nope=1 | unknown key
optimizer=1 | table
optimizer.kind=sgd | one of
optimizer.lr= | must be a number
arms.0=1 | table
arms.0.kind=sgd | one of
arms.0.method=exact | belongs to
arms.0.name=torch Muon | share a name
arms.0.rates=[2,1] | rise and differ
arms.0.rates=[nan] | lie in
arms.0.rates=1 | must be a list
arms.-1.lr=1 | no member
arms.0.rest=1 | table
arms.0.rest.eps=2 | lie in
arms.0.embeddings={} | lacks 'arms.0.embeddings.lr'
arms.0.weight_decay=-1 | lie in
arms.0.momentum=1 | lie in
arms.0.nesterov=1 | true or false
arms.0.root=2 | belongs to
"""
METHODS = """
 | unknown method ''
none | unknown method
polar-express:steps=0 | at least 1 and at most 1000, got 0
polar-express:steps=1e9 | got 1000000000.0
polar-express:lower=2 | got 2
polar-express:degree=(3,5 | key=value
polar-express:degree=() | lists no step
polar-express:degree=23 | at most 21
polar-express:norm=x | norm must be one of
polar-express:safety=0 | safety must be
polar-express:cushion=2 | cushion must be
polar-express:steps=1000,degree=21 | minutes to compute
qdwh:steps=x | unknown argument
zolo-pd:r=99 | from 1 to 8
tuned:name=none | unknown tuning
exact:x=1 | unknown argument
exact:singular=x | singular must be
__import__('os') | unknown method
\\x00 | unknown method
"""
CASES = [
    *((setting(key.strip()), part) for key, _, part in (line.partition(" | ") for line in VALUES.strip().split("\n"))),
    *((("coeffs", text), part) for text, _, part in (line.partition(" | ") for line in METHODS[1:-1].split("\n"))),
    (("train", "good.toml", "--arm", "matfn Muon", "--set", "arms.2.method="), r"arms\.2\.method = '': unknown method"),
    (setting("arms.0.embeddings.lr=1", "arms.0.embeddings.method="), r"embeddings\.method = '': unknown method"),
    (setting(SHARDS, "data.path=empty"), "matches no shard"),
    (setting(SHARDS, "data.path=/dev/zer?"), "regular file"),
    (setting(SHARDS, f"data.path={LONG}"), "File name too long"),
    (("train", "good.toml", "good.toml"), "extra argument"),
    (("train", "good.toml", "--js"), "No such option"),
    (("train", "good.toml/x"), "Not a directory"),
    (("train", "/proc/self/mem"), "Input/output error"),
    (("train", "\udcff.toml"), "No such file"),
    (("train", "--resume", "loop"), "holds no"),
    (("train", "--resume", "pipe"), "holds no"),
    (("compare", "--resume", "loop"), "symbolic link"),
    (("compare", "good.toml", "--arm", "AdamW"), "No such option"),
    (("coeffs", "--plot", "."), "ends in .png"),
    (("coeffs", "--plot", "none/x.png"), "no folder"),
    (("coeffs", "qdwh", "--p", "4"), "p = 2 alone"),
    (("coeffs", "--p", "nan"), "--p"),
    (("explain", "3x3x3"), "rows x columns"),
    (("explain", "1e3x3"), "rows x columns"),
    (("explain", "3×3"), "rows x columns"),
    (("explain", "3x3", "--dtype", "torch.float32"), "--dtype must be"),
    (("explain", "3x3", "--device", "gpu"), "device must be a torch.device or a name such as"),
    (("explain", "3x3", "--device", "xpu:77"), "torch cannot use the device xpu:77 here"),
    (("explain", "3x3", "--verb", "rootm"), "needs its exponent"),
    (("explain", "3x3", "--verb", "polar", "--p", "2"), "no exponent to choose"),
    (("explain", "3x3", "--verb", "inv", "--method", "qdwh"), "p = 2 alone"),
    (("", "x"), "No such command"),
    (("TRAIN", "good.toml"), "No such command"),
]


@pytest.mark.parametrize(("words", "message"), CASES, ids=lambda value: re.sub(r"\W+", " ", str(value))[:60])
def test_more_bad_input_is_told(place, words, message):
    is_told(place, words, message)


def finished(place, *options):
    """The folder of a run that has ended."""
    result = CliRunner().invoke(app, [*setting("train.steps=2", "train.warmup=0"), "--out", "run", *options])
    assert result.exit_code == 0, result.stderr
    return place / "run"


def test_the_other_command_is_named_for_a_folder_of_the_other_kind(place):
    finished(place)
    is_told(place, ("compare", "--resume", "run"), "matfn train --resume run")
    shutil.copytree("run", "both")
    Path("both/checkpoint.pt").unlink()
    shutil.copy("good.toml", "both/recipe.toml")
    is_told(place, ("train", "--resume", "both"), "matfn compare --resume both")
    is_told(place, (*setting(), "--out", "both"), "matfn compare --resume both")


def test_a_run_that_lost_its_recipe_is_told(place):
    (finished(place) / "recipe.toml").unlink()
    is_told(place, ("train", "--resume", "run"), r"has a checkpoint\.pt and no recipe\.toml")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_progress_costs_no_step(place):
    with open("/dev/full", "w") as full:
        done = completed([*SCRIPT, *setting(), "--out", "run"], stdout=full, env=environment())
    assert done.returncode == 2
    assert done.stderr == "error: the output: No space left on device\n"
    done = completed([*SCRIPT, "train", "--resume", "run"], env=environment())
    assert "after 12 steps" in done.stdout, done.stderr
    assert "step 0" not in done.stdout


def test_a_missing_package_is_told(capsys):
    def main():
        import no_package_of_this_name  # noqa: F401

    with pytest.raises(SystemExit, match="2"):
        guarded(main)
    assert "pip install no_package_of_this_name" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("a", "b"), ("a", "--every", "0"), ("--help",), ("none/a",)])
def test_the_sweep_of_plans_writes_no_file_for_a_bad_option(tmp_path, words):
    root = Path(__file__).parents[2]
    path = f"{root}{os.pathsep}{environment()['PYTHONPATH']}"
    line = [sys.executable, "-m", "studies.plan_sweep", *words]
    done = completed(line, cwd=tmp_path, env=environment(PYTHONPATH=path))
    assert done.returncode == (0 if "--help" in words else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
