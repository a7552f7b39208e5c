"""What imports what: one direction between the rooms, optional packages in their places, and a quick `import matfn`."""

import ast
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import matfn

ROOT = Path(matfn.__file__).parent

# Floors, from the ground up: a module imports its own floor's package, or lower floors. `kernels` lie below `step`,
# which evaluates itself by products; `methods` alone reach `minimax`.
FLOOR = {
    "autocast": 0,
    "constant": 0,
    "errors": 0,
    "norms": 0,
    "lu": 0,
    "target": 0,
    "quadrature": 0,
    "kernels": 0,
    "tridiagonal": 0,
    "residual": 1,
    "prescale": 1,
    "family": 0,
    "fit": 2,
    "ritz": 2,
    "minimax": 0,
    "triangle": 0,
    "inverse_factor": 1,
    "step": 2,
    "schatten": 1,
    "deflation": 1,
    "partial_fraction": 3,
    "schedule": 4,
    "method": 5,
    "checks": 6,
    "record": 6,
    "converged": 6,
    "methods": 7,
    "engines": 7,
    "certify": 8,
    "adjoints": 8,
    "compute": 8,
    "rank": 0,
    "bounds": 1,
    "functions": 9,
    "distributed": 8,
    "optim": 10,
    "train": 11,
    "cli": 12,
}
HOME = {  # packages that only some places may import, whenever they do it
    "triton": ("kernels/triton_symm.py",),
    "torch.distributed": ("distributed/",),
    "matplotlib": ("train/",),
    "typer": ("cli.py", "train/terminal.py"),
    "rich": ("cli.py", "train/"),
    "transformers": ("train/model.py",),
    "tokenizers": ("train/data.py",),
    "mlxtend": ("train/images.py",),
    "mpmath": ("minimax/", "train/"),
    **dict.fromkeys(("scipy", "pytorch_optimizer", "heavyball", "gram_newton_schulz", "muon"), ()),
    "torch.utils.tensorboard": ("optim/sinks.py",),
}
HEAVY = ("triton", "matplotlib", "rich", "typer", "transformers", "scipy", "tokenizers", "mlxtend")


def imports(path):
    """Absolute names of everything a file imports, at any depth; relative ones as matfn.x."""
    package = ["matfn", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            # `from . import x` and `from matfn import optim` name modules, not only what they hold.
            found += [f"{module}.{a.name}" for a in node.names]
    return found


ROOMS = {f.stem for f in ROOT.glob("*.py")} | {f.name for f in ROOT.iterdir() if f.is_dir()}
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])


def room(name):
    """The top-level module of matfn that a dotted name belongs to, None for the package itself or another package."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "matfn" and parts[1] in ROOMS else None


@every_file
def test_direction(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in FLOOR, f"{own} is new: give it a floor"
    for name in imports(path):
        other = room(name)
        if other is not None and other != own:
            assert FLOOR[other] < FLOOR[own], f"{own} imports {name}"
        assert other != "minimax" or own in ("methods", "minimax"), f"{own} imports {name}"
        public = name.split(".")[0] == "matfn" and other is None and name.startswith("matfn.")
        assert not public or own in ("train", "cli"), f"{own} imports {name} from the top: name the module it lives in"


@every_file
def test_optional_packages_stay_in_their_places(path):
    place = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        for package, homes in HOME.items():
            if name == package or name.startswith(package + "."):
                assert any(place == home or (home.endswith("/") and place.startswith(home)) for home in homes), name


def run(code):
    """The output of a fresh interpreter, on one thread."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


BLOCKED = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_core_needs_no_optional_package():
    code = "import matfn, torch; print(*matfn.orthogonalize(torch.randn(3, 5)).shape)"
    assert run(BLOCKED + code) == ["3", "5"]


def test_the_block_blocks():
    """The test above could not fail if the finder were never asked."""
    with pytest.raises(AssertionError, match="No module named 'scipy'"):
        run(BLOCKED + "import scipy")


def test_optimizers_need_no_optional_package():
    code = "from matfn.optim import Muon; print(Muon.__name__)"
    assert run(BLOCKED + code) == ["Muon"]


def test_what_an_import_costs():
    """Under 0.3 s beyond torch; the least of some runs, because a busy machine only ever adds."""
    code = "import time, torch; t = time.perf_counter(); import matfn; print(time.perf_counter() - t)"
    times = [float(run(code)[0]) for _ in range(3)]
    assert min(times) < 0.3, statistics.median(times)


def test_what_an_import_loads():
    """Nothing that only an offline computation or a plot needs, unless torch itself loads it."""
    code = (
        "import sys, torch; before = set(sys.modules); import matfn; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = set(run(code))
    assert not loaded & {"mpmath", "sympy", "matplotlib", *HEAVY}, loaded


REPOSITORY = ROOT.parents[1]
BESIDE = [f for folder in ("studies", "benchmarks") for f in sorted((REPOSITORY / folder).rglob("*.py"))]


def test_the_package_does_not_import_studies_or_benchmarks():
    for path in FILES:
        found = [name for name in imports(path) if name.split(".")[0] in ("studies", "benchmarks")]
        assert not found, f"{path.relative_to(ROOT)} imports {found}: they are not in the wheel"


@pytest.mark.skipif(not BESIDE, reason="studies/ and benchmarks/ are not there: an installed package")
def test_studies_and_benchmarks_have_no_import_circle():
    names = {".".join(f.relative_to(REPOSITORY).with_suffix("").parts): f for f in BESIDE}
    below = {
        name: {n for n in names if any(i == n or i.startswith(n + ".") for i in top_imports(f))}
        for name, f in names.items()
    }
    while free := [name for name, needs in below.items() if not needs & below.keys()]:
        for name in free:
            del below[name]
    assert not below, f"these import one another: {sorted(below)}"


def top_imports(path):
    """Absolute names that a file imports when it is imported itself."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{a.name}" for a in node.names]
    return found
