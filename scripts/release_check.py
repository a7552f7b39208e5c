"""Check everything that a release needs, except the upload: `make release-check`.

Version and changelog; sdist and wheel, built twice from two folders and compared byte by byte; what is in the wheel;
`twine check`; then an environment with torch alone, the wheel installed into it, README's snippets, the time of `import
matfn`, the installed size, and the errors of the commands that need an extra. The files are left in dist/.
"""

import argparse
import hashlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WHEEL_LIMIT = 600_000  # bytes
IMPORT_LIMIT = 0.3  # seconds of processor time of `import matfn` beyond `import torch`
INSIDE = re.compile(r"matfn/.*\.(py|toml|typed)|matfn_main\.py|matfn-[^/]*\.dist-info/.*")
IMPORT_TIME = "import torch, time; t = time.process_time(); import matfn; print(time.process_time() - t)"


class NotReadyError(Exception):
    """What is missing for a release."""


def run(*command: str | Path, **options: object) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # pyright: ignore
    if done.returncode:
        raise NotReadyError(f"{' '.join(map(str, command))[:200]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def version() -> str:
    """The version, if changelog, citation and tags agree with it."""
    said = re.search(r'__version__ = "(.*)"', (ROOT / "src/matfn/__init__.py").read_text())
    assert said is not None
    number = said[1]
    heading = re.search(r"^## (\S+)(.*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if heading is None or heading[1] != number:
        raise NotReadyError(f"CHANGELOG.md begins with {heading and heading[0]}, not with ## {number}")
    if "unreleased" in heading[2]:
        print(f"note: CHANGELOG.md says {heading[0]!r}; write the date there before the tag")
    if f"\nversion: {number}\n" not in (ROOT / "CITATION.cff").read_text():
        raise NotReadyError(f"CITATION.cff has another version than {number}")
    here = set(run("git", "tag", "--points-at", "HEAD", cwd=ROOT).split())  # the tag that is being checked
    tags = set(run("git", "tag", "--list", "v*", cwd=ROOT).split()) - here
    newest = max((_numbers(tag) for tag in tags), default=())
    if here and "unreleased" in heading[2]:
        raise NotReadyError(f"HEAD has the tag {', '.join(sorted(here))}, but CHANGELOG.md says {heading[0]!r}")
    if _numbers(number) <= newest:
        raise NotReadyError(f"version {number} is not newer than the tag v{'.'.join(map(str, newest[:3]))}")
    return number


def _numbers(text: str) -> tuple[int, ...]:
    """The order of a version: "v0.2.0rc1" is (0, 2, 0, -1, 1), before "0.2.0" as (0, 2, 0, 0)."""
    final, _, candidate = text.partition("rc")
    numbers = tuple(int(part) for part in re.findall(r"\d+", final))
    return (*numbers, -1, int(candidate)) if candidate else (*numbers, 0)


def build(folder: Path, revision: str) -> dict[str, str]:
    """Build a commit in a folder of its own; the SHA-256 of each file in its dist/."""
    tree = folder / "tree"
    tree.mkdir(parents=True)
    archive = folder / "tree.tar"
    run("git", "archive", "--output", archive, revision, cwd=ROOT)
    run("tar", "-xf", archive, "-C", tree)
    moment = run("git", "log", "-1", "--format=%ct", revision, cwd=ROOT).strip()
    run(sys.executable, "-m", "hatchling", "build", cwd=tree, env={**os.environ, "SOURCE_DATE_EPOCH": moment})
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((tree / "dist").iterdir())}


def check_wheel(wheel: Path) -> None:
    """Pure Python, small, and nothing but the package."""
    if not wheel.name.endswith("-py3-none-any.whl"):
        raise NotReadyError(f"{wheel.name} is not a wheel of pure Python")
    if (size := wheel.stat().st_size) > WHEEL_LIMIT:
        raise NotReadyError(f"{wheel.name} has {size} bytes, more than {WHEEL_LIMIT}")
    strange = [name for name in zipfile.ZipFile(wheel).namelist() if not INSIDE.fullmatch(name)]
    if strange:
        raise NotReadyError(f"the wheel holds {strange[:5]}")
    print(f"{wheel.name}: {size / 1000:.0f} kB")


def environment(folder: Path, wheel: Path, index: str | None) -> Path:
    """The interpreter of an environment with torch and, after it, the wheel."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    run(*pip, "torch", *(("--index-url", index) if index else ()))
    run(*pip, wheel)
    return python


def snippets() -> Iterator[str]:
    """README's blocks of Python, each a program of its own."""
    yield from re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def check_installed(python: Path, folder: Path) -> None:
    """README's snippets, import time, size, and errors that name the extra."""
    alone = {"cwd": folder, "env": {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}}
    for number, snippet in enumerate(snippets(), 1):
        run(python, "-c", snippet, **alone)
        print(f"README's snippet {number} ran")
    times = [float(run(python, "-c", IMPORT_TIME, **alone)) for _ in range(6)][1:]  # the first one compiles
    print(f"import matfn: {statistics.median(times):.2f} s of processor time beyond torch")
    if statistics.median(times) > IMPORT_LIMIT:
        raise NotReadyError(f"import matfn takes more than {IMPORT_LIMIT} s")
    where = Path(run(python, "-c", "import matfn; print(matfn.__path__[0])", **alone).strip())
    sizes = [path.stat().st_size for path in where.rglob("*.py")]
    print(f"installed: {sum(sizes) / 1e6:.1f} MB in {len(sizes)} files, without bytecode")
    for command in ("--help", "train", "compare", "coeffs", "methods", "explain", "plan"):
        done = subprocess.run([python.parent / "matfn", command], capture_output=True, text=True, cwd=folder)
        if 'pip install "matfn[train]"' not in done.stderr or "Traceback" in done.stderr:
            raise NotReadyError(f"matfn {command} without the extra `train` says\n{done.stderr[-1000:]}")
    for module in ("matfn.kernels.triton_symm", "matfn.train.drawing", "matfn.train.progress"):
        code = f"try:\n    import {module}\nexcept ImportError as error:\n    print(error)"
        if "pip install" not in (said := run(python, "-c", code, **alone)):
            raise NotReadyError(f"import {module} without its package says {said!r}")


def main() -> int:
    """Run all checks; the exit status is 1 at the first that fails."""
    options = argparse.ArgumentParser(description="Check everything that a release needs, except the upload.")
    options.add_argument("--torch-index", help="where torch comes from, as TORCH_INDEX of make")
    index = options.parse_args().torch_index
    try:
        print(f"version {version()}")
        with tempfile.TemporaryDirectory(prefix="matfn-release-") as name:
            folder = Path(name)
            revision = run("git", "rev-parse", "HEAD", cwd=ROOT).strip()
            first, second = build(folder / "one", revision), build(folder / "two", revision)
            if first != second:
                raise NotReadyError(f"two builds differ: {first} and {second}")
            shutil.rmtree(ROOT / "dist", ignore_errors=True)
            shutil.copytree(folder / "one/tree/dist", ROOT / "dist")
            wheel = next((ROOT / "dist").glob("*.whl"))
            check_wheel(wheel)
            run(sys.executable, "-m", "twine", "check", "--strict", *(ROOT / "dist").iterdir())
            check_installed(environment(folder / "clean", wheel, index), folder)
    except NotReadyError as missing:
        print(f"not ready: {missing}")
        return 1
    for file, digest in first.items():
        print(f"dist/{file}  sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
