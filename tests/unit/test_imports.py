"""What imports what: one direction between the rooms, optional packages in their places, and a quick `import matfn`."""

import ast
import os
import sys
from pathlib import Path

import pytest

import matfn
from child import completed

ROOT = Path(matfn.__file__).parent

# Floors, from the ground up: a module imports its own room, or rooms on lower floors. Only `methods` reach `minimax`.
FLOOR = {
    "errors": 0,
    "pages": 1,
    "linalg": 1,
    "kernels": 1,
    "minimax": 1,
    "iteration": 2,
    "methods": 3,
    "engines": 3,
    "run": 4,
    "certify": 5,
    "adjoints": 5,
    "functions": 6,
    "optim": 7,
    "train": 8,
    "cli": 9,
}
HOME = {  # packages that only some places may import, whenever they do it
    "triton": ("kernels/triton_",),
    "quack": ("kernels/quack.py",),
    "torch.distributed": ("optim/matrices/", "optim/model/", "train/"),
    "matplotlib": ("train/",),
    "typer": ("cli.py", "train/terminal.py"),
    "rich": ("cli.py", "train/"),
    "transformers": ("train/model.py",),
    "tokenizers": ("train/",),
    "mpmath": ("minimax/", "train/outcome.py"),
    **dict.fromkeys(("scipy", "pytorch_optimizer", "heavyball", "gram_newton_schulz", "muon"), ()),
    "torch.utils.tensorboard": ("optim/telemetry/sinks.py",),
    "studies": (),
    "benchmarks": (),
}
HEAVY = ("triton", "quack", "matplotlib", "rich", "typer", "transformers", "scipy", "tokenizers")


def imports(path):
    """Absolute names of everything a file imports, at any depth; relative ones as matfn.x."""
    return _imported(path, ast.walk(ast.parse(path.read_text())))


def top_imports(path):
    """The same for the statements of the module itself: imports inside functions and under TYPE_CHECKING wait."""
    return _imported(path, ast.parse(path.read_text()).body)


def _imported(path, nodes):
    package = ["matfn", *path.relative_to(ROOT).parts[:-1]]
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            # `from . import x` and `from matfn import optim` name modules, not only what they hold.
            found += [f"{module}.{a.name}" for a in node.names]
    return found


ROOMS = {f.stem for f in ROOT.glob("*.py")} | {f.name for f in ROOT.iterdir() if f.is_dir()}
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
IMPORTS = {place: imports(path) for place, path in FILES.items()}


def room(name):
    """The top-level module of matfn that a dotted name belongs to, None for the package itself or another package."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "matfn" and parts[1] in ROOMS else None


def test_direction():
    wrong = []
    for place, names in IMPORTS.items():
        own = place.split("/")[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in FLOOR, f"{own} is new: give it a floor"
        for name in names:
            other = room(name)
            if other is not None and other != own and FLOOR[other] >= FLOOR[own]:
                wrong.append(f"{place} imports {name}")
            keeps = place in ("run/machine.py", "run/trials.py") and name.startswith("matfn.minimax.cache.")
            if other == "minimax" and own not in ("methods", "minimax") and not keeps:
                wrong.append(f"{place} imports {name}")
            public = name.split(".")[0] == "matfn" and other is None and name.startswith("matfn.")
            if public and own not in ("train", "cli"):
                wrong.append(f"{place} imports {name} from the top: name the module it lives in")
    assert not wrong


def test_no_circle():
    """No module imports, at its top level, a module that imports it, directly or through others."""
    known = {"matfn." + p.removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in FILES}
    direct = {}
    for module, place in known.items():
        names = {name for i in top_imports(FILES[place]) for name in (i, i.rpartition(".")[0])}
        direct[module] = (names & known.keys()) - {module}
    order, state = [], {}

    def visit(module, path):
        if state.get(module) == "open":
            raise AssertionError(" -> ".join([*path[path.index(module) :], module]))
        if state.get(module) is None:
            state[module] = "open"
            for other in sorted(direct[module]):
                if not module.startswith(other + "."):  # a package is begun before its modules, by Python itself
                    visit(other, [*path, module])
            state[module] = "done"
            order.append(module)

    for module in sorted(known):
        visit(module, [])
    assert len(order) == len(known)


REPOSITORY = ROOT.parents[1]
BESIDE = [f for folder in ("studies", "benchmarks") for f in sorted((REPOSITORY / folder).rglob("*.py"))]


@pytest.mark.skipif(not BESIDE, reason="studies/ and benchmarks/ are not there: an installed package")
def test_studies_and_benchmarks_have_no_circle():
    """Both may import matfn and each other; a module waits for another one in one direction only."""
    names = {".".join(f.relative_to(REPOSITORY).with_suffix("").parts): f for f in BESIDE}
    waits = {}
    for name, path in names.items():
        body = ast.parse(path.read_text()).body
        found = [f"{i.module}.{a.name}" for i in body if isinstance(i, ast.ImportFrom) for a in i.names]
        waits[name] = {n for n in names for i in found if i == n or i.startswith(n + ".")}
    while free := [name for name, others in waits.items() if not others & waits.keys()]:
        for name in free:
            del waits[name]
    assert not waits


def test_optional_packages_stay_in_their_places():
    for place, names in IMPORTS.items():
        for name in names:
            for package, homes in HOME.items():
                if name == package or name.startswith(package + "."):
                    inside = (place == h or (h.endswith(("/", "_")) and place.startswith(h)) for h in homes)
                    assert any(inside), (place, name)


def run(code):
    """The output of a fresh interpreter, on one thread."""
    done = completed([sys.executable, "-c", code], env=environment())
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


def test_what_an_import_loads():
    """Nothing that only an offline computation or a plot needs, unless torch itself loads it."""
    code = (
        "import sys, torch; before = set(sys.modules); import matfn; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = set(run(code))
    assert not loaded & {"mpmath", "sympy", "matplotlib", *HEAVY}, loaded
