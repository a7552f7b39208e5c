"""The protocol of an engine, and the two small pieces that engines share."""

from typing import Protocol

from torch import Tensor

from ..iteration.protocols import Iteration
from ..iteration.target import Target
from ..kernels import Products

__all__ = ["Engine", "gram_matrix", "shifted", "times_power", "wants_tightening"]


class Engine(Protocol):
    """Runs an iteration for the targets it can carry. A frozen value, like a method."""

    @property
    def targets(self) -> frozenset[str]:
        """Names of the targets this engine computes."""
        ...

    def run(self, target: Target, A: Tensor, method: Iteration, products: Products, key: int | Tensor = 0) -> Tensor:
        """The function `target` of each matrix of A.

        Args:
            target: One of `targets`.
            A: (b, m, n) with spectral norm at most 1.
            method: Says which step comes next.
            products: The matrix products to use.
            key: Chooses the sketches of methods that use any: an integer or a 0-d integer tensor.

        Returns:
            (b, m, n), in the dtype of A.
        """
        ...


def wants_tightening(method: Iteration, k: int) -> bool:
    """Whether X and M are to be divided by M's norm before step k (`schatten.tightened`)."""
    return k == 0 and getattr(method, "norm", "frobenius") == "schatten4"


def gram_matrix(X: Tensor, products: Products) -> Tensor:
    """X X^T or X^T X, whichever is smaller. No copy is made to turn a tall X into a wide one."""
    return products.syrk(X if X.shape[-2] <= X.shape[-1] else X.mT)


def shifted(c: float | Tensor, B: Tensor) -> Tensor:
    """C I + B, for a fresh B that nobody else holds (it is overwritten)."""
    diagonal = B.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(c.squeeze(-1) if isinstance(c, Tensor) else c)
    return B


def times_power(M: Tensor, Z: Tensor, p: int, products: Products) -> Tensor:
    """M Z^p for commuting symmetric M, Z, by repeated squaring: floor(log2 p) + popcount(p) symmetric products."""
    while True:
        if p % 2:
            M = products.sym_mm(M, Z)
        p //= 2
        if p == 0:
            return M
        Z = products.sym_mm(Z, Z)
