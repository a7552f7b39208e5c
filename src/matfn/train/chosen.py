"""Chosen: the machine that was found, and the precision in which each optimizer works there, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from matfn.run.machine import machine
from matfn.train.recipe import OptimizerTable

if TYPE_CHECKING:
    from matfn.optim import MatrixOptimizer
    from matfn.run.plan import RunPlan

__all__ = ["Choice", "choice_of", "found", "torch_muon_dtype"]


@dataclass(frozen=True)
class Choice:
    """In which precision the matrix function of an optimizer is computed.

    Attributes:
        arm: The optimizer's label.
        precision: "bfloat16" or "float32"; both, with a comma, where shapes differ.
        reason: Why, as one clause.
        replaced: Whether the optimizer works in another precision elsewhere, whatever its options.
    """

    arm: str
    precision: str
    reason: str
    replaced: bool = False

    @property
    def name(self) -> str:
        """The label for a table: with the precision where that is not the optimizer's own."""
        return f"{self.arm}, in {self.precision}" if self.replaced else self.arm

    def __str__(self) -> str:
        return f"{self.arm} iterates in {self.precision}: {self.reason}"


def found(device: torch.device) -> str:
    """The profile of the machine and what it describes."""
    profile = machine(device)
    return f"{profile.name} ({profile.kind})"


def torch_muon_dtype(device: torch.device) -> torch.dtype:
    """The dtype for the steps of torch's Muon: float32 where bfloat16 is slower than float32."""
    return machine(device).narrow


def choice_of(table: OptimizerTable, members: Sequence[torch.optim.Optimizer], device: torch.device) -> Choice | None:
    """The precision of an arm and the reason; None for an optimizer without a matrix function, such as AdamW.

    Args:
        table: The arm.
        members: Its optimizers, as `make_optimizers` makes them.
        device: Where they run.
    """
    from matfn.optim import MatrixOptimizer

    if table.kind == "torch-muon":
        return _torch_muon(table, device)
    plans = [plan for one in members if isinstance(one, MatrixOptimizer) for plan in _plans(one)]
    reasons = {_short(plan.precision): dict(plan.reasons)["precision"] for plan in plans if plan.engine is not None}
    return Choice(table.label, ", ".join(reasons), "; ".join(dict.fromkeys(reasons.values()))) if reasons else None


def _torch_muon(table: OptimizerTable, device: torch.device) -> Choice:
    profile, dtype = machine(device), torch_muon_dtype(device)
    if dtype == torch.bfloat16:
        return Choice(table.label, "bfloat16", "torch.optim.Muon always does")
    measured = f": {profile.half.where}" if profile.half else ""
    reason = f"torch.optim.Muon's bfloat16 is slow on {profile.name}{measured}"
    return Choice(table.label, _short(dtype), reason, replaced=True)


def _plans(optimizer: MatrixOptimizer) -> Iterator[RunPlan]:
    """The run plans of the polar factors and roots that an optimizer computes."""
    from matfn.optim import Shampoo
    from matfn.optim.matrices.buckets import working_dtype
    from matfn.optim.rules.nuclear import Nuclear
    from matfn.optim.rules.polar import Polar

    if isinstance(optimizer, Shampoo):
        yield from optimizer.root_choices().values()
    for rule in optimizer.chain:
        polar = rule.polar if isinstance(rule, Nuclear) else rule
        if isinstance(polar, Polar):
            for parameter, layout in optimizer.layouts.items():
                for _, m, n in layout.matrices:
                    yield polar.plan((m, n), working_dtype(parameter), parameter.device)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
