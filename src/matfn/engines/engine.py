"""The protocol of an engine, and repeated squaring."""

from typing import Protocol

from torch import Tensor

from ..iteration.protocols import Iteration
from ..iteration.target import Target
from ..kernels import Products

__all__ = ["Engine", "First", "times_power"]

First = tuple[Tensor, Tensor]


class Engine(Protocol):
    """Runs an iteration for the targets it can carry. A frozen value, like a method."""

    @property
    def targets(self) -> frozenset[str]:
        """Names of the targets that this engine computes."""
        ...

    def run(
        self,
        target: Target,
        A: Tensor,
        method: Iteration,
        products: Products,
        key: int | Tensor = 0,
        first: First | None = None,
    ) -> Tensor:
        """The function `target` of each matrix of A.

        Args:
            target: One of `targets`.
            A: (b, m, n) with spectral norm at most 1.
            method: Says which step comes next.
            products: The matrix products to use.
            key: Chooses the sketches of methods that use sketches: an integer or a 0-d integer tensor.
            first: The first M, where the preparation has formed it, and the factor (b, 1, 1) by which the iterate is
                still to be multiplied to match that M.

        Returns:
            (b, m, n), in the dtype of A.
        """
        ...


def times_power(M: Tensor, Z: Tensor, p: int, products: Products) -> Tensor:
    """M Z^p for commuting symmetric M, Z, by repeated squaring: floor(log2 p) + popcount(p) symmetric products."""
    while True:
        if p % 2:
            M = products.sym_mm(M, Z)
        p //= 2
        if p == 0:
            return M
        Z = products.sym_mm(Z, Z)
