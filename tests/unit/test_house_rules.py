"""House rules: few files in the hall, functions one can see at once, a first sentence in each file, annotations."""

import ast
from pathlib import Path

import matfn

ROOT = Path(matfn.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}
HALL = {"__init__.py", "functions.py", "certify.py", "errors.py", "cli.py"}

# A flag may ask for more or less of the same thing. These are the ones allowed, with torch's own spellings.
FLAGS = {"exact", "nesterov", "cautious", "closure", "relative", "mirrored", "differentiated"}


def functions(tree):
    """All functions and methods of a file, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(function) -> int:
    """Lines without the docstring, which may be as long as it needs."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
    return function.end_lineno - function.lineno + 1 - documented


def test_the_hall_has_few_files():
    assert {name for name in FILES if "/" not in name} == HALL


def test_files_fit_one_idea():
    long = {name: lines for name, path in FILES.items() if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_functions_can_be_seen_at_once():
    long = [f"{name}:{f.name}" for name, tree in TREES.items() for f in functions(tree) if body_lines(f) > 40]
    assert not long


def test_the_first_statement_says_what_the_file_is():
    for name, path in FILES.items():
        assert path.read_text().startswith('"""'), name
        first = (ast.get_docstring(TREES[name]) or "").splitlines()[0]
        assert len(first) > 10, name
        assert first.rstrip()[-1] in ".:", name


def test_everything_is_annotated():
    for name, tree in TREES.items():
        for f in functions(tree):
            arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not bare, f"{name}:{f.name}"
            assert f.returns is not None or f.name == "__init__", f"{name}:{f.name}"


def test_no_boolean_chooses_an_algorithm():
    for name, tree in TREES.items():
        for f in functions(tree):
            if f.name.startswith("_") or name.startswith("train/") or name == "cli.py":
                continue
            defaults = zip(
                [*f.args.args, *f.args.kwonlyargs], [None] * len(f.args.args) + f.args.kw_defaults, strict=True
            )
            flags = {a.arg for a, d in defaults if isinstance(d, ast.Constant) and isinstance(d.value, bool)}
            assert flags <= FLAGS, f"{name}:{f.name}"


def test_no_catch_all_module():
    assert not {path.name for path in FILES.values()} & {"utils.py", "helpers.py", "misc.py", "common.py"}


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by name alone, so the second of two equal names would not run."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert len(names) == len(set(names))
