"""Direct: apply q to the iterate and form M from it again; self-correcting, the reference for the other engines."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..iteration.protocols import First, Iteration
from ..iteration.residual import Key, Residual, finished
from ..iteration.target import Target
from ..kernels import Products

__all__ = ["Direct"]


@dataclass(frozen=True)
class Direct:
    """X <- q(M) X with M formed from X at each step; for a tall X, X <- X q(X^T X).

    | target | X_0 | M     | limit of X |
    |--------|-----|-------|------------|
    | polar  | A   | X X^T | U          |
    | sign   | A   | X X   | sign(A)    |
    | inv    | A^T | X A   | A^-1       |

    A step with q of degree k costs one product for M, `Polynomial.products` for q(M) and one to apply it. The next step
    sees the rounding errors of this one, so this form is stable in bfloat16.
    """

    targets = frozenset({"polar", "sign", "inv"})

    def run(
        self, target: Target, A: Tensor, method: Iteration, products: Products, key: Key = 0, first: First | None = None
    ) -> Tensor:
        """See `Engine.run`."""
        X, beside = target.start(A)
        del A  # frees the first iterate after the first step
        X = X if first is None else X * first[1]
        for k in range(method.steps):
            # A function, because a step that acts on X alone never asks for M.
            M = partial(target.form.matrix, X, beside, products) if first is None else first[0]
            first = None
            residual = Residual(M, target.p, key, target.form, products)
            if finished(method, k, residual):
                break
            X = method.step(k, residual).apply(X, residual, products)
        return X
