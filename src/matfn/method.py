"""The protocols of a method: it has a schedule, it looks before each step, or it evaluates the function outright."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from .residual import Residual
from .schedule import Schedule
from .step import Step
from .target import Target

__all__ = ["Evaluation", "Iteration", "Method", "Scheduled"]


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
        """The step number k = 0, 1, ..., for the exponent `residual.p`."""
        ...


@runtime_checkable
class Evaluation(Protocol):
    """A method that computes the function by a decomposition."""

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """The function `target` of each matrix of A, (b, m, n) in float32 or float64."""
        ...


Method = Scheduled | Iteration | Evaluation
