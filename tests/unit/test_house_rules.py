"""House rules: short files, short functions, a first sentence that says what the file is, annotations everywhere."""

import ast
from pathlib import Path

import pytest

import matfn

ROOT = Path(matfn.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])


def functions(path):
    """All functions and methods of a file, nested ones included."""
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_the_package_is_found():
    assert len(FILES) > 30


@every_file
def test_length(path):
    limit = 100 if path.parent.name == "methods" else 250
    assert len(path.read_text().splitlines()) <= limit


@every_file
def test_functions_are_short(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if body_lines(f) > 40}
    assert not long


def body_lines(function) -> int:
    """Lines without the docstring, which may be as long as it needs."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if documented and isinstance(first.value.value, str) else 0
    return function.end_lineno - function.lineno + 1 - docstring


@every_file
def test_the_first_statement_says_what_the_file_is(path):
    tree = ast.parse(path.read_text())
    assert path.read_text().startswith('"""')
    first = ast.get_docstring(tree).splitlines()[0]
    assert len(first) > 10
    assert first.rstrip()[-1] in ".:"


@every_file
def test_everything_is_annotated(path):
    for f in functions(path):
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f.name
        assert f.returns is not None or f.name == "__init__", f.name


@every_file
def test_no_boolean_chooses_an_algorithm(path):
    """A flag may ask for more or less of the same; the ones allowed are listed."""
    allowed = {"exact", "nesterov", "converged", "repeats"}
    for f in functions(path):
        if f.name.startswith("_") or "train" in path.parts[len(ROOT.parts) :] or path.name == "cli.py":
            continue
        named = zip([*f.args.args, *f.args.kwonlyargs], [*[None] * len(f.args.args), *f.args.kw_defaults], strict=True)
        flags = [a.arg for a, d in named if isinstance(d, ast.Constant) and isinstance(d.value, bool)]
        assert set(flags) <= allowed | FLAGS_OF_OPTIMIZERS, f.name


# What torch's own optimizers spell so, and parts of a rule that are on or off.
FLAGS_OF_OPTIMIZERS = {"nesterov", "cautious", "closure", "strict", "maximize", "decoupled", "tied"}


@every_file
def test_no_catch_all_module(path):
    assert path.name not in ("utils.py", "helpers.py", "misc.py", "common.py")
