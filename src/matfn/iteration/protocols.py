"""Protocols of a method (schedule, iteration or evaluation) and of the engine that runs it."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..kernels import Products
from .residual import Key, Residual
from .schedule import Schedule
from .step import Step
from .target import Target

__all__ = ["Engine", "Evaluation", "First", "Fitted", "Iteration", "Method", "Scheduled", "Summed"]


@runtime_checkable
class Scheduled(Protocol):
    """A method whose steps are known before the matrix. Engines run its `Schedule` as the iteration."""

    def schedule(self, p: int = 2) -> Schedule:
        """Return all steps for exponent p."""
        ...


@runtime_checkable
class Iteration(Protocol):
    """A method that may look at the residual before it chooses the next step."""

    @property
    def steps(self) -> int:
        """The number of steps."""
        ...

    def step(self, k: int, residual: Residual) -> Step:
        """Return step number k = 0, 1, ... for the exponent `residual.p`.

        A method that may end early also has `done(k, residual) -> bool`. It is asked before each step and may wait for
        the device.
        """
        ...


@runtime_checkable
class Evaluation(Protocol):
    """A method that computes the function by a decomposition."""

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """Return the function `target` of each matrix of A, (b, m, n) in float32 or float64."""
        ...


@runtime_checkable
class Summed(Protocol):
    """An evaluation in float64 that takes A + ridge I without rounding it to the dtype of A."""

    def evaluate_sum(self, target: Target, A: Tensor, eps: float) -> Tensor:
        """Return the function `target` of each sum A, (b, n, n) in float64.

        `eps` is the machine epsilon of the dtype that A had before the ridge was added.
        """
        ...


@runtime_checkable
class Fitted(Protocol):
    """A scheduled method that may look at the matrix once to choose its schedule; the accurate verbs allow this."""

    def fitted(self, target: Target, A: Tensor) -> Scheduled:
        """Return the method for A, (b, m, n) of norm 1, in float32 at least; may wait for the device."""
        ...


Method = Scheduled | Iteration | Evaluation


First = tuple[Tensor, Tensor]


class Engine(Protocol):
    """Runs an iteration for the targets that it can carry. A frozen value, like a method."""

    @property
    def targets(self) -> frozenset[str]:
        """Names of the targets that this engine computes."""
        ...

    def run(
        self, target: Target, A: Tensor, method: Iteration, products: Products, key: Key = 0, first: First | None = None
    ) -> Tensor:
        """Return the function `target` of each matrix of A.

        Args:
            target: One of `targets`.
            A: (b, m, n) with spectral norm at most 1.
            method: Chooses the steps.
            products: The matrix products to use.
            key: Selects the sketches of methods that use any.
            first: The first M, if the preparation has formed it, and the factor (b, 1, 1) by which A must still be
                multiplied to match this M.

        Returns:
            (b, m, n), in the dtype of A.
        """
        ...
