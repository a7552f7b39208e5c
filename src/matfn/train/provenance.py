"""Where and with what a result was made: versions, machine, threads, revision, and the precision of each optimizer."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import torch

import matfn
from matfn.optim import MatrixOptimizer, Shampoo
from matfn.optim.matrices.buckets import working_dtype
from matfn.optim.rules.nuclear import Nuclear
from matfn.optim.rules.polar import Polar
from matfn.run.machine import machine
from matfn.run.plan import RunPlan
from matfn.train import TrainError, processes
from matfn.train.recipe import OptimizerTable

__all__ = ["Choice", "choice_of", "conditions", "found"]


def conditions(device: torch.device) -> dict[str, str]:
    """Facts to record beside every number. Nothing is read from the network or the environment's variables."""
    facts = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "matfn": matfn.__version__ + _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores seen",
        "processes": str(processes.count()),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "profile of the machine": found(device),
        "float32 products": torch.get_float32_matmul_precision(),
    }
    if hasattr(os, "getloadavg"):
        facts["load at the end"] = f"{os.getloadavg()[0]:.1f} runnable tasks (1 min)"
    return facts


def found(device: torch.device) -> str:
    """Name and description of the machine's profile.

    Raises:
        TrainError: MATFN_MACHINE names no profile.
    """
    try:
        profile = machine(device)
    except ValueError as error:
        raise TrainError(str(error)) from None
    return f"{profile.name} ({profile.kind})"


def _revision() -> str:
    """`, revision abc1234` and, for a modified checkout, `, changed`; empty outside a git checkout."""
    root = Path(matfn.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        changed = ", changed" if git("status", "--porcelain", "-uno") else ""
        return f", revision {git('rev-parse', '--short=10', 'HEAD')}{changed}"
    except (OSError, subprocess.SubprocessError):  # no git, no answer of it, or none within 30 s
        return ", revision unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


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
    plans = [plan for one in members if isinstance(one, MatrixOptimizer) for plan in _plans(one)]
    reasons = {_short(plan.precision): dict(plan.reasons)["precision"] for plan in plans if plan.engine is not None}
    return Choice(table.label, ", ".join(reasons), "; ".join(dict.fromkeys(reasons.values()))) if reasons else None


def _plans(optimizer: MatrixOptimizer) -> Iterator[RunPlan]:
    """The run plans of the polar factors and roots that an optimizer computes."""
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
