"""The protocols of a method: it has a schedule, it looks before each step, or it evaluates the function outright."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from .residual import Residual
from .schedule import Schedule
from .step import Step
from .target import Target

__all__ = ["Evaluation", "Fitted", "Iteration", "Method", "Scheduled"]


@runtime_checkable
class Scheduled(Protocol):
    """A method whose steps are known before the matrix is. The `Schedule` is the iteration that engines run."""

    def schedule(self, p: int = 2) -> Schedule:
        """All steps for exponent p."""
        ...


@runtime_checkable
class Iteration(Protocol):
    """A method that may look at the residual before it says which step comes next; an engine carries the matrices."""

    @property
    def steps(self) -> int:
        """The number of steps."""
        ...

    def step(self, k: int, residual: Residual) -> Step:
        """The step number k = 0, 1, ..., for the exponent `residual.p`.

        A method that can do with fewer steps has a second function, `done(k, residual) -> bool`, which is asked before
        each step; it may wait for the device.
        """
        ...


@runtime_checkable
class Evaluation(Protocol):
    """A method that computes the function by a decomposition."""

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """The function `target` of each matrix of A, (b, m, n) in float32 or float64."""
        ...


@runtime_checkable
class Fitted(Protocol):
    """A scheduled method that may look at the matrix once and settle its schedule then; the accurate verbs let it."""

    def fitted(self, target: Target, A: Tensor) -> Scheduled:
        """The method for these matrices, (b, m, n) of norm 1, in float32 at least; it may wait for the device."""
        ...


Method = Scheduled | Iteration | Evaluation
