"""Gram: form M = X X^T once, iterate on (M, Q) by n x n products, multiply X by Q at the end or at a restart."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..iteration.protocols import First, Iteration
from ..iteration.residual import Key, Residual, finished
from ..iteration.schedule import Schedule
from ..iteration.target import Target
from ..kernels import Products
from ..kernels.products import shifted
from .restarts import margins, restarts_for

__all__ = ["Gram"]


@dataclass(frozen=True)
class Gram:
    """The polar factor as (X X^T)^(-1/2) X: cheaper than `Direct` if the matrix is clearly rectangular.

    Q tends to an inverse square root, so Q and its rounding errors grow with the condition number of X. Rounding also
    makes the smallest eigenvalues of M slightly negative, which no polynomial repairs. A restart (X <- Q X, M formed
    again, Q = I) cures both. A restart divides X by 1 + (unit roundoff) max|Q|, so that rounding lifts no singular
    value above the interval of the next step (`restarts.margins`).

    Without a restart, M in float16 gets a multiple of I that makes its eigenvalues positive (`_longest`). It is 2e-5 of
    ||M||_F for a matrix of 768 rows with even singular vectors, a tenth of the square of the least singular value that
    three deflated steps lift. In bfloat16 it would be as large as this square.

    A step multiplies M and Q by Z from the same side: M <- Z (M Z) and Q <- Z Q. Then M = (Q X)(Q X)^T for every Z, so
    the next steps correct an error of Z, as in `Direct`. With Q <- Q Z they do not: the null space of a low-rank
    matrix, where Q is largest, leaks into the result (error 2 instead of .006 at rank 1, 192 x 768, in float32). Z Q is
    symmetric up to rounding, but the rounding errors of its two halves differ in size, so this product must not be
    mirrored.

    Attributes:
        restarts: Steps after which to restart, e.g. (2,). None computes them from the schedule and the unit roundoff of
            the dtype (`best_restarts`), or restarts after every second step of a method without a schedule. Given
            restarts are not checked: in half precision more than two steps without a restart may diverge.
        room: Divisor of X at each restart; None computes it at each run (`planned`).

    References:
        Polar Express, arXiv 2505.16932, Algorithm 3; the restarts of the package gram-newton-schulz.
    """

    restarts: tuple[int, ...] | None = None
    room: tuple[float, ...] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        r = self.restarts
        counts = isinstance(r, tuple) and all(type(k) is int and k >= 1 for k in r)
        if r is not None and not (counts and list(r) == sorted(set(r))):
            raise ValueError(
                f"restarts must be None or a tuple of rising step counts of at least 1, such as (2,) for a restart "
                f"after the second step, got {r!r}"
            )

    def planned(self, method: Iteration, dtype: torch.dtype) -> "Gram":
        """Return this engine with restarts and divisors computed, once for many runs."""
        restarts = restarts_for(method, dtype) if self.restarts is None else self.restarts
        return replace(self, restarts=restarts, room=margins(method, restarts, dtype) if restarts else ())

    targets = frozenset({"polar"})

    def run(
        self, target: Target, A: Tensor, method: Iteration, products: Products, key: Key = 0, first: First | None = None
    ) -> Tensor:
        """See `Engine.run`."""
        planned = self if self.room is not None else self.planned(method, A.dtype)
        restarts = planned.restarts or ()
        if max(restarts, default=0) >= method.steps:
            raise ValueError(f"{self!r} restarts after step {max(restarts)}, but there are {method.steps} steps")
        room = dict(zip(restarts, planned.room or (), strict=True))
        # `pending` multiplies Q instead of X, which saves a pass over X.
        X, Q, (M, pending) = A, None, (None, None) if first is None else first
        del A, first  # frees the first iterate and the first M after their use
        for k in range(method.steps):
            if Q is not None and k in restarts:
                X, Q, M, pending = _applied(_times(Q, pending) / room[k], X, products), None, None, None
            M = target.form.matrix(X, None, products) if M is None else M
            if k == 0 and not restarts and M.dtype is torch.float16:
                M.diagonal(dim1=-2, dim2=-1).add_(_longest(M), alpha=torch.finfo(M.dtype).eps / 2)
            residual = Residual(M, target.p, key, products=products)
            if finished(method, k, residual):
                break
            c, B = method.step(k, residual).split(M, products)
            Z = shifted(c, B)
            Q = Z if Q is None else _multiplied(Q, Z, X, products)
            if k + 1 < method.steps and k + 1 not in restarts:
                M = products.sym_mm(Z, products.sym_mm(M, Z))
        return X if Q is None else _applied(_times(Q, pending), X, products)

    @staticmethod
    def factor(target: Target, M: Tensor, schedule: Schedule, products: Products) -> Tensor:
        """Return Q (b, n, n) with Q X the result for a wide X, from M = X X^T (b, n, n) alone, without a restart.

        For a tall X with M = X^T X the result is X Q^T.
        """
        Q = None
        for k in range(schedule.steps):
            c, B = schedule.step(k, Residual(M, target.p, products=products)).split(M, products)
            Z = shifted(c, B)
            Q = Z if Q is None else products.mm(Z, Q)
            if k + 1 < schedule.steps:
                M = products.sym_mm(Z, products.sym_mm(M, Z))
        assert Q is not None
        return Q


def _longest(M: Tensor) -> Tensor:
    """Return the largest norm of a row of each M (b, n, n), (b, 1).

    Independent rounding errors of M, of at most u |M_ij|, have a spectral norm of about .8 u times this number.
    """
    return torch.linalg.vector_norm(M.detach(), dim=-1).amax(-1, keepdim=True)


def _times(Q: Tensor, factor: Tensor | None) -> Tensor:
    return Q if factor is None else Q * factor


def _multiplied(Q: Tensor, Z: Tensor, X: Tensor, products: Products) -> Tensor:
    """Return the next Q: Z Q for a wide X, which becomes Z Q X; Q Z for a tall X, which becomes X Q Z."""
    return products.mm(Z, Q) if X.shape[-2] <= X.shape[-1] else products.mm(Q, Z)


def _applied(Q: Tensor, X: Tensor, products: Products) -> Tensor:
    return products.mm(Q, X) if X.shape[-2] <= X.shape[-1] else products.mm(X, Q)
