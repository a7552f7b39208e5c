"""Orthogonalization of stacks: time, eager and as a CUDA graph, beside the error; methods, products and peers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Work, in_turns, wait
from benchmarks.gpu_parts.spectra import errors, spread_out
from benchmarks.gpu_parts.variants import KINDS, METHODS, PEERS, products, stack_work

__all__ = ["STACKS", "cases", "contenders", "first_calls", "measured"]

STACKS = (
    (12, 768, 3072), (8, 2048, 8192), (8, 2048, 2048), (2, 4096, 11008), (100, 64, 64), (12, 768, 768),
)  # fmt: skip


def cases(place: Place) -> list[Case]:
    """A case for each stack."""
    stacks = place.pick(STACKS, ((2, 96, 160), (3, 32, 32)))
    return [Case(text(stack), partial(_rows, stack)) for stack in stacks]


def first_calls(place: Place) -> list[Case]:
    """The same contenders without times, beside other parts: kernels that compile are on disk when they are timed."""
    stacks = place.pick(STACKS, ((2, 96, 160),))
    return [Case(text(stack), partial(_first, stack)) for stack in stacks]


def _first(stack: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    X, sigma = spread_out(stack, bench.place.device)
    for name, ours in contenders(bench.place).items():
        begun = time.perf_counter()
        try:
            bench.attempt(name, partial(_prepared, name, ours, X, sigma, bench.place))
        except Skipped:
            continue  # the part that times it says why
        yield {"stack": stack, "name": name, "first_seconds": time.perf_counter() - begun}


def text(stack: tuple[int, int, int]) -> str:
    """As in the tables: 12 x 768 x 3072."""
    return " x ".join(str(side) for side in stack)


def contenders(place: Place) -> dict[str, tuple[str, str] | None]:
    """Names, and method and products of those that are not peers; peers first: what all others are compared with."""
    ours = {f"{method}, {kind}": (method, kind) for method in METHODS for kind in KINDS}
    return {**dict.fromkeys(PEERS), **ours}


def _rows(stack: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    X, sigma = spread_out(stack, bench.place.device)
    works: dict[str, Work] = {}
    facts: dict[str, Row] = {}
    for name, ours in contenders(bench.place).items():
        try:
            works[name], facts[name] = bench.attempt(name, partial(_prepared, name, ours, X, sigma, bench.place))
        except Skipped as why:
            yield {"stack": stack, "name": name, "skipped": str(why)}
    yield from measured(works, facts, bench, {"stack": stack})


def measured(works: dict[str, Work], facts: dict[str, Row], bench: Bench, beside: Row) -> Iterator[Row]:
    """Rows of contenders timed in turns, eager and as graphs; the speed is relative to the first one."""
    notes: dict[str, Row] = {}
    graphs: dict[str, Work] = {}
    for name, work in works.items():
        try:
            graphs[name] = bench.graph(name, work)
        except Skipped as why:
            notes[name] = {"graph_note": str(why)}
    eager, replayed = in_turns(works, bench.place), in_turns(graphs, bench.place)
    base = next(iter(works), "")
    for name, times in eager.items():
        row = {**beside, "name": name, **facts[name], **times.row("seconds"), **notes.get(name, {})}
        if name in replayed:
            row |= replayed[name].row("graph_seconds")
            if base in replayed:
                row |= {"relative_to": base, **replayed[name].ratio(replayed[base])}
        yield row


def _prepared(name: str, ours: tuple[str, str] | None, X: Tensor, sigma: Tensor, place: Place) -> tuple[Work, Row]:
    """A contender after its first call, which compiles, with the errors of the result."""
    if ours is None:
        try:
            work, facts = PEERS[name](X, place), {}
        except ModuleNotFoundError as error:
            raise Skipped(f"not installed ({error})") from error
    else:
        method, kind = ours
        work, facts = stack_work(X, method, products=products(kind, place))
    U = work()
    wait(place)
    return work, {**facts, **errors(U, X, sigma)}
