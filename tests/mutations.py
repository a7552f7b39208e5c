"""Change core files in small ways, one at a time, and list the changes that their own tests do not see.

    python tests/mutations.py [--sample 60] [--only engines/restarts.py]

A change is a comparison, a sign, a constant, a condition or a returned value. Each one runs the file's tests in a fork
of this process, which has imported torch but not matfn. A survivor is a hint, not a verdict: some changes alter nothing
that a caller can see, such as a bound that no input reaches. Run by hand; a hundred changes take minutes.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401 - imported before the forks
import numpy  # noqa: F401
import pytest
import scipy.linalg  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parents[1]
# File in src/matfn: the tests that should see its changes.
PAIRS = {
    "iteration/step.py": ["unit/test_step.py", "unit/test_schedule.py"],
    "iteration/schedule.py": ["unit/test_schedule.py"],
    "iteration/partial_fraction.py": ["unit/test_partial_fraction.py"],
    "engines/cost.py": ["unit/test_cost.py"],
    "engines/restarts.py": ["unit/test_restarts.py"],
    "linalg/tridiagonal.py": ["unit/test_tridiagonal.py"],
    "run/arguments.py": ["unit/test_arguments.py"],
}
LIMIT = 90  # seconds for one change; a change that makes the tests hang counts as seen

COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMBINED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}


def changed(node: ast.AST) -> ast.AST | None:
    """A copy of the node with one change, or None where there is nothing to change."""
    new = copy.deepcopy(node)
    match new:
        case ast.Compare(ops=[op, *_]) if type(op) in COMPARED:
            new.ops[0] = COMPARED[type(op)]()
        case ast.BinOp(op=op) if type(op) in COMBINED:
            new.op = COMBINED[type(op)]()
        case ast.Constant(value=bool()):
            new.value = not new.value
        case ast.Constant(value=int() | float()):
            new.value = new.value + 1
        case ast.BoolOp():
            new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        case ast.If() | ast.IfExp() | ast.While():
            new.test = ast.UnaryOp(ast.Not(), new.test)
        case ast.Return(value=ast.expr()):
            new.value = ast.Constant(None)
        case _:
            return None
    return ast.copy_location(new, node)


def places(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes inside functions, annotations and calls that raise left out: a message may say what it likes."""
    waiting = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and id(child) not in seen:
                    seen.add(id(child))
                    waiting.append(child)
                    yield child


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every change of a file: what it is, and the file's text with it."""
    tree = ast.parse(source)
    for target in places(tree):
        new = changed(target)
        if new is None:
            continue
        whole = copy.deepcopy(tree)
        place = next(n for n, o in zip(ast.walk(whole), ast.walk(tree), strict=True) if o is target)
        Replace(place, new).visit(whole)
        said = [ast.unparse(node).splitlines()[0] for node in (target, new)]
        yield f"line {target.lineno}: {said[0]}  ->  {said[1]}", ast.unparse(ast.fix_missing_locations(whole))


class Replace(ast.NodeTransformer):
    """Put one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """The new node for the old one."""
        return self.new if node is self.old else self.generic_visit(node)


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Load one module from a text."""

    def __init__(self, module: str, path: Path, text: str) -> None:
        self.module, self.path, self.text = module, path, text

    def find_spec(self, name, path=None, target=None):
        """This loader for the changed module, the usual ones for every other."""
        return importlib.util.spec_from_loader(name, self) if name == self.module else None

    def get_filename(self, name):
        """The file that the text replaces."""
        return str(self.path)

    def get_data(self, path):
        """The changed text."""
        return self.text.encode()


def outcome(file: str, tests: list[str], text: str) -> str:
    """Run the tests of a file with this text in a fork: "seen", "survived" or "hung"."""
    pid = os.fork()
    if pid == 0:
        module = "matfn." + file.removesuffix(".py").replace("/", ".")
        sys.meta_path.insert(0, Changed(module, ROOT / "src/matfn" / file, text))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = 1
        try:
            status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        finally:
            os._exit(int(status))
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "survived" if status == 0 else "seen"
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def main() -> int:
    """Print the survivors by file; the exit status is 1 if the tests fail on the file as it is."""
    options = argparse.ArgumentParser(description="List the small changes of core files that no test sees.")
    options.add_argument("--sample", type=int, default=15, help="changes of a file, drawn by a fixed seed; 0 for all")
    options.add_argument("--only", choices=sorted(PAIRS), help="one file")
    asked = options.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    assert "matfn" not in sys.modules
    for file in [asked.only] if asked.only else PAIRS:
        source, tests = (ROOT / "src/matfn" / file).read_text(), [f"tests/{name}" for name in PAIRS[file]]
        if outcome(file, tests, source) != "survived":
            print(f"{file}: its tests fail or hang without a change")
            return 1
        found = list(mutants(source))
        drawn = random.Random(0).sample(found, min(asked.sample or len(found), len(found)))
        began, counts = time.monotonic(), {"seen": 0, "survived": 0, "hung": 0}
        survivors = []
        for what, text in drawn:
            result = outcome(file, tests, text)
            counts[result] += 1
            if result == "survived":
                survivors.append(what)
        print(f"{file}: {len(drawn)} of {len(found)} changes, {counts}, {time.monotonic() - began:.0f} s", flush=True)
        for what in survivors:
            print(f"    survived  {what}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
