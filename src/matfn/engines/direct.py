"""Direct: apply q to the iterate and rebuild M from it. Self-correcting, and the reference for the other engines."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..iteration.protocols import Iteration, finished
from ..iteration.residual import Form, Residual
from ..iteration.target import Target
from ..kernels import Products
from ..run.schatten import tightened
from .engine import gram_matrix, wants_tightening

__all__ = ["Direct"]

_FORM = {"polar": Form.GRAM, "sign": Form.SQUARE, "inv": Form.PRODUCT}


@dataclass(frozen=True)
class Direct:
    """X <- q(M) X with M rebuilt from X at each step; for a tall X, X <- X q(X^T X).

    | target | X_0 | M     | limit of X |
    |--------|-----|-------|------------|
    | polar  | A   | X X^T | U          |
    | sign   | A   | X X   | sign(A)    |
    | inv    | A^T | X A   | A^-1       |

    A step with q of degree k costs one product for M, `Polynomial.products` for q(M) and one to apply it. Rounding
    errors of one step are seen by the next, which is why this form is stable in bfloat16.
    """

    @property
    def targets(self) -> frozenset[str]:
        """Polar factor, sign, inverse."""
        return frozenset({"polar", "sign", "inv"})

    def run(self, target: Target, A: Tensor, method: Iteration, products: Products, key: int | Tensor = 0) -> Tensor:
        """See `Engine.run`."""
        X, second = (A.mT, A) if target.name == "inv" else (A, None)
        del A  # else the first iterate would be held to the end
        for k in range(method.steps):
            M = partial(_rebuilt, target, X, second, products)  # steps that act on X alone never ask for it
            if wants_tightening(method, k):
                factor, M = tightened(M(), target.p)
                X = X * factor
            residual = Residual(M, target.p, key, _FORM[target.name], products)
            if finished(method, k, residual):
                break
            X = method.step(k, residual).apply(X, residual, products)
        return X


def _rebuilt(target: Target, X: Tensor, A: Tensor | None, products: Products) -> Tensor:
    match target.name:
        case "polar":
            return gram_matrix(X, products)
        case "sign":
            return products.mm(X, X)
        case "inv" if A is not None:
            return products.mm(X, A)
    raise ValueError(f"the direct engine cannot compute {target}")
