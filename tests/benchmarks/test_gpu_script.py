"""benchmarks/gpu.py on the CPU in its smallest form, and what its time budget does."""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from child import completed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks/ is not there: an installed package")


@pytest.fixture
def gpu():
    """The script as a module."""
    from benchmarks import gpu

    return gpu


def test_every_part_runs(tmp_path):
    out = tmp_path / "gpu.json"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick", "--out", str(out)]
    done = completed(command, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert "no GPU number" in result["conditions"]["measured"]
    assert {name: part["ended"] for name, part in result["parts"].items()} == dict.fromkeys(result["parts"], "complete")
    rows = {name: [row for row in part["rows"] if "skipped" not in row] for name, part in result["parts"].items()}
    assert len(rows) == 8
    assert all(rows[name] for name in rows if name != "kernel correctness")
    if result["conditions"]["triton"] != "not installed":
        assert len(rows["kernel correctness"]) == 3 * 3 * 5  # sizes, dtypes, products
    # Five steps of Jordan's leave more than .1, four measured ones on the same matrices less.
    error = {row["method"]: row["rms"] for row in rows["orthogonalization"]}
    assert error["ritz-minimax, 4 steps"] < 0.1 < error["jordan"]
    for row in rows["shampoo roots"]:
        assert row["error"] < 1e-3  # what the roots are made for
    assert any("primary" in row for row in rows["training"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_said(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.json")])
    with pytest.raises(SystemExit, match="--device cpu --quick runs the same code small"):
        gpu.main()


def test_a_part_stops_when_its_seconds_are_gone(gpu, monkeypatch):
    saved = []
    clock = itertools.count()  # a second passes with each look at it
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    part = gpu.Part("endless", 1.0, lambda place, seconds: ({"row": i} for i in iter(int, 1)))
    found = gpu.run(part, gpu.Place("cpu", True), 50.0, lambda found: saved.append(dict(found)))
    assert found["ended"] == "stopped after 51 rows: its seconds were gone"
    assert saved  # every few rows, so that a cut run keeps them
    assert saved[0]["ended"] == "cut while it ran"


def test_an_error_ends_its_part_alone(gpu):
    def rows(place, seconds):
        yield {"row": 1}
        raise RuntimeError("out of memory")

    found = gpu.run(gpu.Part("broken", 1.0, rows), gpu.Place("cpu", True), time.monotonic() + 1e6, lambda found: None)
    assert found["rows"] == [{"row": 1}]
    assert "out of memory" in found["ended"]
    assert "Traceback" in found["traceback"]


def test_without_time_nothing_is_begun(gpu, tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--seconds", "0", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 0
    parts = json.loads(out.read_text())["parts"]
    assert {part["ended"] for part in parts.values()} == {"not begun: no time was left"}
