"""benchmarks/gpu.py on the CPU in its smallest form, what its processes do when a part fails, and what it shows."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from child import completed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="benchmarks/ is not there: an installed package"
)
RUN = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick"]


def script(*words, **environment):
    """The script in a process of its own, in the root of the repository."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", **environment}
    return completed([*RUN, *map(str, words)], env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run of all parts: the result, and the path of its file."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    process = script("--out", out)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return json.loads(out.read_text()), out


def test_every_part_runs(done):
    result, out = done
    assert "mean nothing" in result["conditions"]["measured"]
    assert {name: part["ended"] for name, part in result["parts"].items()} == dict.fromkeys(result["parts"], "complete")
    assert len(result["parts"]) == 13
    assert not any(part["lost"] or part["failures"] for part in result["parts"].values())
    rows = {name: [row for row in part["rows"] if "skipped" not in row] for name, part in result["parts"].items()}
    assert all(found for name, found in rows.items() if name not in ("triton", "quack"))
    assert not out.with_suffix(".parts").exists()
    if result["conditions"]["triton"] != "not installed":
        assert sum(row.get("kernel") == "Triton" for row in rows["triton"]) == 3 * 3 * 5  # sizes, dtypes, products
    error = {row["name"]: row["rms"] for row in rows["stacks"] if row["case"] == "2 x 96 x 160"}
    assert error["default + cubic, cuBLAS"] < error["plain torch, Jordan bf16, compiled"]
    assert all(row["error"] < 1e-3 for row in rows["roots"])
    assert any("primary" in row for row in rows["training"])


def test_contract_compares_with_something(done):
    """Every method has rows for the polar factor that passed, in four dtypes, and the bounds would see garbage."""
    rows = [row for row in done[0]["parts"]["contract"]["rows"] if "allowed" in row]
    assert {row["dtype"] for row in rows} == {f"torch.{d}" for d in ("float64", "float32", "float16", "bfloat16")}
    assert all(row["passed"] and row["allowed"] <= 0.5 for row in rows)
    assert max(row["allowed"] for row in rows if row["dtype"] == "torch.float64") < 1e-9


def test_peers_that_are_missing_are_rows(done):
    names = ("gram-newton-schulz", "pytorch_optimizer")
    missing = [name for name in names if done[0]["conditions"][name] == "not installed"]
    said = " ".join(str(row.get("skipped")) for part in done[0]["parts"].values() for row in part["rows"])
    assert all(f"No module named '{name.replace('-', '_')}'" in said for name in missing)


def test_show_claims_nothing_of_a_run_without_a_gpu(done):
    """Tables, a page and plots; every target is named, with a prediction, and none has a measured number."""
    result, out = done
    process = completed([sys.executable, "-m", "benchmarks.gpu", "--show", str(out)], cwd=ROOT)
    assert process.returncode == 0, process.stderr[-3000:]
    page = out.with_suffix(".md").read_text()
    from benchmarks.gpu_parts.targets import NOT_YET, judged

    verdicts = judged(result)
    assert len(verdicts) >= 18
    for verdict in verdicts:
        assert verdict.text == NOT_YET
        assert verdict.target.name in page
        assert verdict.target.name in process.stdout
    assert page.count(f"| {NOT_YET} |") == len(verdicts)
    assert (out.parent / "gpu-stacks.png").stat().st_size > 10_000


def test_targets_are_judged_by_the_rows_of_a_gpu():
    """A target needs the rms of the peer in the same run; the quickest row with more error does not count."""
    from benchmarks.gpu_parts.targets import judged
    from benchmarks.gpu_parts.variants import GN

    stack = [12, 768, 3072]
    rows = [
        {"stack": stack, "name": GN, "rms": 0.09, "graph_seconds": 0.96e-3},
        {"stack": stack, "name": "default, quack", "rms": 0.14, "graph_seconds": 0.6e-3},
        {"stack": stack, "name": "default + cubic, quack", "rms": 0.04, "graph_seconds": 0.9e-3},
    ]
    result = {"conditions": {"measured": "on a GPU", "gpu": "NVIDIA H200"}, "parts": {"stacks": {"rows": rows}}}
    first, second = judged(result)[:2]
    assert first.measured == pytest.approx(0.9)
    assert first.text == "missed"
    assert second.measured is None
    rows[2]["graph_seconds"] = 0.79e-3
    assert judged(result)[0].text == "met"


def test_the_page_on_gpus_has_the_targets_and_their_predictions():
    """Names, bounds and "not yet measured" as in the script, predictions within 15 %: counts move as products do."""
    from benchmarks.gpu_parts.targets import NOT_YET, targets

    lines = (ROOT / "docs" / "gpu.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    table = {row[0]: row[1:] for row in cells if len(row) == 4}
    for target in targets():
        bound, predicted, measured = table[target.name]
        assert bound == f"{'>=' if target.least else '<='} {target.limit:g} {target.unit}"
        assert measured == NOT_YET
        assert (predicted == "-") == (target.predicted != target.predicted)
        if predicted != "-":
            assert float(predicted) == pytest.approx(target.predicted, rel=0.15)


def test_predictions_agree_with_what_an_h200_took():
    """The model of products, bytes and launches, on five steps with one restart as they ran there: within 12 %."""
    import matfn
    from benchmarks.gpu_parts.predictions import orthogonalization

    took = {(12, 768, 3072): 1.043, (8, 2048, 8192): 6.41, (12, 768, 768): 0.520, (8, 2048, 2048): 3.02,
            (2, 4096, 11008): 8.39}  # fmt: skip
    for stack, milliseconds in took.items():
        engine = matfn.Direct() if stack[1] == stack[2] else matfn.Gram((2,))
        # Peak, norm and division in passes of their own over float32, as they were: 34 bytes for each entry.
        found = 1e3 * orthogonalization(stack, matfn.PolarExpress(), engine, prepared=34)
        assert found == pytest.approx(milliseconds, rel=0.12), stack


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_said(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "gpu.json")]
    process = completed(command, cwd=ROOT)
    assert process.returncode == 1
    assert "--device cpu --quick runs the same code small" in process.stderr


def test_without_time_nothing_is_begun(tmp_path):
    out = tmp_path / "gpu.json"
    assert script("--seconds", "1e-9", "--out", out).returncode == 1  # what was asked for did not run
    parts = json.loads(out.read_text())["parts"]
    assert {part["ended"] for part in parts.values()} == {"not begun: no time was left"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "gpu"), "--device must be cpu, cuda or one GPU such as cuda:1, got 'gpu'"),
        (("--seconds", "0"), "--seconds must be a positive number, got 0"),
        (("--seconds", "nan"), "--seconds must be a positive number, got nan"),
        (("--out", str(ROOT)), f"--out must be a file, got the folder {ROOT}"),
        (("--only", "stack"), "invalid choice: 'stack'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(words, said, monkeypatch, capsys):
    from benchmarks import gpu

    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu", "--quick", *words])
    monkeypatch.setattr(gpu, "measure", lambda *_: pytest.fail("something ran"))
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no whole file of JSON"),
        ('{"conditions": {"to', "is no whole file of JSON"),
        ("[1]", "no result of this script"),
        ('{"conditions": {}, "parts": {"stacks": {"rows": []}}}', "no result of this script"),
        ('{"conditions": {}, "parts": {"stacks": {"ended": "complete", "rows": [1]}}}', "no result of this script"),
    ],
)
def test_show_names_what_is_wrong_with_a_file(text, said, tmp_path):
    from benchmarks.gpu_parts.show import show

    path = tmp_path / "gpu.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=said):
        show(path)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=["timeout", "Ctrl-C"])
def test_a_run_that_is_stopped_keeps_its_rows(tmp_path, sent):
    """The children are gone, the file has what was measured, and one line says so."""
    out = tmp_path / "gpu.json"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*RUN, "--only", "safety", "--out", str(out)]
    process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = 0
        for line in process.stdout:
            lines += "passed" in line
            if lines == 5:
                break
        process.send_signal(sent)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    part = json.loads(out.read_text())["parts"]["safety"]
    assert len(part["rows"]) >= 5
    assert part["ended"] in ("cut while it ran", "complete")
    assert "the file has the rows so far" in said
    assert "Traceback" not in said


def test_measuring_needs_few_packages():
    """torch with what it brings, numpy and mpmath: a card's machine may have no other package and no network."""
    code = """
import importlib, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("typer", "rich", "matplotlib", "tokenizers", "transformers", "pytest"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
from benchmarks.gpu import PARTS
from benchmarks.gpu_parts.events import Place
for part in PARTS.values():
    module, function = part.source.split(":")
    assert getattr(importlib.import_module(module), function)(Place("cuda", False)), part
"""
    process = completed([sys.executable, "-c", code], cwd=ROOT)
    assert process.returncode == 0, process.stderr[-2000:]
