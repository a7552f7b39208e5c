"""Traced: the boundary inside a step under torch.compile.

A step checks groups, sorts parameters, makes plans from them and counts steps. torch.compile would follow all of it in
Python, and would compile anew when a number changes. So this part of the step runs as it is, with AdamW, and the part
that computes directions and moves weights is traced, as one graph for all buckets.
"""

from typing import TYPE_CHECKING

import torch

from .matrices.padding import padded_shape

if TYPE_CHECKING:
    from .optimizer import MatrixOptimizer, Stacked

__all__ = ["ready"]


@torch._disable_dynamo  # pyright: ignore -- torch.compiler.disable would import the compiler now
def ready(optimizer: "MatrixOptimizer") -> "Stacked":
    """All of a step that is not traced. Returns the stacks for `MatrixOptimizer.move_all`.

    The stacks are returned, so that the traced part does not reach gradients through the optimizer. torch.compile
    assumes that such gradients always lie in the same memory, and would compile anew at each step.

    Plans, state and cached properties are made here, so that the traced part finds them.

    Raises:
        RuntimeError: If processes share parameters, or the optimizer has ``graph=True``.
    """
    optimizer.check()
    if optimizer.graph or optimizer.spread:
        what = (
            "graph=True. Leave graph out" if optimizer.graph else "the exchange between processes. Call step() as it is"
        )
        raise RuntimeError(f"{type(optimizer).__name__}: torch.compile cannot follow {what}.")
    optimizer.refresh()
    for run in (run for bucket in optimizer.buckets for run in bucket.runs):
        kinds = optimizer.kinds(run.slots[0].shape, run.options)
        for key in (key for key, kind in kinds.items() if kind != "counter"):
            run.prepared[key] = run.views(key)
        _ = run.where
    for bucket in optimizer.buckets:
        bucket.places(torch.empty(bucket.shape, device="meta"))
        for name, rule in {(run.options["scale"], run.options["rule"]) for run in bucket.runs}:
            bucket.factors.setdefault(name, optimizer.scale_of(rule, name)(*bucket.shape[1:]))
    groups = [group for group in optimizer.param_groups if group["rule"] == "adamw"]
    optimizer.rest.step(groups, optimizer.state)
    optimizer.prepare()
    for lender, together in optimizer.together:
        _, m, n = padded_shape(together)
        for rule in lender.chain[1:]:
            rule.ready((m, n), together[0].dtype, together[0].device)
    return optimizer.together
