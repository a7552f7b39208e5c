"""PartialFraction: a rational step q(m) = constant + sum_j w_j / (m + t_j), by QR, Cholesky or LU."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels import Products
from ..kernels.products import multiplied
from ..linalg.lu import inv_ex
from .residual import Form, Residual
from .step import Scalar

__all__ = ["PartialFraction"]

# Largest condition number of M + t I for Cholesky, whose error grows with it. QDWH has the same limit, as c = 1/t.
_CHOLESKY = 100.0
_TALL = 2  # rows / columns above which one QR factorization of X first makes several terms cheaper
_GRID = 400  # points a decade of m in the search for critical points; each term varies over a decade or more


@dataclass(frozen=True)
class PartialFraction:
    """q(m) = constant + sum_j w_j / (m + t_j) with positive w_j, t_j, so that the sum does not cancel.

    For the polar factor (M = X^T X, X tall) each term is computed from

        [X; sqrt(t) I] = [Q_1; Q_2] R,     X (M + t I)^-1 = Q_1 Q_2^T / sqrt(t),

    which does not square the condition number of X. If t is not small, the Cholesky factor of M + t I is as accurate
    and cheaper. For the sign (M = X X, not symmetric), X (X X + t I)^-1 is the real part of (X + i sqrt(t) I)^-1. All
    terms are one batch. Only `split` forms (M + t I)^-1, by LU; this is only as accurate as M.

    Half precision is computed in float32 and rounded once a step.

    Attributes:
        constant: A float, or a tensor (b, 1, 1) with one number per matrix.
        weights: w_1 .. w_r, positive; floats or tensors like `constant`.
        shifts: t_1 .. t_r, positive; floats or tensors like `constant`. Tensors always take the QR form, because their
            values are not read.
        lower: The step is made for singular values of X in [lower, 1]; `lower` decides between QR and Cholesky.
    """

    constant: float | Tensor
    weights: tuple[float | Tensor, ...]
    shifts: tuple[float | Tensor, ...]
    lower: float = 0.0

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.shifts):
            raise ValueError(
                f"q needs as many shifts as weights, and at least one, got {len(self.weights)} weights and "
                f"{len(self.shifts)} shifts"
            )

    def __call__(self, m: Scalar) -> Scalar:
        """Evaluate q at scalars."""
        value = 0.0 * m + self.constant
        for w, t in zip(self.weights, self.shifts, strict=True):
            value = value + w / (m + t)
        return value  # pyright: ignore[reportReturnType] -- the type of m, since it starts from m

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Return at least float32: torch has no factorizations in half precision."""
        return torch.promote_types(dtype, torch.float32)

    def critical(self, p: int, low: float, high: float) -> np.ndarray:
        """Find the sign changes of the derivative on a grid and refine them by bisection; see `Step.critical`."""

        def slope(m: np.ndarray) -> np.ndarray:
            terms = [(float(w), float(t)) for w, t in zip(self.weights, self.shifts, strict=True)]
            return np.asarray(float(self.constant) + sum(w * (t + (1 - p) * m) / (m + t) ** 2 for w, t in terms))

        decades = p * np.log10(high / low)
        m = np.geomspace(low**p, high**p, max(3, int(_GRID * decades)))
        turns = np.flatnonzero(np.diff(np.sign(slope(m))))
        left, right = m[turns], m[turns + 1]
        for _ in range(50):
            middle = (left + right) / 2
            same = np.sign(slope(middle)) == np.sign(slope(left))
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        return left ** (1 / p)

    @property
    def _well_conditioned(self) -> bool:
        """Tell whether every M + t I has a condition number up to `_CHOLESKY` for singular values in [lower, 1]."""
        return all(isinstance(t, float) and 1 + t <= _CHOLESKY * (self.lower**2 + t) for t in self.shifts)

    def split(self, M: Tensor, products: Products) -> tuple[float | Tensor, Tensor]:
        """Return the constant and sum_j w_j (M + t_j I)^-1, by LU, because M may be nonsymmetric."""
        wide = M.to(self.precision(M.dtype))
        w, t = (_stacked(values, wide) for values in (self.weights, self.shifts))
        inverse, _ = inv_ex(wide + t * _identity(wide))
        return self.constant, (w * inverse).sum(0).to(M.dtype)

    def apply(self, X: Tensor, residual: Residual, products: Products) -> Tensor:
        """Return X q(M); zero rows and columns of X stay exactly zero. See `Step.apply`."""
        match residual.form:
            case Form.GRAM:
                wide = X.to(self.precision(X.dtype))
                tall = wide if X.shape[-2] > X.shape[-1] else wide.mT
                result = self._of_gram(tall, products)
                result = (result if X.shape[-2] > X.shape[-1] else result.mT).to(X.dtype)
                live = X != 0
                return result * live.any(-1, keepdim=True) * live.any(-2, keepdim=True)
            case Form.SQUARE:
                return self._of_square(X.to(self.precision(X.dtype))).to(X.dtype)
            case Form.PRODUCT:
                return multiplied(*self.split(residual.M, products), X, products)

    def _of_gram(self, X: Tensor, products: Products) -> Tensor:
        """Return X q(X^T X) for a tall X."""
        w, t = (_stacked(values, X) for values in (self.weights, self.shifts))
        if self._well_conditioned:
            L, _ = torch.linalg.cholesky_ex(products.syrk(X.mT) + t * _identity(X))
            terms = torch.cholesky_solve(X.mT.expand(*L.shape[:2], *X.mT.shape[-2:]), L).mT
            return self.constant * X + (w * terms).sum(0)
        m, n = X.shape[-2:]
        if len(t) > 1 and m > _TALL * n:  # all terms factorize the small R
            Q, R = torch.linalg.qr(X)
            return products.mm(Q, self._by_qr(R, w, t, products))
        return self._by_qr(X, w, t, products)

    def _by_qr(self, X: Tensor, w: Tensor, t: Tensor, products: Products) -> Tensor:
        """Return X q(X^T X) from one QR factorization for each term."""
        n, root = X.shape[-1], t.sqrt()
        below = (root * _identity(X)).expand(len(t), *X.shape[:-2], n, n)
        Q, _ = torch.linalg.qr(torch.cat([X.expand(len(t), *X.shape), below], -2))
        Q = Q.flatten(0, 1)
        terms = products.mm(Q[:, :-n], Q[:, -n:].mT).unflatten(0, (len(t), -1))
        return self.constant * X + (w / root * terms).sum(0)

    def _of_square(self, X: Tensor) -> Tensor:
        """Return X q(X X) from inverses of X + i sqrt(t) I, which avoid the square of the condition number of X."""
        w, t = (_stacked(values, X) for values in (self.weights, self.shifts))
        inverse, _ = inv_ex(
            torch.complex(X.expand(len(t), *X.shape), (t.sqrt() * _identity(X)).expand(len(t), *X.shape))
        )
        return self.constant * X + (w * inverse.real).sum(0)


def _stacked(values: tuple[float | Tensor, ...], X: Tensor) -> Tensor:
    """Stack the values to (r, 1, 1, 1) for floats, (r, b, 1, 1) for tensors, in the dtype of X."""
    columns = [v if isinstance(v, Tensor) else torch.full((1, 1, 1), v, dtype=X.dtype, device=X.device) for v in values]
    return torch.stack(columns).to(X.dtype)


def _identity(X: Tensor) -> Tensor:
    return torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
