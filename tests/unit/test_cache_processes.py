"""The coefficient cache seen from several processes: what they compute, races, a kill in the middle."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import matfn
from child import LIMIT, child, completed

# The solver needs no torch: put a bare package in the place of matfn, so that a process starts in a tenth of a second.
BARE = f"""
import sys, types
sys.modules["matfn"] = types.ModuleType("matfn")
sys.modules["matfn"].__path__ = [{str(Path(matfn.__file__).parent)!r}]
from matfn.minimax import Request, cached_rows
from matfn.minimax.composition import compose
assert "torch" not in sys.modules
"""


def arguments(code, folder, *more):
    """The command line and the environment of a process."""
    return [sys.executable, "-c", code, *more], {**os.environ, "MATFN_CACHE_DIR": str(folder)}


def run(code, folder):
    """What a process printed."""
    line, env = arguments(code, folder)
    done = completed(line, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


SOLVED = """
from matfn.minimax import composition
solve, sweeps = composition.best_odd, []

def counting(*arguments):
    best = solve(*arguments)
    sweeps.append(best.sweeps)
    return best

composition.best_odd = counting
cached_rows(Request({}, 1e-3, None, 1.01))
print(len(sweeps), sum(sweeps))
"""


@pytest.mark.parametrize("schedule", ["2, (5,) * 5", "2, (9,) * 5", "4, (9, 9, 9, 5)"])
def test_few_sweeps_cold_and_none_from_disk(tmp_path, schedule):
    """The first call takes half a second because it needs few exchanges; they are counted, since clocks are not ours.

    A step is one polynomial, and a cushion, computed once for each degree, is found by the secant method from a dozen.
    """
    code = SOLVED.format(schedule)
    polynomials, sweeps = map(int, run(BARE + code, tmp_path).split())
    assert 4 <= polynomials <= 5 + 2 * 12
    assert sweeps <= 8 * polynomials
    assert run(BARE + code, tmp_path) == "0 0\n"


RACING = """
import time
from pathlib import Path
folder, request = Path(sys.argv[1]), Request(2, (3, 3), 1e-2, 0.0, 1.0)
expected = compose(request)
print("ready", flush=True)
while not (folder / "go").exists():
    time.sleep(0.001)
for _ in range(40):
    for file in folder.glob("cache/*.json"):
        file.unlink(missing_ok=True)
    cached_rows.cache_clear()
    assert cached_rows(request) == expected
"""


def test_processes_that_write_the_same_key_at_once(tmp_path):
    line, env = arguments(BARE + RACING, tmp_path / "cache", str(tmp_path))
    with contextlib.ExitStack() as stack:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [stack.enter_context(child(line, env=env, **pipes)) for _ in range(4)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        (tmp_path / "go").touch()
        for process in processes:
            _, errors = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, errors
    assert all(file.suffix == ".json" for file in (tmp_path / "cache").iterdir()), "no temporary file is left"


KILLED = """
import os
os.replace = lambda source, target: os._exit(0)
cached_rows(Request(2, (3, 3), 1e-2, 0.0, 1.0))
"""
WHOLE = """
request = Request(2, (3, 3), 1e-2, 0.0, 1.0)
assert cached_rows(request) == compose(request)
"""


def test_a_process_killed_before_the_replacement_leaves_no_file_that_is_read(tmp_path):
    run(BARE + KILLED, tmp_path)
    assert [file.suffix for file in tmp_path.iterdir()] == [".tmp"]
    run(BARE + WHOLE, tmp_path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".tmp"]


def test_a_warm_cache_imports_no_mpmath(tmp_path):
    script = "import sys, matfn; matfn.PolarExpress().schedule(); print('mpmath' in sys.modules)"
    assert [run(script, tmp_path) for _ in range(2)] == ["True\n", "False\n"]
