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
from matfn.iteration.target import POLAR
from matfn.run.machine import machine
from matfn.run.plan import Purpose, resolve

__all__ = ["STEPS", "cases"]

STEPS = 20
SHAPES = ((160, 512), (384, 128), (160, 160), (48, 96))
ITERATING = ("Muon", "NorMuon", "AdaMuon")  # in half precision where the plan takes it
FORCED = "cuda-sm90"  # the profile that a run without a GPU compares the CPU's own with
# Two runs round alike but for the order of sums, which changes few of the roundings of a step; ten times the effect of
# one rounding of every entry of every gradient is more. Where float32 is ill-conditioned, as in an eigenbasis, both are
# off from float64, so twice as far from each other. Beyond half of the way nothing is equal.
_GRADIENT, _PRECISION, _MOST = 10.0, 3.0, 0.5
_FACTORED = 100.0  # QDWH takes Cholesky factors of matrices up to this condition number, which multiplies roundings
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

    "error" is the distance between the device and the CPU, both with the device's plan. Allowed is ten times what a
    rounding of the gradients does on the CPU, in the precision of the iteration; for optimizers that work in float32
    also three times what that precision does, the distance to float64. "own_plan" is the distance to the CPU with its
    own plan: rounding if all devices take the same polynomials.
    """
    shapes = place.pick(SHAPES, ((48, 96), (40, 40)))
    profile = machine(torch.device(place.device)).name if place.cuda else FORCED
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) / 8 for i, shape in enumerate(shapes)]
    run = partial(_run, OPTIMIZERS[name], start, place.pick(STEPS, 8))
    own = run("cpu")
    with on_machine(profile):
        unit = torch.finfo(_precision(name)).eps / 2
        cpu, rounded = run("cpu"), run("cpu", rounding=unit)
        wide = cpu if name in ITERATING else run("cpu", dtype=torch.float64)
    device = run(place.device)
    rows = []
    for i, shape in enumerate(shapes):
        moved = torch.linalg.matrix_norm(cpu[i] - start[i].double())
        apart = [(torch.linalg.matrix_norm(w[i] - cpu[i]) / moved).item() for w in (device, rounded, wide, own)]
        floor = unit if name in ITERATING else _FACTORED * unit
        allowed = min(_GRADIENT * (apart[1] + floor) + _PRECISION * apart[2], _MOST)
        row: Row = {"optimizer": name, "shape": shape, "error": apart[0], "allowed": allowed, "own_plan": apart[3]}
        row |= {"gradients_rounded": apart[1], "float32_alone": apart[2], "profile": profile}
        # Without a GPU the device is the CPU with its own plan, which differs by more than rounding: nothing to check.
        rows.append(row | ({"passed": apart[0] <= allowed} if place.cuda else {}))
    return rows


def _precision(name: str) -> torch.dtype:
    """The dtype in which the optimizer's iteration rounds, by the plan of the machine that is named."""
    if name not in ITERATING:
        return torch.float32
    plan = resolve(POLAR, None, (256, 256), torch.float32, torch.device("cpu"), purpose=Purpose.STEP)
    return plan.precision


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
