"""RitzMinimax beside a fixed schedule of as many steps: a look at every call, and in an optimizer at every k-th."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

import matfn
from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.events import Place, Work, in_turns, wait
from benchmarks.gpu_parts.spectra import errors, spread_out
from benchmarks.gpu_parts.stacks import measured
from benchmarks.gpu_parts.variants import LR, step_work
from matfn.optim import Muon

__all__ = ["EVERY", "STEPS", "cases", "ritz"]

STEPS = 4
EVERY = (1, 10)
STACKS = ((12, 768, 3072), (8, 2048, 2048), (1, 768, 3072))


def ritz(every: int) -> Any:
    """The method that looks at every k-th step of an optimizer.

    Raises:
        Skipped: If this version looks at every step alone.
    """
    if every == 1:
        return matfn.RitzMinimax(steps=STEPS)
    if "every" not in inspect.signature(matfn.RitzMinimax).parameters:
        raise Skipped("RitzMinimax has no option every")
    options: dict[str, Any] = {"every": every}
    return matfn.RitzMinimax(steps=STEPS, **options)


def cases(place: Place) -> list[Case]:
    """Per stack a call with a look, then steps of Muon with looks now and then."""
    stacks = place.pick(STACKS, ((2, 48, 64),))
    every = [Case(" x ".join(map(str, stack)), partial(_calls, stack)) for stack in stacks]
    return every + [Case(f"steps of Muon, {' x '.join(map(str, s))}", partial(_steps, s)) for s in stacks[:2]]


def _calls(stack: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    """One call each, with the same engine and precision: what the looks add."""
    X, sigma = spread_out(stack, bench.place.device)
    works: dict[str, Work] = {}
    facts: dict[str, Row] = {}
    for name, method in (("fixed", matfn.PolarExpress(steps=STEPS)), ("measured", matfn.RitzMinimax(steps=STEPS))):
        try:
            work, about = step_work(X, method, engine=matfn.Direct())
            facts[name] = {**about, **errors(bench.attempt(name, work), X, sigma)}
            works[name] = work
        except Skipped as why:
            yield {"stack": stack, "name": name, "skipped": str(why)}
    yield from measured(works, facts, bench, {"stack": stack, "looks": "at every call"})


def _steps(stack: tuple[int, int, int], bench: Bench) -> Iterator[Row]:
    """Ten steps of Muon at a time, eager: every look that is due within them is in the time."""
    builds: dict[str, Callable[[], Any]] = {"fixed": lambda: matfn.PolarExpress(steps=STEPS)}
    builds |= {f"measured, every {k}": partial(ritz, k) for k in EVERY}
    works: dict[str, Work] = {}
    for name, build in builds.items():
        try:
            works[name] = bench.attempt(name, partial(_ten, stack, build, bench.place))
        except Skipped as why:
            yield {"stack": stack, "name": name, "skipped": str(why)}
    times = in_turns(works, bench.place, rounds=9)
    for name, found in times.items():
        ratio = {"of_fixed": found.median / times["fixed"].median} if "fixed" in times else {}
        yield {"stack": stack, "looks": "in ten steps", "name": name, **found.row("ten_steps"), **ratio}


def _ten(stack: tuple[int, int, int], build: Callable[[], Any], place: Place) -> Work:
    b, m, n = stack
    weights = [nn.Parameter(torch.randn(m, n, device=place.device) / 50) for _ in range(b)]
    for weight, X in zip(weights, spread_out(stack, place.device)[0], strict=True):
        weight.grad = X
    optimizer = Muon(weights, lr=LR, method=build(), engine=matfn.Direct())

    def ten() -> None:
        for _ in range(place.pick(10, 2)):
            optimizer.step()

    ten()
    wait(place)
    return ten
