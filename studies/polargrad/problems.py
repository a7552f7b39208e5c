"""The matrix problems of PolarGrad with their data: quadratic regression, logistic regression, low-rank completion.

Every matrix is drawn in the order given from torch's generator on the CPU, seeded with 42, in float32, and only then
converted: the data are the same in every dtype. The start is drawn after seeding anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

__all__ = ["Completion", "Logistic", "Problem", "Quadratic"]

SEED = 42


class Problem(Protocol):
    """The interface of a problem: parameters, their gradient, and the objective."""

    parameters: list[nn.Parameter]

    def gradients(self) -> None:
        """Write the gradient at the parameters into their .grad."""

    def objective(self) -> float:
        """The figure that the tables show, in float64."""
        ...


def generator() -> torch.Generator:
    """A generator at the seed of all data."""
    return torch.Generator().manual_seed(SEED)


def normal(source: torch.Generator, m: int, n: int) -> Tensor:
    """The next m x n standard normal matrix."""
    return torch.randn(m, n, generator=source)


def start(source: torch.Generator, m: int, n: int, dtype: torch.dtype) -> nn.Parameter:
    """The next m x n parameter, uniform on [-1, 1)."""
    return nn.Parameter(torch.empty(m, n).uniform_(-1, 1, generator=source).to(dtype))


class Quadratic:
    """f(X) = ||A X B - C||_F^2 / 2 with A 1000 x 500, B 100 x 250, X 500 x 100. The objective is f(X) - f*.

    The gap is ||A (X - X*) B||_F^2 / 2, which does not lose digits against f* = 1e5.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Draw the data; `dtype` is the dtype of X and of the products for its gradient."""
        source = generator()
        A, B, C = normal(source, 1000, 500), normal(source, 100, 250), normal(source, 1000, 250)
        self.data = A.to(dtype), B.to(dtype), C.to(dtype)
        A, B, C = A.double(), B.double(), C.double()
        self.left, self.right = A.T @ A, B @ B.T
        self.optimum = torch.linalg.solve(self.left, A.T @ C @ B.T) @ torch.linalg.inv(self.right)
        self.least = 0.5 * float((A @ self.optimum @ B - C).square().sum())
        self.parameters = [start(generator(), 500, 100, dtype)]

    @property
    def curvatures(self) -> tuple[float, float]:
        """The greatest and the least eigenvalue of the Hessian, L and mu."""
        left, right = torch.linalg.eigvalsh(self.left), torch.linalg.eigvalsh(self.right)
        return float(left[-1] * right[-1]), float(left[0] * right[0])

    def gradients(self) -> None:
        """A^T (A X B - C) B^T. In float64 with the Gram matrices multiplied out, a tenth of the work."""
        [X] = self.parameters
        if X.dtype is torch.float64:
            X.grad = self.left @ (X.detach() - self.optimum) @ self.right
        else:
            A, B, C = self.data
            X.grad = A.T @ ((A @ X.detach() @ B - C) @ B.T)

    def objective(self) -> float:
        """f(X) - f*."""
        error = self.parameters[0].detach().double() - self.optimum
        return 0.5 * float((error * (self.left @ error @ self.right)).sum())

    def newton(self) -> Tensor:
        """The Newton direction (A^T A)^-1 G (B B^T)^-1, from factors made in float64."""
        if not hasattr(self, "factors"):
            self.factors = torch.linalg.cholesky(self.left), torch.linalg.cholesky(self.right)
        [X] = self.parameters
        assert X.grad is not None
        half = torch.cholesky_solve(X.grad.double(), self.factors[0])
        return torch.cholesky_solve(half.T, self.factors[1]).T.to(X.dtype)


class Logistic:
    """f(X) = sum log(1 + exp(-C o (A X B))) over 1000 of the 10000 rows, with new rows for each gradient.

    A 10000 x 1000, B 100 x 400, X 1000 x 100, C = +1 where a standard normal exceeds 1/2 (31 % of the entries), else
    -1. The objective is the sum over all rows, divided by 10: what a batch has on average.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Draw all data in `dtype`."""
        source = generator()
        A, B, C = normal(source, 10000, 1000), normal(source, 100, 400), normal(source, 10000, 400)
        self.A, self.B, self.C = A.to(dtype), B.to(dtype), ((C > 0.5).to(dtype) * 2 - 1)
        again = generator()
        self.parameters = [start(again, 1000, 100, dtype)]
        self._batches = again

    def gradients(self) -> None:
        """The gradient over the next 1000 rows, drawn with replacement."""
        [X] = self.parameters
        rows = torch.randint(0, 10000, (1000,), generator=self._batches)
        A, C = self.A[rows], self.C[rows]
        margins = C * (A @ X.detach() @ self.B)
        X.grad = A.T @ ((-C * torch.sigmoid(-margins)) @ self.B.T)

    def objective(self) -> float:
        """A tenth of the loss over all rows."""
        [X] = self.parameters
        return float(softplus(-self.C * (self.A @ X.detach() @ self.B)).sum(dtype=torch.float64)) / 10


class Completion:
    """f(X, Y) = ||mask o (X Y^T - M)||_F^2 / #mask with M = U V^T of rank 5, 500 x 250, and 30 % of it seen.

    The objective is f.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Draw all data in `dtype`."""
        source = generator()
        U, V = normal(source, 500, 5), normal(source, 250, 5)
        self.mask = (torch.rand(500, 250, generator=source) < 0.3).to(dtype)
        self.matrix, self.seen = U.to(dtype) @ V.to(dtype).T, float(self.mask.sum())
        again = generator()
        self.parameters = [start(again, 500, 5, dtype), start(again, 250, 5, dtype)]

    def gradients(self) -> None:
        """Both gradients, at the same point."""
        X, Y = (p.detach() for p in self.parameters)
        defect = self._defect() * (2 / self.seen)
        self.parameters[0].grad, self.parameters[1].grad = defect @ Y, defect.T @ X

    def objective(self) -> float:
        """f(X, Y)."""
        return float(self._defect().square().sum(dtype=torch.float64)) / self.seen

    def error(self) -> float:
        """||X Y^T - M||_F / ||M||_F, over all entries, unseen ones included."""
        X, Y = (p.detach() for p in self.parameters)
        return float(torch.linalg.matrix_norm(X @ Y.T - self.matrix) / torch.linalg.matrix_norm(self.matrix))

    def _defect(self) -> Tensor:
        X, Y = (p.detach() for p in self.parameters)
        return self.mask * (X @ Y.T - self.matrix)


def spectra(parameters: Sequence[Tensor]) -> tuple[float, float]:
    """kappa_2 and nuclear norm of the first parameter's gradient, by singular values in float64; infinite for NaN."""
    gradient = parameters[0].grad
    assert gradient is not None
    if not bool(torch.isfinite(gradient).all()):
        return float("inf"), float("inf")
    s = torch.linalg.svdvals(gradient.double())
    return float(s[0] / s[-1]), float(s.sum())
