"""Where and with what a result was made: versions, machine, threads, revision, and the precision of each optimizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from matfn.optim import MatrixOptimizer
from matfn.optim.telemetry.choices import run_plans
from matfn.run.conditions import conditions as known
from matfn.run.conditions import profile_of
from matfn.run.machine import machine
from matfn.train import TrainError, processes
from matfn.train.recipe import OptimizerTable

__all__ = ["Choice", "choice_of", "conditions", "found"]


def conditions(device: torch.device) -> dict[str, str]:
    """Facts to record beside every number. Nothing is read from the network or the environment's variables."""
    found(device)  # a wrong MATFN_MACHINE is a user's mistake
    facts: dict[str, str] = {}
    for name, value in known(device).items():
        facts |= {"processes": str(processes.count())} if name == "threads" else {}
        facts[name] = value
    if hasattr(os, "getloadavg"):
        facts["load at the end"] = f"{os.getloadavg()[0]:.1f} runnable tasks (1 min)"
    return facts


def found(device: torch.device) -> str:
    """Name and description of the machine's profile.

    Raises:
        TrainError: MATFN_MACHINE names no profile.
    """
    try:
        return profile_of(device)
    except ValueError as error:
        raise TrainError(str(error)) from None


@dataclass(frozen=True)
class Choice:
    """The precision in which an optimizer computes its matrix function.

    Attributes:
        arm: The optimizer's label.
        precision: "bfloat16" or "float32"; both, with a comma, if it depends on the shape.
        reason: Why, as one clause.
        replaced: Whether the optimizer always works in another precision elsewhere.
    """

    arm: str
    precision: str
    reason: str
    replaced: bool = False

    @property
    def name(self) -> str:
        """The label for a table, with the precision if it is not the optimizer's own."""
        return f"{self.arm}, in {self.precision}" if self.replaced else self.arm

    def __str__(self) -> str:
        return f"{self.arm} iterates in {self.precision}: {self.reason}"


def choice_of(table: OptimizerTable, members: Sequence[torch.optim.Optimizer], device: torch.device) -> Choice | None:
    """The precision of an arm whose optimizers are `members`; None without a matrix function, as for AdamW."""
    if table.kind == "torch-muon":
        profile = machine(device)
        if profile.working(torch.bfloat16) == torch.bfloat16:
            return Choice(table.label, "bfloat16", "torch.optim.Muon always does")
        measured = f": {profile.half.where}" if profile.half else ""
        reason = f"torch.optim.Muon's bfloat16 is slow on {profile.name}{measured}"
        return Choice(table.label, _short(profile.narrow), reason, replaced=True)
    plans = [plan for one in members if isinstance(one, MatrixOptimizer) for plan in run_plans(one)]
    reasons = {_short(plan.precision): dict(plan.reasons)["precision"] for plan in plans if plan.engine is not None}
    return Choice(table.label, ", ".join(reasons), "; ".join(dict.fromkeys(reasons.values()))) if reasons else None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
