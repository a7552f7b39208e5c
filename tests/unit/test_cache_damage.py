"""Files of the coefficient cache that look right and are not: wrong or odd numbers, and what is no file at all."""

import hashlib
import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from matfn.minimax import GridRequest, Request, cached_rows
from matfn.minimax import cache as cache_module
from matfn.minimax.composition import compose, tabulate
from matfn.minimax.verify import trusted
from matfn.run.machine import _stored

REQUEST = Request(2, (5,) * 5, 1e-3, None, 1.01)
TABLE = GridRequest(2, 2, -37.0, 4.0)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The stored file of REQUEST, with nothing remembered in memory."""
    monkeypatch.setenv("MATFN_CACHE_DIR", str(tmp_path / "cache"))
    cached_rows.cache_clear()
    cached_rows(REQUEST)
    cached_rows.cache_clear()
    yield next((tmp_path / "cache").iterdir())
    cached_rows.cache_clear()


def rewrite(file, change):
    """Change the body of a stored file, and give it the checksum of the changed body."""
    body = json.loads(file.read_text())["body"]
    change(body["rows"])
    text = json.dumps(body, sort_keys=True)
    file.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body}))


def setter(row, key, value):
    return lambda rows: rows[row].__setitem__(key, value)


CHANGES = {
    "wrong by a third": lambda rows: rows[0]["q"].__setitem__(0, rows[0]["q"][0] * 1.3),
    "wrong in the ninth digit": lambda rows: rows[3]["q"].__setitem__(1, rows[3]["q"][1] * (1 + 1e-9)),
    "all scaled": lambda rows: rows[2].__setitem__("q", [1.001 * c for c in rows[2]["q"]]),
    "another interval": setter(1, "interval", [1e-3, 1.0]),
    "a step of another schedule": lambda rows: rows.__setitem__(1, rows[2]),
    "steps in another order": lambda rows: rows.reverse(),
    "one step less": lambda rows: rows.pop(),
    "one step more": lambda rows: rows.append(rows[-1]),
    "no step": lambda rows: rows.clear(),
    "called converged": setter(0, "converged", True),
    "a number for a flag": setter(0, "converged", 1),
    "NaN": lambda rows: rows[0]["q"].__setitem__(0, float("nan")),
    "infinity": lambda rows: rows[0]["q"].__setitem__(2, float("inf")),
    "huge": lambda rows: rows[0]["q"].__setitem__(2, 1e300),
    "a whole number of 4000 digits": lambda rows: rows[0]["q"].__setitem__(0, int("9" * 4000)),
    "text": setter(0, "q", ["3.4", "-4.7", "2.0"]),
    "text in place of a list": setter(0, "q", "abc"),
    "none": setter(0, "q", None),
    "too short": lambda rows: rows[0]["q"].pop(),
    "too long": lambda rows: rows[0]["q"].append(0.0),
    "a row that is text": lambda rows: rows.__setitem__(0, "row"),
    "an interval of text": setter(0, "interval", ["0", "1"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_wrong_numbers_under_a_right_checksum_are_computed_again(file, change):
    good = file.read_bytes()
    rewrite(file, change)
    assert file.read_bytes() != good
    assert cached_rows(REQUEST) == compose(REQUEST)
    assert file.read_bytes() == good, "the file was replaced"


def fifo(path):
    os.mkfifo(path)


PLACES = {
    "a pipe": fifo,
    "a folder": lambda path: path.mkdir(),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a file of 5 MB": lambda path: path.write_bytes(b" " * 5 * 2**20),
    "deep lists": lambda path: path.write_text("[" * 100_000),
    "a number of 5000 digits": lambda path: path.write_text("9" * 5000),
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES.keys())
def test_what_is_no_file_of_the_cache_costs_a_computation_and_no_more(file, make):
    file.unlink()
    make(file)
    assert cached_rows(REQUEST) == compose(REQUEST)


def test_a_planted_link_is_replaced_and_its_target_is_left_alone(file, tmp_path):
    (tmp_path / "mine").write_text("mine")
    file.unlink()
    file.symlink_to(tmp_path / "mine")
    assert cached_rows(REQUEST) == compose(REQUEST)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not file.is_symlink()


def test_a_link_to_a_good_file_is_followed(file, tmp_path, monkeypatch):
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved)
    monkeypatch.setattr(cache_module, "_computed", lambda request: pytest.fail("computed again"))
    cached_rows(REQUEST)


REQUESTS = [
    replace(REQUEST, p=p, degrees=degrees, lower=lower, cushion=cushion, safety=safety, inner_safety=inner)
    for p, degrees, lower, cushion, safety, inner in (
        (1, (3, 5, 7), 0.1, None, 1.0, 1.0),
        (2, (13,) * 3, 5e-324, 0.0, 1.01, 1.0),
        (3, (9, 9, 9, 5), 1e-8, 0.02, 1.0, 1.02),
        (4, (5,) * 9, 0.9, None, 1.01, 1.02),  # ends with steps that are 1 within rounding
        (8, (15, 3), 1e-3, 0.5, 1.0, 1.0),
        (2, (5,) * 4, 1 - 1e-9, None, 1.01, 1.0),
    )
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"p={r.p}, {r.degrees}, {r.lower}")
def test_right_rows_are_trusted_and_a_changed_digit_is_seen(request_):
    """A thousandth of a coefficient is far above the rounding of all of them."""
    rows, draw = compose(request_), random.Random(0)
    assert trusted(request_, rows)
    for number, row in enumerate(rows):
        place = draw.randrange(len(row.coefficients))
        q = list(row.coefficients)
        q[place] *= 1.001
        assert not trusted(request_, (*rows[:number], replace(row, coefficients=tuple(q)), *rows[number + 1 :]))


def test_tables_are_verified_too():
    rows = tabulate(TABLE)
    assert trusted(TABLE, rows)
    assert not trusted(TABLE, rows[:-1])
    assert not trusted(TABLE, rows[1:])
    assert not trusted(replace(TABLE, limit=3), rows)
    assert not trusted(replace(TABLE, spacing=4.1), rows)
    for number in range(0, len(rows), 3):
        q = tuple(np.array(rows[number].coefficients) * (1, 1 + 1e-9, 1))
        assert not trusted(TABLE, (*rows[:number], replace(rows[number], coefficients=q), *rows[number + 1 :]))


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES.keys())
def test_times_of_a_machine_are_read_from_files_alone(tmp_path, make):
    path = tmp_path / "machine-0.json"
    make(path)
    assert _stored(path, "a key") is None
