"""README and the pages of docs/: Python blocks run, links, anchors and images exist, the API has every public name.

The blocks of a page run in order, in one namespace and in an empty folder. A title says which ones are different, and
readers see it: `title="needs dion"` runs where dion is installed; `title="not run in the tests: why"` must only
compile.
"""

import importlib
import re
import runpy
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r'^```(python|py)\b(?: title="([^"]*)")?([^\n]*)\n(.*?)^```', re.DOTALL | re.MULTILINE)
NOT_RUN = "not run in the tests: "
PUBLIC = ("matfn", "matfn.optim", "matfn.optim.rules", "matfn.methods", "matfn.engines", "matfn.kernels")


def name_of(page):
    return str(page.relative_to(ROOT))


def prose(page):
    """The text of a page without its blocks of code and its code in a line, where nothing is a link."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def sorted_blocks(page):
    """The blocks that run here, and the modules that others need and that are missing."""
    running, missing = [], []
    for language, title, rest, code in FENCE.findall(page.read_text()):
        where = f"{name_of(page)}: {code[:60]!r}"
        assert not rest.strip(), f"a Python block has no options but title: {where}"
        if language == "py" or title.startswith(NOT_RUN):
            shown_elsewhere = page.name == "README.md" or page.parent.name == "migration"
            assert title or shown_elsewhere, f'say why it does not run, by title="{NOT_RUN}...": {where}'
            compile(code, str(page), "exec")
            continue
        needed = title.removeprefix("needs ").split(", ") if title else []
        assert not title or title.startswith("needs "), f"a title of a Python block is no free text: {where}"
        if absent := [module for module in needed if find_spec(module) is None]:
            missing += absent
        else:
            running.append(code)
    return running, missing


@pytest.mark.parametrize("page", [page for page in PAGES if FENCE.search(page.read_text())], ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    running, missing = sorted_blocks(page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    exec(compile("\n".join(running), str(page), "exec"), {"__name__": "__main__"})
    if page.parent.name == "tutorials":
        saved = [path.name for path in tmp_path.iterdir()]
        assert saved == [f"{page.stem}.png"], "a tutorial saves one figure, with the name of the page"
        assert f"](../assets/figures/{page.stem}.png)" in page.read_text()
    if missing:
        pytest.skip(f"blocks that need {', '.join(sorted(set(missing)))} were left out")


def anchors(page):
    """The anchors of the headings of a page, as mkdocs makes them."""
    found, text = [], re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        found.append(f"{slug}_{found.count(slug)}" if slug in found else slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_images_lead_somewhere(page):
    """Anchors that no heading makes, such as those of the API, are checked by `make docs`."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?(?:\s[^)]*)?\)", prose(page)):
        path = page.parent / target if target else page
        assert path.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{name_of(page)} links to {target}#{anchor}; {target} has {anchors(path)}"


def test_every_page_is_in_the_navigation():
    """And no page twice."""
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    listed = re.findall(r"(\S+\.md)$", nav, re.MULTILINE)
    there = [str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS) and "assets" not in page.parts]
    assert sorted(listed) == sorted(there)


def test_the_api_reference_has_every_public_name():
    """Each name of `__all__` is on one page, under the first of the modules above that has it; and no other is."""
    listed = re.findall(r"^::: (\S+)$", "\n".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.MULTILINE)
    assert len(listed) == len(set(listed))
    found = []
    for text in listed:
        module, _, name = text.rpartition(".")
        found.append(id(getattr(importlib.import_module(module), name)))
    for module in map(importlib.import_module, PUBLIC):
        for name in module.__all__:
            there = f"{module.__name__}.{name}" in listed or id(getattr(module, name)) in found
            assert there, f"docs/api lacks {module.__name__}.{name}"
            value = getattr(module, name)
            assert isinstance(value, ModuleType | dict) or (getattr(value, "__doc__", None) or "").strip(), name


def test_the_site_asks_no_other_host():
    """Scripts, styles and fonts come with the site; only a click on a link leaves it."""
    config = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in config
    assert "http" not in re.sub(r"#.*", "", config)
    for path in DOCS.joinpath("assets").rglob("*"):
        if path.suffix in (".css", ".js", ".svg"):
            hosts = set(re.findall(r"https?://([\w.-]+)", path.read_text()))
            assert hosts <= {"www.w3.org"}, path  # names of XML, never fetched
    style = (DOCS / "assets/katex/katex.min.css").read_text()
    fonts = {font.name for font in (DOCS / "assets/katex/fonts").iterdir()}
    assert set(re.findall(r"url\(fonts/([^)]+)\)", style)) == fonts


def test_the_figures_have_one_command():
    """Every figure of docs/assets/figures is one that docs/figures.py draws."""
    drawn = {"index.png"} | {f"{page.stem}.png" for page in (DOCS / "tutorials").glob("*.md")}
    assert {figure.name for figure in (DOCS / "assets/figures").iterdir()} == drawn
    assert callable(runpy.run_path(str(DOCS / "figures.py"))["index"])
