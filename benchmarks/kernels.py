"""The kernels that the speed benchmark compares on a CPU, by name, and the products that a plan asks of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import matfn
from matfn.engines.cost import computed, products_of
from matfn.engines.restarts import restarts_for
from matfn.iteration.schedule import Schedule
from matfn.kernels import EAGER, ONEDNN, Blocked, Products
from matfn.kernels.onednn import onednn_runs
from matfn.kernels.products import Plain

__all__ = ["HEIGHTS", "count_of", "kernels", "plain_kernels"]

HEIGHTS = (96, 128, 192, 256, 384)  # of a block row


def plain_kernels(dtype: torch.dtype) -> dict[str, Plain]:
    """The kernels of full products that run here: torch's own, and oneDNN's in float32."""
    found: dict[str, Plain] = {"eager": EAGER}
    if dtype == torch.float32 and onednn_runs():
        found["onednn"] = ONEDNN
    return found


def kernels(shape: tuple[int, int], dtype: torch.dtype, heights: Sequence[int] = HEIGHTS) -> dict[str, Products]:
    """The kernels that run here on such matrices, by name: full products, and blocked ones that have two rows.

    The Triton kernels need a CUDA device; see `python -m studies.tune` for what is said of them elsewhere.
    """
    plains = plain_kernels(dtype)
    found: dict[str, Products] = dict(plains)
    fitting = [rows for rows in heights if min(shape) >= 2 * rows]
    for name, plain in plains.items():
        prefix = "" if plain == EAGER else f"{name} "
        found |= {f"{prefix}blocked {rows}": Blocked(rows, plain) for rows in fitting}
    return found


def count_of(schedule: Schedule, engine: Any, kernel: Products, shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Multiply-adds that one matrix takes: the products of the engine, and the three of deflation, n x m by k columns.

    Those are in float32 whatever the dtype, and are counted like the others.
    """
    if isinstance(engine, matfn.Gram) and engine.restarts is None:
        engine = matfn.Gram(restarts_for(schedule, dtype))
    thin = 3 * int(schedule.preparation.deflation * min(shape)) * shape[0] * shape[1]
    return thin + sum(computed(product, kernel) for product in products_of(schedule, engine, shape))
