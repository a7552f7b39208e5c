"""Packaging: what is locked, what is in the wheel, which commands the workflows run, and errors of missing extras."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from child import completed

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKED = (ROOT / "requirements/test.txt").read_text()
NOT_LOCKED = {"torch"}


def plain(name):
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def pinned(text):
    """Versions of ``name==version`` at the starts of lines, by name; several where they differ by Python."""
    found = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        found.setdefault(plain(name), set()).add(version)
    return found


def test_every_package_of_the_tests_is_locked():
    wanted = {plain(line) for line in [*PROJECT["project"]["dependencies"], *EXTRAS["train"], *EXTRAS["dev"]]}
    assert wanted - NOT_LOCKED <= pinned(LOCKED).keys(), "run `make lock`"


def test_the_lock_agrees_with_the_constraints():
    constraints, locked = pinned((ROOT / "constraints.txt").read_text()), pinned(LOCKED)
    assert {n: locked[n] for n in locked.keys() & constraints.keys()} == {
        n: constraints[n] for n in locked.keys() & constraints.keys()
    }, "run `make lock`"


def test_every_locked_file_has_a_hash_and_no_address():
    entries = re.split(r"\n(?=\S)", LOCKED.strip())
    assert len(entries) > 40
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCKED


def test_the_wheel_holds_the_package_alone():
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["src/matfn"], "force-include": {"src/matfn_main.py": "matfn_main.py"}}
    size = sum(path.stat().st_size for path in (ROOT / "src").rglob("*.py"))
    assert size < 1_500_000  # 39 % of it in the wheel, which has at most 600 kB: `make release-check` measures it


def test_workflows_run_commands_that_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert files
    for path in files:
        text = path.read_text()
        used = re.findall(r"make ([a-z0-9-]+)", text) + re.findall(r"target: \[(.*)\]", text)
        assert {name for part in used for name in part.split(", ")} <= targets, path.name
        assert "://" not in text, path.name
        assert "secrets." not in text, path.name


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"triton", "matplotlib", "rich", "typer"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib
for module in ("matfn.cli", "matfn.kernels.triton_symm", "matfn.train.drawing", "matfn.train.progress"):
    try:
        importlib.import_module(module)
    except (ImportError, SystemExit) as error:
        print(error)
"""


def test_a_missing_extra_is_named():
    done = completed([sys.executable, "-c", ABSENT])
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert [line for line in said if 'pip install "matfn[train]"' not in line] == [said[1]]
    assert "pip install triton" in said[1]


def report(date, ms):
    conditions = {"date": date, "matfn": "0.1.0, revision abc", "processor": "P", "device": "CPU", "threads": "2"}
    row = {"case": "c", "name": "n", "median": ms / 1000, "ratio": 2.0, "choice": True}
    return {"part": "step", "conditions": {**conditions, "torch": "2"}, "rows": [row, {**row, "median": None}]}


def test_the_history_has_each_row_once():
    history = pytest.importorskip("benchmarks.history")
    old, new = history.lines(report("2026-01-02", 3)), history.lines(report("2026-01-01", 5))
    assert [line["ms"] for line in history.joined(old, [*new, *old])] == [5.0, 3.0]
    assert old[0]["revision"] == "abc"
    assert history.joined(old, [{**old[0], "ms": 9.0}])[0]["ms"] == 9.0


def test_the_history_draws_the_speed_of_the_defaults():
    history = pytest.importorskip("benchmarks.history")
    made = report("2026-01-02", 3)
    made["rows"].append({**made["rows"][0], "name": "other", "ratio": 7.0, "choice": False})
    found = history.lines(made)
    assert [line["speed"] for line in found] == [2.0, 7.0]
    curve, _ = history.figure(found).axes[0].lines
    assert list(curve.get_ydata()) == [2.0]
