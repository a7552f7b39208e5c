"""Coupled: the root and the inverse root of a symmetric positive definite matrix, side by side."""

from dataclasses import dataclass

from torch import Tensor

from ..iteration.protocols import First, Iteration
from ..iteration.residual import Key, Residual, finished
from ..iteration.target import Target
from ..kernels import Products
from ..kernels.products import shifted

__all__ = ["Coupled"]


@dataclass(frozen=True)
class Coupled:
    """(Y, Z) <- (Y q(M)^(p-1), q(M) Z) with M = Z Y, from (A, I) to (A^(1/p), A^(-1/p)).

    Each step forms M from the pair, so each factor corrects the error of the other: the Jacobian of the map at its
    fixed point is idempotent for every p (p = 2 is the classical coupled Newton-Schulz iteration). The order of the
    factors matters: with Z q(M) in place of q(M) Z the iteration is unstable. For p = 1, Y stays A.
    """

    targets = frozenset({"sqrt", "inv_sqrt", "root", "inv_root"})

    def run(
        self, target: Target, A: Tensor, method: Iteration, products: Products, key: Key = 0, first: First | None = None
    ) -> Tensor:
        """See `Engine.run`."""
        Y, Z = A, None
        inverse = target.homogeneity < 0
        for k in range(method.steps):
            last = k + 1 == method.steps  # forms only the factor that is returned
            M = Y if Z is None else products.sym_mm(Z, Y)
            residual = Residual(M, target.p, key, products=products)
            if finished(method, k, residual):
                break
            c, B = method.step(k, residual).split(M, products)
            q = shifted(c, B)
            if not (last and inverse):
                Y = times_power(Y, q, target.p - 1, products)
            if not last or inverse:
                Z = q if Z is None else products.sym_mm(q, Z)
        return target.result(Y, A if Z is None else Z)  # zero steps: A already equals I


def times_power(M: Tensor, Z: Tensor, p: int, products: Products) -> Tensor:
    """M Z^p for commuting symmetric M, Z, by repeated squaring: floor(log2 p) + popcount(p) symmetric products."""
    while True:
        if p % 2:
            M = products.sym_mm(M, Z)
        p //= 2
        if p == 0:
            return M
        Z = products.sym_mm(Z, Z)
