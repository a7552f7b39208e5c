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
from torch._compile import _disable_dynamo

from ...methods import RitzMinimax
from ...methods.ritz_minimax.kept import Kept, Looking, due
from ...run.execute import execute_
from ...run.plan import RunPlan
from ..matrices.buckets import Kind, Run

__all__ = ["LOOKS", "kept_factor_", "looks_kinds"]

LOOKS = "looks"


def looks_kinds(method: RitzMinimax) -> dict[str, Kind]:
    """The state of each matrix: the coefficients of all steps, and the counter of steps."""
    return {"step": "counter", LOOKS: (len(method.degrees) * (max(method.degrees) + 1), 1, 1)}


@_disable_dynamo  # a compiled step would be compiled again for each number of the step
def kept_factor_(plan: RunPlan, method: RitzMinimax, stack: Tensor, runs: Sequence[Run]) -> None:
    """Compute the polar factor of each matrix of the stack ``(b, m, n)`` in place.

    Args:
        plan: The run plan of the method.
        method: Looks at every so many steps.
        stack: The matrices, float32 or float64.
        runs: The parts of the stack, with the state.
    """
    shape = len(method.degrees), max(method.degrees) + 1
    for now, group in itertools.groupby(runs, lambda run: due(run.step, method.every)):
        some = list(group)
        where = slice(some[0].where.start, some[-1].where.stop)
        if now:
            like = some[0].views(LOOKS)[0]
            rows = torch.zeros(where.stop - where.start, *shape, dtype=like.dtype, device=like.device)
            execute_(replace(plan, iteration=Looking(method, rows)), stack[where])
            for run in some:
                own = rows[run.where.start - where.start : run.where.stop - where.start]
                run[LOOKS] = own.reshape(len(own), -1, 1, 1)
        else:
            rows = torch.cat([run[LOOKS] for run in some]) if len(some) > 1 else some[0][LOOKS]
            kept = Kept(method, rows.view(-1, *shape), torch.finfo(plan.precision).eps / 2)
            execute_(replace(plan, iteration=kept), stack[where])
