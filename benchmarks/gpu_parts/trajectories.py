"""Trajectories: the weights of every optimizer after 20 steps on the same gradients, on the device and on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_parts.case import Bench, Case, Row, Skipped
from benchmarks.gpu_parts.contract import on_machine
from benchmarks.gpu_parts.events import Place
from benchmarks.gpu_parts.spectra import spread_out
from benchmarks.gpu_parts.variants import OPTIMIZERS
from matfn.run.machine import machine

__all__ = ["STEPS", "cases"]

STEPS = 20
SHAPES = ((256, 1024), (640, 160), (256, 256), (48, 96))
FORCED = "cuda-sm90"  # the profile that a run without a GPU compares the CPU's own with
# Two runs differ by their own roundings, so by twice what each is off; and a rounding of a gradient is one of some ten
# of equal effect in a step. Beyond half of the way nothing is equal, however much a rounding does.
_PRECISION, _GRADIENT, _MOST = 3.0, 10.0, 0.5
Weights = list[Tensor]


def cases(place: Place) -> list[Case]:
    """A case for each optimizer."""
    return [Case(name, partial(_rows, name)) for name in OPTIMIZERS]


def _rows(name: str, bench: Bench) -> Iterator[Row]:
    try:
        yield from bench.attempt("compared", lambda: _compared(name, bench.place))
    except Skipped as why:
        yield {"optimizer": name, "skipped": str(why), "passed": False}


def _compared(name: str, place: Place) -> list[Row]:
    """A row for each matrix: distances between weights, relative to how far they moved.

    "error" is the distance between the device and the CPU, both with the device's plan. Allowed are three times what
    the precision does on the CPU, and ten times what a rounding of the gradients in float32 does. What the precision
    does is the distance to iterations in float32, or, for optimizers that work in float32, to float64. "own_plan" is
    the distance to the CPU with its own plan: rounding if all devices take the same polynomials.
    """
    shapes = place.pick(SHAPES, ((48, 96), (40, 40)))
    profile = machine(torch.device(place.device)).name if place.cuda else FORCED
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) / 8 for i, shape in enumerate(shapes)]
    run = partial(_run, OPTIMIZERS[name], start, place.pick(STEPS, 8))
    own = run("cpu")
    with on_machine(profile):
        cpu, rounded = run("cpu"), run("cpu", rounding=torch.finfo(torch.float32).eps)
        wide = run("cpu", precision=torch.float32) if _iterates(name) else run("cpu", dtype=torch.float64)
    device = run(place.device)
    rows = []
    for i, shape in enumerate(shapes):
        moved = torch.linalg.matrix_norm(cpu[i] - start[i].double())
        apart = [(torch.linalg.matrix_norm(w[i] - cpu[i]) / moved).item() for w in (device, wide, rounded, own)]
        allowed = min(_PRECISION * apart[1] + _GRADIENT * (apart[2] + torch.finfo(torch.float32).eps), _MOST)
        row: Row = {"optimizer": name, "shape": shape, "error": apart[0], "allowed": allowed, "own_plan": apart[3]}
        row |= {"precision_alone": apart[1], "gradients_rounded": apart[2], "profile": profile}
        # Without a GPU the device is the CPU with its own plan, which differs by more than rounding: nothing to check.
        rows.append(row | ({"passed": apart[0] <= allowed} if place.cuda else {}))
    return rows


def _iterates(name: str) -> bool:
    """Whether the optimizer takes half precision for its iteration, and lets the caller name another one."""
    return name in ("Muon", "NorMuon", "AdaMuon")


def _run(
    build: Callable[..., torch.optim.Optimizer], start: Weights, steps: int, device: str, *, rounding: float = 0.0,
    dtype: torch.dtype = torch.float32, **options: Any,
) -> Weights:  # fmt: skip
    """The weights after some steps, in float64 on the CPU; gradients are the same in every run but for `rounding`.

    They have singular values i^-0.75 in bases that stay, as in training, and noise of a hundredth of the largest.
    """
    weights = [nn.Parameter(w.clone().to(device, dtype)) for w in start]
    lasting = [spread_out((1, w.shape[0], w.shape[1]), "cpu")[0][0] for w in start]
    optimizer = build(weights, **options)
    draw, noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    for _ in range(steps):
        for weight, signal in zip(weights, lasting, strict=True):
            gradient = signal + torch.randn(signal.shape, generator=draw) / (100 * sum(signal.shape) ** 0.5)
            gradient = gradient * (1 + rounding * torch.randn(signal.shape, generator=noise)) if rounding else gradient
            weight.grad = gradient.to(device, dtype)
        optimizer.step()
    return [weight.detach().double().cpu() for weight in weights]
