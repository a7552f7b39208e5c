"""A small method that looks at the matrix: it holds open the place that adaptive methods have in the suite."""

from dataclasses import dataclass

from matfn import NewtonSchulz, Polynomial
from matfn.iteration.residual import Residual


@dataclass(frozen=True)
class Damped:
    """Newton-Schulz, each matrix damped by how far it still is from the goal: q <- q / (1 + gain r / (1 + r)).

    Attributes:
        gain: How much to damp.
        steps: How many steps.
        invariant: It asks for nothing but invariants of M, so that on matrices of known spectrum it does what it does
            on the diagonal one; a method that draws a sketch could not say so.
    """

    gain: float = 0.1
    steps: int = 6
    invariant: bool = True

    def step(self, k: int, residual: Residual) -> Polynomial:
        """A quintic with coefficients of shape (b, 1, 1), in the dtype of M."""
        r = residual.norm()
        factor = (1 / (1 + self.gain * r / (1 + r)))[:, None, None].to(residual.M.dtype)
        row = NewtonSchulz(steps=1).schedule(residual.p).rows[0]
        return Polynomial(tuple(c * factor for c in row.coefficients))
