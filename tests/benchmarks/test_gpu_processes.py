"""The processes of benchmarks/gpu.py: crashes, hangs, broken contexts, limits, and the rows that survive them."""

import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("benchmarks.gpu_parts.processes", reason="benchmarks/ is not there: an installed package")
from benchmarks.gpu_parts.case import Case, Part, Skipped, Spoiled
from benchmarks.gpu_parts.events import Place
from benchmarks.gpu_parts.processes import Running, together

PLACE = Place("cpu", True)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run cases as a part; the children are forked, so they see the module that is made here."""

    def run(*cases, seconds=20.0, patience=60.0, place=PLACE):
        module = types.ModuleType("cases_of_this_test")
        module.cases = lambda place: list(cases)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        part = Part("part", f"{module.__name__}:cases", "About.", patience)
        running, saved = Running(part, place, time.monotonic() + seconds, tmp_path), []
        together([running], lambda name, row: None, lambda parts: saved.append([r.result() for r in parts]))
        assert saved  # at the end, however it comes
        return saved[-1][0]

    return run


def numbers(found):
    return [row["n"] for row in found["rows"]]


def counting(*ns):
    def rows(bench):
        yield from ({"n": n} for n in ns)

    return Case(f"counting {ns}", rows)


def attempting(break_it):
    """Three rows; the second is of an attempt that may cost the process its life."""

    def rows(bench):
        yield {"n": 1}
        try:
            bench.attempt("the dangerous one", break_it)
            yield {"n": 2}
        except Skipped as why:
            yield {"n": 2, "skipped": str(why)}
        yield {"n": 3}

    return Case("attempting", rows)


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def spoil():
    raise Spoiled("operation failed due to a previous error during capture")


def fail():
    raise RuntimeError("no such kernel")


def hang():
    time.sleep(1000)


def test_all_is_well(run):
    found = run(counting(1, 2), counting(3))
    assert found["ended"] == "complete"
    assert numbers(found) == [1, 2, 3]
    assert found["processes"] == 1


@pytest.mark.parametrize(
    ("break_it", "processes", "why"),
    [(crash, 2, "SIGSEGV"), (spoil, 2, "error during capture"), (hang, 2, "killed after 0.5 s"), (fail, 1, "kernel")],
)
def test_an_attempt_that_breaks_is_left_out_and_all_else_is_measured(run, break_it, processes, why):
    found = run(counting(0), attempting(break_it), counting(4), patience=0.5)
    assert found["ended"] == "complete"
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert why in found["rows"][2]["skipped"]
    assert found["processes"] == processes
    assert len(found["lost"]) == processes - 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the capture would succeed")
def test_a_failed_capture_costs_its_row_the_graph_and_nothing_else(run):
    """The rows of stacks and steps are made so: without CUDA every capture fails, and each in a process of its own."""

    def rows(bench):
        for n, name in enumerate(("one", "two")):
            try:
                bench.graph(name, lambda: None)
                yield {"n": n}
            except Skipped as why:
                yield {"n": n, "graph_note": str(why)}

    found = run(counting(7), Case("captures", rows), counting(8), place=Place("cuda", True))
    assert found["ended"] == "complete"
    assert numbers(found) == [7, 0, 1, 8]
    assert all(row["graph_note"] for row in found["rows"][1:3])
    assert list(found["lost"]) == ["captures: one, graph", "captures: two, graph"]
    assert found["processes"] == 3


def test_an_error_ends_its_case_alone(run):
    def rows(bench):
        yield {"n": 1}
        raise RuntimeError("out of memory")

    found = run(Case("broken", rows), counting(2))
    assert numbers(found) == [1, 2]
    assert "out of memory" in found["failures"][0]["failed"]
    assert "Traceback" in found["failures"][0]["traceback"]
    assert found["ended"] == "complete"


def test_a_crash_outside_an_attempt_ends_its_case_alone(run):
    def rows(bench):
        yield {"n": 1}
        crash()
        yield {"n": 2}

    found = run(Case("broken", rows), counting(3))
    assert numbers(found) == [1, 3]
    assert "SIGSEGV" in found["failures"][0]["failed"]


def test_a_part_stops_when_its_seconds_are_gone(run):
    def endless(bench):
        for n in iter(int, 1):
            time.sleep(0.01)
            yield {"n": n}

    found = run(Case("endless", endless), seconds=1.0)
    assert found["rows"]
    assert found["ended"].startswith(("stopped", "killed at its limit"))


def test_a_part_that_hangs_is_killed_at_its_limit_with_all_it_started(run, tmp_path):
    def rows(bench):
        yield {"n": 1}
        child = os.fork()
        if child == 0:
            hang()
        (tmp_path / "child").write_text(str(child))
        hang()

    start = time.monotonic()
    found = run(Case("hanging", rows), seconds=1.0)
    assert time.monotonic() - start < 15
    assert numbers(found) == [1]
    assert found["ended"] == "killed at its limit"
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # killed, and soon no longer there: another process may have to collect it
        try:
            os.kill(child, 0)
            state = Path(f"/proc/{child}/stat").read_text().split()[2]
        except (ProcessLookupError, FileNotFoundError):
            break
        if state == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the process that the part had started is still at work")


def test_a_part_that_cannot_be_imported_says_so(tmp_path):
    part = Part("part", "no_such_module:cases", "About.")
    running = Running(part, PLACE, time.monotonic() + 20, tmp_path)
    together([running], lambda name, row: None, lambda parts: None)
    assert "no_such_module" in running.ended
    assert running.processes == 1


def test_what_a_failed_process_printed_is_kept(run):
    def slow(bench):
        print("words before the end", flush=True)
        yield {"n": 1}
        hang()

    assert "words before the end" in run(Case("slow", slow), seconds=1.0)["printed"]


def test_contenders_are_timed_in_turns():
    """As many samples of each, each round starting with another one; none for nobody."""
    from benchmarks.gpu_parts.events import in_turns

    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = in_turns(works, Place("cpu", False), seconds=10.0, rounds=4)
    assert list(times) == ["a", "b", "c"]
    assert all(len(one.samples) == 4 and one.calls == 80 for one in times.values())  # 20 quick calls make a sample
    measured = calls[-3 * 80 :]
    assert [measured[i] for i in range(0, 240, 20)] == list("abcbcacababc")
    assert in_turns({}, Place("cpu", False)) == {}
    row = times["a"].row("seconds")
    assert row["seconds_quartiles"][0] <= row["seconds"] <= row["seconds_quartiles"][1]
