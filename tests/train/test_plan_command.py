"""`matfn plan`: what a step costs each process of a mesh that is not here, for recipes and public models."""

import json

import pytest
from typer.testing import CliRunner

from matfn.cli import app
from matfn.train.settings import to_toml


@pytest.fixture
def told():
    """The output of `matfn plan` with these arguments."""

    def call(*arguments, status=0):
        result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
        assert result.exit_code == status, result.output
        return result.output

    return call


@pytest.fixture
def path(table, tmp_path):
    (tmp_path / "tiny.toml").write_text(to_toml(table))
    return tmp_path / "tiny.toml"


def test_a_recipe_on_two_processes(told, path):
    shown = told("--recipe", path, "--set", "optimizer.kind=muon", "--mesh", "2", "--gbps", "10")
    assert "A step of Muon on 2 ranks (fsdp 2)" in shown
    assert "at 10 Gbit/s" in shown
    assert "of a step: the model's products take" in shown  # tokens are the recipe's, products are timed here


@pytest.mark.parametrize(
    ("parallel", "given", "mesh"),
    [
        (["kind=ddp"], "2", "(replicate 2)"),
        (["kind=tp"], "2", "(tp 2)"),
        (["kind=fsdp", "tp=2"], "4", "(fsdp 2 x tp 2)"),
        (["kind=ddp"], "2x2", "(fsdp 2 x tp 2)"),
    ],
)
def test_a_number_alone_is_spread_as_the_recipe_says(told, path, parallel, given, mesh):
    changes = [
        word for each in ("optimizer.kind=muon", *(f"parallel.{p}" for p in parallel)) for word in ("--set", each)
    ]
    assert mesh in told("--recipe", path, *changes, "--mesh", given)


def test_options_of_zero_are_no_defaults(told, path):
    for name in ("tokens", "tflops", "gbps"):
        shown = told("--recipe", path, "--set", "optimizer.kind=muon", "--mesh", "2", f"--{name}", "0", status=2)
        assert f"--{name} must be a number" in shown


def test_the_recipes_groups_divide_the_processes(told, path):
    changes = [
        word for each in ("optimizer.kind=muon", "parallel.kind=fsdp", "parallel.tp=2") for word in ("--set", each)
    ]
    shown = told("--recipe", path, *changes, "--mesh", "3", status=2)
    assert "parallel.tp = 2 does not divide the 3 processes" in " ".join(shown.split())


def test_a_public_model_as_json(told, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "")  # restored afterwards: --machine sets it
    speeds = ("--gbps", 400, "--tflops", 400, "--tokens", 4e6)
    found = json.loads(told("--model", "llama3-8b", "--mesh", "8x8", *speeds, "--machine", "cuda-sm90", "--json"))
    assert found["mesh"] == {"ranks": 64, "fsdp": 8, "tp": 8}
    assert found["machine"] == "cuda-sm90"
    assert sum(kind["count"] for kind in found["matrices"]) == 224
    assert found["ranks"]["matrices"]["mean"] == 224 / 64
    # float32 travels, because float16 would lose small gradients: 8 bytes an entry there and back, of all parts but the
    # owner's own.
    entries = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    assert found["ranks"]["sent"]["mean"] * 64 == pytest.approx(8 * entries * 63 / 64)
    assert found["training"] == pytest.approx(6 * 8_030_261_248 * 4e6 / 64 / 400e12)
    low, high = found["seconds"]
    assert found["messages"] <= low < high
    assert found["share"] == pytest.approx([s / (s + found["training"]) for s in (low, high)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mesh", "8"], "give either --recipe with a file, or --model"),
        (["--mesh", "8", "--model", "llama"], "did you mean llama3-8b?"),
        (["--mesh", "8", "--model", "llama3-8b", "--optimizer", "adamw"], "not for 'adamw'"),
        (["--mesh", "8", "--model", "llama3-8b", "--optimizer", "lion"], "--optimizer must be one of muon"),
        (["--mesh", "8", "--model", "llama3-8b", "--arm", "x"], "--arm and --set go with --recipe"),
        (["--mesh", "8y", "--model", "llama3-8b"], "--mesh must be a text such as"),
        (["--mesh", "fsdp=4,ep=3", "--model", "llama3-8b"], "ep=3 must divide fsdp x tp = 4"),
        (["--mesh", "8", "--model", "llama3-8b", "--gbps", "0"], "--gbps must be a number from 1e-30"),
        (["--mesh", "8", "--model", "llama3-8b", "--recipe", "x.toml"], "give either --recipe with a file, or --model"),
        (["--mesh", "8", "--model", "llama3-8b", "--machine", "abacus"], "--machine must be one of"),
    ],
)
def test_mistakes_are_one_line(told, arguments, words):
    assert words in " ".join(told(*arguments, status=2).split())


def test_without_speeds_it_asks_for_them(told):
    shown = told("--model", "qwen3-30b-a3b", "--mesh", "fsdp=64,ep=8")
    assert "experts over 8" in shown
    assert "give gbps" in shown
    assert "give tflops" in shown
