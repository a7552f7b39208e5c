"""Looks: steps that a method found by looking at a matrix, kept as state of the matrix until the next look.

`RitzMinimax(every=k)` looks at every k-th step of a parameter. Between two looks an iteration has no Lanczos steps, no
choice, and no value read from the device. Which steps look depends on the number of the step alone, as for Shampoo's
roots; matrices of one stack may differ in it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...methods import RitzMinimax
from ...methods.ritz_minimax.kept import Kept, Looking, due
from ...run.execute import execute
from ...run.plan import RunPlan
from ..matrices.buckets import Kind, Run

__all__ = ["LOOKS", "kept_factor", "looks_kinds"]

LOOKS = "looks"


def looks_kinds(method: RitzMinimax) -> dict[str, Kind]:
    """The state of each matrix: the coefficients of all steps, and the counter of steps."""
    return {"step": "counter", LOOKS: (len(method.degrees) * (max(method.degrees) + 1), 1, 1)}


def kept_factor(plan: RunPlan, method: RitzMinimax, stack: Tensor, runs: Sequence[Run], out: Tensor) -> Tensor:
    """Write the polar factor of each matrix of the stack ``(b, m, n)`` to `out`, which may be the stack.

    Args:
        plan: The run plan of the method.
        method: Looks at every so many steps.
        stack: The matrices.
        runs: The parts of the stack, with the state.
        out: ``(b, m, n)``.
    """
    shape = len(method.degrees), max(method.degrees) + 1
    for now, group in itertools.groupby(runs, lambda run: due(run.step, method.every)):
        some = list(group)
        where = slice(some[0].where.start, some[-1].where.stop)
        if now:
            like = some[0].views(LOOKS)[0]
            rows = torch.zeros(where.stop - where.start, *shape, dtype=like.dtype, device=like.device)
            out[where] = execute(replace(plan, iteration=Looking(method, rows)), stack[where])
            for run in some:
                run[LOOKS] = rows[run.where.start - where.start : run.where.stop - where.start].flatten(1)[
                    ..., None, None
                ]
        else:
            rows = torch.cat([run[LOOKS] for run in some]).view(-1, *shape)
            kept = Kept(method, rows, torch.finfo(plan.precision).eps / 2)
            out[where] = execute(replace(plan, iteration=kept), stack[where])
    return out
