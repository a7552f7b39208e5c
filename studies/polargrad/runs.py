"""One run of an algorithm on a matrix problem: every k steps the objective, and the spectrum of the true gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch.optim.lr_scheduler import StepLR

from matfn import Exact, Tuned
from matfn.iteration.protocols import Method
from matfn.optim import Muon, PolarGrad
from studies.polargrad.oracles import TruncatedQDWH
from studies.polargrad.problems import Completion, Problem, Quadratic, spectra

__all__ = ["ORACLES", "Arm", "Trace", "follow", "optimizer"]

ORACLES: dict[str, Method] = {"exact": Exact(), "QDWH@2": TruncatedQDWH(2), "NS@5": Tuned("jordan")}
EVERY = 25  # steps between two falls of a decayed rate, in all problems
LOST = 1e3  # times the objective at the start: no run recovers from there


@dataclass(frozen=True)
class Arm:
    """An algorithm with its rate, on a problem.

    Attributes:
        rule: "polargrad", "momentum-first", "polar-first", "heavy-ball", "muon", "adam", "newton" or "alternating".
        lr: Of the algorithm's own definition; that of PolarGrad has the units of 1 / curvature.
        steps: How many.
        oracle: A key of `ORACLES`, for the rules that take a polar factor.
        momentum: For the rules that have one.
        decay: What the rate is multiplied by every 25 steps; 1 keeps it.
        double: Whether everything is float64; the paper's runs are float32.
    """

    rule: str
    lr: float
    steps: int
    oracle: str = ""
    momentum: float = 0.0
    decay: float = 1.0
    double: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters and the gradients."""
        return torch.float64 if self.double else torch.float32

    @property
    def label(self) -> str:
        """Rule, oracle, rate."""
        momentum = f" {self.momentum:g}" if self.momentum and self.rule != "muon" else ""
        parts = (_NAMES[self.rule] + momentum, self.oracle, f"lr {self.lr:g}", "decay" if self.decay < 1 else "")
        return ", ".join(part for part in parts if part)

    def cut(self, steps: int) -> Arm:
        """The same, for so many steps at most."""
        return replace(self, steps=min(steps, self.steps))


_NAMES = {
    "polargrad": "PolarGrad",
    "momentum-first": "PolarGradM momentum-first",
    "polar-first": "PolarGradM polar-first",
    "heavy-ball": "PolarGradM heavy-ball",
    "muon": "Muon",
    "adam": "Adam",
    "newton": "Newton",
    "alternating": "alternating GD",
}


@dataclass
class Trace:
    """The measurements after `steps[i]` steps: the objective, and kappa_2 and nuclear norm of the gradient.

    Attributes:
        lost: The step at which the gradient was not finite, or the objective seen to be a thousand times that of the
            start; None if never.
        error: The relative error of the completed matrix at the end, where there is one.
    """

    label: str
    steps: list[int] = field(default_factory=list)
    objective: list[float] = field(default_factory=list)
    condition: list[float] = field(default_factory=list)
    nuclear: list[float] = field(default_factory=list)
    lost: int | None = None
    error: float | None = None
    seconds: float = 0.0

    def at(self, k: int) -> float:
        """The objective after k steps; infinite if the run diverged before, NaN if it was not measured."""
        if self.lost is not None and k >= self.lost:
            return math.inf
        return self.objective[self.steps.index(k)] if k in self.steps else math.nan


def follow(problem: Problem, arm: Arm, looks: Callable[[int], bool]) -> Trace:
    """Run an arm from the problem's start.

    Args:
        problem: Fresh, in the arm's dtype; its parameters are moved.
        arm: What to run.
        looks: After which numbers of steps to look; 0 and the last are looked at in any case.

    Returns:
        The trace, up to the step where the run was lost if it was.
    """
    trace, step, begun = Trace(arm.label), stepper(problem, arm), time.perf_counter()
    for k in range(arm.steps + 1):
        problem.gradients()
        if not all(bool(torch.isfinite(p.grad).all()) for p in problem.parameters if p.grad is not None):
            trace.lost = k
            break
        if k in (0, arm.steps) or looks(k):
            value = problem.objective()
            if not value <= LOST * (trace.objective[0] if k else value):
                trace.lost = k
                break
            condition, nuclear = spectra(problem.parameters)
            trace.steps.append(k)
            trace.objective.append(value)
            trace.condition.append(condition)
            trace.nuclear.append(nuclear)
        if k < arm.steps:
            step()
    trace.error = problem.error() if isinstance(problem, Completion) and trace.lost is None else None
    trace.seconds = time.perf_counter() - begun
    return trace


def stepper(problem: Problem, arm: Arm) -> Callable[[], None]:
    """One step of an arm from the gradients that the problem has written, and of its rate."""
    if arm.rule == "newton":
        assert isinstance(problem, Quadratic)
        return lambda: _move(problem.parameters[0], problem.newton(), arm.lr)
    if arm.rule == "alternating":
        return lambda: _alternate(problem, arm.lr)
    members = optimizer(problem.parameters, arm)
    schedule = StepLR(members, EVERY, arm.decay)

    def step() -> None:
        members.step()
        schedule.step()

    return step


def optimizer(parameters: list[torch.nn.Parameter], arm: Arm) -> torch.optim.Optimizer:
    """The arm's optimizer: matfn's for the matrix rules, torch's Adam.

    Muon is the paper's baseline: Nesterov's momentum 0.95, no factor for the shape, no decay.
    """
    if arm.rule == "adam":
        return torch.optim.Adam(parameters, lr=arm.lr)
    method = ORACLES[arm.oracle]
    if arm.rule == "muon":
        return Muon(parameters, lr=arm.lr, momentum=arm.momentum, scale=lambda m, n: 1.0, method=method)
    if arm.rule == "polargrad":
        return PolarGrad(parameters, lr=arm.lr, variant="vanilla", method=method)
    return PolarGrad(parameters, lr=arm.lr, variant=arm.rule, momentum=arm.momentum, method=method)


@torch.no_grad()
def _move(parameter: torch.Tensor, direction: torch.Tensor, lr: float) -> None:
    parameter.sub_(direction, alpha=lr)


def _alternate(problem: Problem, lr: float) -> None:
    """Gradient descent on one parameter after the other, each at the point the others have reached."""
    for index, parameter in enumerate(problem.parameters):
        if index:
            problem.gradients()
        assert parameter.grad is not None
        _move(parameter, parameter.grad, lr)
