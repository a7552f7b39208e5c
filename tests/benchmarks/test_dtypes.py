"""The names of dtypes that every command takes."""

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import command as speed_command
from benchmarks import dtypes
from benchmarks import polar as speed_polar
from matfn.run.arguments import DTYPES
from matfn.train import TrainError
from studies.accuracy import __main__ as accuracy_command
from studies.accuracy import run as bench_accuracy
from studies.budget import __main__ as budget_command
from studies.tune.__main__ import _request

ALL = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


@pytest.mark.parametrize(
    ("short", "full"),
    [("f16", "float16"), ("bf16", "bfloat16"), ("f32", "float32"), ("f64", "float64"), ("FP32", "float32")],
)
def test_short_names(short, full):
    assert dtypes.full_name(short, "--dtype", ALL) == full
    assert dtypes.full_name(full, "--dtype", ALL) == full
    assert _request("4x8", short, 1, "cpu", None).dtype == getattr(torch, full)


def test_each_dtype_of_the_library_has_a_short_name():
    assert set(dtypes.SHORT.values()) == set(ALL)


def test_once_each_in_order():
    assert dtypes.full_names(["f32", "float32", "bf16"], "--dtypes", ALL) == ("float32", "bfloat16")


def test_what_a_command_does_not_take_is_named_with_what_it_takes():
    with pytest.raises(TrainError, match=r"--dtypes: 'f16' is none of float64, float32, bfloat16 \(or bf16, f32"):
        dtypes.full_name("f16", "--dtypes", bench_accuracy.DTYPES)


def test_the_benchmarks_take_them(monkeypatch):
    """What reaches the measurement; a stop there keeps it from running."""
    seen = []

    def stop(options, *args, **kwargs):
        seen.append(options.dtypes)
        raise TrainError("enough")

    monkeypatch.setattr(bench_accuracy, "run", stop)
    monkeypatch.setattr("studies.budget.report.run", stop)
    for command in (accuracy_command, budget_command):
        CliRunner().invoke(command.app, ["--quick", "--dtypes", "f32", "--dtypes", "bf16"])
    assert seen == [("float32", "bfloat16")] * 2
    assert budget_command.full_names is dtypes.full_names


def test_a_part_of_a_case_may_be_a_short_name():
    full, _ = speed_command._chosen(speed_polar.PRESETS, "full", ["bfloat16"], None)
    short, _ = speed_command._chosen(speed_polar.PRESETS, "full", ["bf16"], None)
    assert full == short
    assert 0 < len(full) < len(speed_polar.PRESETS["full"][0])
