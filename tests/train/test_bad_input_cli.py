"""Bad input to every command and option: status 2 and an error that says what was given and wanted; no traceback."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from child import child, completed
from matfn.cli import app
from matfn.train.settings import to_toml

NINES, LONG = "9" * 401, "x" * 5000


@pytest.fixture
def place(table, tmp_path, monkeypatch):
    """A folder with a good recipe and with files that are none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.toml").write_text(to_toml(table))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 20_000)
    (tmp_path / "tables.toml").write_text("a = " + "{a=" * 20_000)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "huge.toml").write_bytes(b"#" * 2 * 2**20)
    (tmp_path / "digits.toml").write_text("[train]\nsteps = " + "9" * 5000)
    (tmp_path / "twice.toml").write_text("title = 'a'\ntitle = 'b'")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    _shard(tmp_path / "odd.bin", b"\0\0\0")
    _shard(tmp_path / "short.bin", b"")
    return tmp_path


def _shard(path, tail):
    """A shard that promises two tokens."""
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, 2
    path.write_bytes(header.tobytes() + tail)


def setting(*assignments):
    """Train the good recipe with these settings."""
    return ("train", "good.toml", "--arm", "AdamW", *(word for text in assignments for word in ("--set", text)))


SHARDS = "data.source=shards"
CASES = [
    # A recipe that is none.
    (("train",), "give a recipe"),
    (("train", ""), "the path is empty"),
    (("train", "  "), "the path is empty"),
    (("train", "a\0b"), "NUL"),
    (("train", "."), "Is a directory|a folder"),
    (("train", "none.toml"), "No such file"),
    (("train", LONG), "File name too long"),
    (("train", "loop"), "symbolic link"),
    (("train", "pipe"), "a pipe or a device; give a regular file"),
    (("train", "/dev/zero"), "a pipe or a device; give a regular file"),
    (("train", "deep.toml"), "nested too deep"),
    (("train", "tables.toml"), "nested too deep"),
    (("train", "binary.toml"), "no valid TOML"),
    (("train", "huge.toml"), "has 2097152 bytes, wanted at most 1048576"),
    (("train", "digits.toml"), "no valid TOML"),
    (("train", "twice.toml"), "no valid TOML"),
    (("train", "file"), "no valid TOML"),
    (("compare", "pipe"), "regular file"),
    (("compare", "good.toml", "--set", "arms=[]"), "nothing to compare"),
    (("compare",), "give a recipe"),
    # Arms, folders, options.
    (("train", "good.toml"), "pass --arm with one of"),
    (("train", "good.toml", "--arm", ""), "no arm ''"),
    (("train", "good.toml", "--arm", LONG), r"no arm 'x+\.\.\. \(5002 characters\)"),
    ((*setting(), "--out", ""), "the path is empty; '.' is the present folder"),
    ((*setting(), "--out", " "), "the path is empty"),
    ((*setting(), "--out", "a\0b"), "NUL"),
    ((*setting(), "--out", "file"), "there is a file of that name"),
    ((*setting(), "--out", "file/x"), "cannot make the folder 'file/x'"),
    ((*setting(), "--out", "loop"), "cannot make the folder"),
    ((*setting(), "--out", LONG), "cannot make the folder"),
    ((*setting(), "--out", "/proc/x"), "cannot make the folder"),
    ((*setting(), "--out", "/dev/null"), "cannot make the folder"),
    (("compare", "good.toml", "--out", ""), "the path is empty"),
    (("train", "--resume", ""), "the path is empty"),
    (("train", "--resume", "none"), r"none holds no checkpoint\.pt"),
    (("train", "--resume", "file"), "holds no"),
    (("train", "--resume", "empty"), "holds no"),
    (("train", "--resume", "empty", "--out", "x"), "beside it"),
    (("compare", "--resume", "empty"), "cannot read the recipe"),
    (("compare", "--resume", ""), "the path is empty"),
    (("train", "--nothing"), "No such option"),
    (("nothing",), "No such command"),
    (("methods", "more"), "extra argument"),
    # --set.
    (setting(""), "wants key=value"),
    (setting("="), "wants key=value"),
    (setting("=1"), "wants key=value"),
    (setting("train.steps"), "wants key=value"),
    (setting("\n[model]\nlayers=7"), "wants key=value"),
    (setting("# a=1"), "wants key=value"),
    (setting(".".join("a" * 3000) + "=1"), "wants key=value"),
    (setting("arms.²=1"), "wants key=value"),
    (setting("train.stepz=1"), "did you mean 'steps'"),
    (setting('"a\\nb"=1'), "unknown key"),
    (setting("arms.99999999999999999999.lr=1"), "has no member '99999999999999999999'; it has 0 "),
    (setting("arms.nobody.lr=1"), "has no member 'nobody'"),
    (setting("train=1"), r"\[train\] must be a table, got 1"),
    (setting("arms=1"), "arms must be a list, got 1"),
    (setting("arms=[1]"), r"\[arms\.0\] must be a table, got 1"),
    (setting("title=1979-05-27"), "title must be a string"),
    (setting("title=\udcff"), "string of Unicode"),
    (setting("data.path=\udcff"), "string of Unicode"),
    (setting("train.steps=" + "[" * 20_000), "whole number, got"),
    (setting("arms.0.lr=1\n[model]\nlayers=7"), "arms.0.lr must be a number, got"),
    # Numbers.
    (setting("train.steps=0"), r"train\.steps must lie in \[1, 1e\+09\], got 0"),
    (setting("train.steps=-5"), "got -5"),
    (setting("train.steps=1e400"), "whole number, got inf"),
    (setting("train.steps=1.5"), "whole number, got 1.5"),
    (setting(f"train.steps={NINES}"), r"must lie in .* \(401 characters\)"),
    (setting("train.steps=0x" + "f" * 20_000), "got a whole number of 80000 bits"),
    (setting("train.steps=true"), "whole number, got True"),
    (setting(f"arms.0.lr={NINES}"), r"must be a number below 1\.8e308, got 9+\.\.\. \(401 characters\)"),
    (setting("arms.0.lr=" + "9" * 5000), "must be a number, got"),
    (setting("arms.0.lr=nan"), "must lie in .* got nan"),
    (setting("arms.0.lr=inf"), "must lie in .* got inf"),
    (setting("arms.0.lr=-1"), "must lie in .* got -1.0"),
    (setting("arms.0.rest.beta1=1"), "must lie in"),
    (setting("train.clip=nan"), "must lie in"),
    (setting("train.checkpoint_minutes=-1"), "must lie in"),
    (setting("train.threads=1000000"), r"must lie in \[0, 1024\]"),
    (setting("train.device=cuda:7"), "must be one of"),
    (setting("compare.seeds=[1, 1]"), "distinct"),
    (setting("model.heads=3"), "must divide"),
    (setting("train.warmup=1000000"), "do not fit"),
    (("compare", "good.toml", "--set", "compare.grid.steps=1"), r"compare\.grid\.steps = 1: train\.warmup"),
    # Work without bound.
    (setting("model.width=65536", "model.layers=1000"), r"at least [0-9,]+ GiB, and the memory of cpu has"),
    (setting("train.batch=1000000", "data.context=300"), r"at least [0-9,]+ GiB, and the memory of cpu has"),
    (setting("data.context=1000000"), "too few for data.context"),
    # Text.
    (setting("data.path="), "needs data.path"),
    (setting("data.path=none"), "neither a file nor a folder"),
    (setting("data.path=a\0b"), "neither a file nor a folder|embedded null"),
    (setting("data.path=/dev/zero"), "neither a file nor a folder"),
    (setting("data.path=pipe"), "neither a file nor a folder"),
    (setting("data.path=empty"), "holds no file ending in"),
    (setting("data.path=~nobody-of-this-name/x"), "home"),
    (setting(f"data.path={LONG}"), r"\(5002 characters\): File name too long"),
    (setting("data.path=loop"), "neither a file nor a folder|symbolic link|symlink"),
    (setting(SHARDS, "data.path=odd.bin"), "promises 2 tokens and holds 1.5: it was cut short"),
    (setting(SHARDS, "data.path=short.bin"), "promises 2 tokens and holds 0"),
    (setting(SHARDS, "data.path=file"), "no token shard"),
    (setting(SHARDS, "data.path=pipe"), "regular file"),
    (setting(SHARDS, "data.path=/dev/zero"), "regular file"),
    (setting(SHARDS, "data.path=[*"), "matches no shard"),
    (setting("telemetry.every=1", "telemetry.only=['none']"), "matches no parameter"),
    # Methods.
    (("coeffs", ""), "unknown method"),
    (("coeffs", ":"), "unknown method"),
    (("coeffs", "polar-express:steps"), "key=value"),
    (("coeffs", "polar-express:steps=3,steps=4"), "given twice"),
    (("coeffs", "polar-express:degree=4"), "odd"),
    (("coeffs", "polar-express:lower=nan"), r"lower must be .*got 'nan'"),
    (("coeffs", f"polar-express:lower={NINES}"), ""),
    (("coeffs", "polar-express:lower=" + "-" * 50_000 + "1"), "at most 1000 characters"),
    (("coeffs", "[" * 20_000), "at most 1000 characters"),
    (("coeffs", "\x1b[31mred"), r"\\x1b"),
    (("coeffs", "\udcff"), "unknown method"),
    (("coeffs", "exact"), "has no schedule"),
    (("coeffs", "--p", "0"), "--p"),
    (("coeffs", "--p", "1000000"), "--p"),
    (("coeffs", "--p", "two"), "--p"),
    (("coeffs", "--plot", ""), "the path is empty"),
    (("coeffs", "--plot", "file/map.png"), "no folder"),
    (("coeffs", "--plot", "/proc/map.png"), "cannot write /proc/map.png"),
    (("coeffs", "--plot", "x" * 300 + ".png"), "File name too long"),
    # Shapes.
    (("explain", ""), "rows x columns"),
    (("explain", "3x"), "rows x columns"),
    (("explain", "²x3"), "rows x columns"),
    (("explain", "0x3"), "from 1 to 10"),
    (("explain", "9" * 5000 + "x3"), r"\(5004 characters\)"),
    (("explain", "3x3", "--dtype", "int8"), "float16, bfloat16"),
    (("explain", "3x3", "--dtype", LONG), "--dtype must be"),
    (("explain", "3x3", "--verb", ""), "verb must be one of"),
    (("explain", "3x3", "--method", "none"), "unknown method"),
    (("explain", "3x4", "--verb", "sqrtm"), "square"),
    (("explain", "3x3", "--p", "-1", "--verb", "rootm"), "positive integer"),
]


@pytest.mark.parametrize(("words", "message"), CASES, ids=lambda value: re.sub(r"\W+", " ", str(value))[:60])
def test_bad_input_is_told(place, words, message):
    before = sorted(place.rglob("*"))
    result = CliRunner().invoke(app, list(words))
    told = result.stderr
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in told
    assert "fault of matfn" not in told
    if told.startswith("Usage"):  # typer's panel, whose lines are wrapped
        told = " ".join(re.sub("[│╭╮╰╯─]", " ", told).split())
    else:
        assert told.startswith("error:")
        assert len(told.splitlines()) == 1
        assert len(told) < 1600
    assert re.search(message, told), told
    assert sorted(place.rglob("*")) == before, "something was left behind"
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("words", [setting(), ("compare", "good.toml"), ("explain", "3x3")], ids=lambda words: words[0])
def test_a_machine_that_nobody_knows_is_told_before_the_work(place, monkeypatch, words):
    monkeypatch.setenv("MATFN_MACHINE", "abacus")
    test_bad_input_is_told(place, words, "MATFN_MACHINE must be one of .* got 'abacus'")


def test_a_value_with_more_keys_in_it_is_a_text(place):
    """Line breaks end no value: the rest sets no other key."""
    result = CliRunner().invoke(app, [*setting("title=x\n[model]\nlayers=7", "train.steps=2", "train.warmup=0")])
    assert result.exit_code == 0, result.stderr
    [recipe] = Path("runs").rglob("recipe.toml")
    assert "layers = 1" in recipe.read_text()
    assert r'title = "x\n[model]\nlayers=7"' in recipe.read_text()


def test_an_error_that_nobody_foresaw_is_a_line_too(place, monkeypatch):
    def broken(*_):
        raise KeyError("of a fault")

    monkeypatch.setattr("matfn.train.schedules.method_lines", broken)
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "MATFN_TRACEBACK=1" in result.stderr
    monkeypatch.setenv("MATFN_TRACEBACK", "1")
    assert isinstance(CliRunner().invoke(app, ["methods"]).exception, KeyError)


SCRIPT = (sys.executable, "-m", "matfn_main")


def environment(**more):
    root = Path(sys.modules["matfn"].__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **more}


def test_interrupted_imports_are_quiet():
    for pause in (0.1, 0.6):
        with child([*SCRIPT, "methods"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            time.sleep(pause)  # Python itself starts in less, and importing torch takes more
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        assert process.returncode in (130, 0), told
        assert told == ""


def test_a_pipe_that_closes_is_no_error():
    line = f"{' '.join(SCRIPT)} coeffs polar-express:steps=60 | head -n 1"
    done = completed(line, shell=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "p = 2" in done.stdout


def test_a_terminal_of_few_letters_is_no_error():
    done = completed([*SCRIPT, "coeffs"], text=False, env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0, done.stderr
    assert b"worst |1 ? s|" in done.stdout
