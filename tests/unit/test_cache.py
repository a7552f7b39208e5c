"""The coefficient cache on disk: exactness, keys, damage, interruption, places it cannot write."""

import json
from dataclasses import replace

import pytest

from matfn.minimax import Request, cached_rows
from matfn.minimax import cache as cache_module
from matfn.minimax.composition import compose

REQUEST = Request(2, (5,) * 5, 1e-3, None, 1.01)
QUICK = Request(2, (3, 3), 1e-2, 0.0, 1.0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache directory, and nothing remembered in memory."""
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path / "cache"))
    cached_rows.cache_clear()
    yield tmp_path / "cache"
    cached_rows.cache_clear()


@pytest.fixture
def composed(monkeypatch):
    """The requests that were really computed."""
    requests = []

    def counting(request):
        requests.append(request)
        return compose(request)

    monkeypatch.setattr("matfn.minimax.composition.compose", counting)
    return requests


def again(request):
    """As a new process would: nothing in memory."""
    cached_rows.cache_clear()
    return cached_rows(request)


def test_the_same_process_computes_once_and_reads_nothing(folder, composed, monkeypatch):
    rows = cached_rows(REQUEST)
    monkeypatch.setattr(cache_module, "_read", lambda *_: pytest.fail("a file was read"))
    assert cached_rows(REQUEST) is rows
    assert composed == [REQUEST]


def test_every_double_survives_exactly(folder, composed):
    requests = [
        REQUEST,
        Request(3, (9, 7, 3), 1e-300, None, 1.01),
        Request(8, (13,) * 3, 5e-324, 0.0, 1.0),
        Request(2, (5,) * 10, 0.1, 0.02, 1.0, 1.02),
    ]
    for request in requests:
        first = cached_rows(request)
        assert again(request) == first == compose(request)
    assert composed == requests, "each was computed once, and read the second time"


def test_every_field_of_the_request_is_part_of_the_key(folder, composed):
    variants = [
        REQUEST,
        replace(REQUEST, p=3),
        replace(REQUEST, degrees=(5, 5, 5, 5, 3)),
        replace(REQUEST, lower=1.0000000000000002e-3),
        replace(REQUEST, cushion=0.02),
        replace(REQUEST, safety=1.02),
        replace(REQUEST, inner_safety=1.01),
    ]
    assert len({cached_rows(v) for v in variants}) == len(variants)
    assert len(list(folder.iterdir())) == len(composed) == len(variants)
    for v in variants:
        assert again(v) == compose(v)
    assert len(composed) == len(variants)


def damaged(text):
    content = json.loads(text)
    content["body"]["rows"][0]["q"][0] += 1e-9
    other = json.loads(text)
    other["body"]["key"]["p"] = 7
    return {
        "empty": "",
        "truncated": text[: len(text) // 2],
        "garbage": "\x00\xff not json",
        "other json": "[1, 2, 3]",
        "a number": "3",
        "no body": json.dumps({"sha256": "0"}),
        "body is text": json.dumps({"sha256": "0", "body": "x"}),
        "too deep": "[" * 200_000,
        "one coefficient changed": json.dumps(content),
        "another key, old checksum": json.dumps(other),
    }


@pytest.mark.parametrize("kind", damaged('{"body": {"rows": [{"q": [1.0]}], "key": {}}}'))
def test_a_damaged_file_is_recomputed_and_replaced(folder, composed, kind):
    expected = cached_rows(QUICK)
    (file,) = folder.iterdir()
    good = file.read_bytes()
    file.write_bytes(damaged(good.decode())[kind].encode("latin-1"))
    assert again(QUICK) == expected
    assert len(composed) == 2
    assert file.read_bytes() == good, "the damaged file was replaced"
    assert again(QUICK) == expected
    assert len(composed) == 2, "and is read from then on"


def test_a_file_of_another_request_or_version_is_not_believed(folder, composed, monkeypatch):
    cached_rows(QUICK)
    cached_rows(REQUEST)
    one, two = sorted(folder.iterdir())
    swapped = one.read_bytes(), two.read_bytes()
    one.write_bytes(swapped[1])
    two.write_bytes(swapped[0])
    assert again(QUICK) == compose(QUICK)
    assert again(REQUEST) == compose(REQUEST)
    assert len(composed) == 4
    monkeypatch.setattr(cache_module, "_VERSION", cache_module._VERSION + 1)
    assert again(QUICK) == compose(QUICK)
    assert len(composed) == 5
    assert len(list(folder.iterdir())) == 3, "the old version keeps its own file"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
def test_an_error_between_write_and_replace_leaves_nothing(folder, monkeypatch, error):
    def failing(source, target):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "replace", failing)
        if isinstance(error, OSError):
            assert cached_rows(QUICK) == compose(QUICK), "the coefficients are there, only not stored"
        else:
            with pytest.raises(type(error)):
                cached_rows(QUICK)
    assert list(folder.iterdir()) == []
    assert again(QUICK) == compose(QUICK)
    assert len(list(folder.iterdir())) == 1


def test_a_directory_that_cannot_be_made_costs_a_recomputation(tmp_path, monkeypatch, composed):
    # Below a regular file: permissions would not stop the superuser.
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        assert again(QUICK) == compose(QUICK)
    assert len(composed) == 2
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_in_the_place_of_the_file(folder, composed):
    cached_rows(QUICK)
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    assert again(QUICK) == compose(QUICK)
    assert [f.name for f in folder.iterdir()] == [file.name], "no temporary file is left"


def test_where_the_files_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path / "named"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_module.directory() == tmp_path / "named"
    monkeypatch.delenv("MATFN_CACHE_DIR")
    assert cache_module.directory() == tmp_path / "xdg" / "matfn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_module.directory() == tmp_path / "home" / ".cache" / "matfn"


def test_a_user_without_a_home_has_no_cache_and_no_error(monkeypatch, composed):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MATFN_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache_module.Path, "expanduser", homeless)
    assert again(QUICK) == compose(QUICK)
    assert composed == [QUICK]
    cached_rows.cache_clear()
