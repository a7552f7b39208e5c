"""The polar oracle that PolarGrad's published learning rates were tuned with: QDWH cut off after so many steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matfn.iteration.target import Target

__all__ = ["TruncatedQDWH"]


@dataclass(frozen=True)
class TruncatedQDWH:
    """QDWH from the lower bound eps, stopped early and polished once: no polar factor, and that is the point.

    The schedule begins at l = eps of the dtype, whatever the matrix, so two steps are spent on lifting what is not
    there: a Gaussian 500 x 100 matrix ends with singular values in [0.81, 1.00] in float32 and [0.12, 0.24] in float64.
    A learning rate tuned with it is larger than one for the exact factor by up to the square of that.

    Attributes:
        steps: How many, before the polishing step X (3 I - X^T X) / 2. 2 is what the published rates were tuned with.

    References:
        Lau, Long, Su, "PolarGrad", arXiv:2505.21799. Nakatsukasa, Bai, Gygi, SIAM J. Matrix Anal. Appl. 31 (2010).
    """

    steps: int = 2

    def evaluate(self, target: Target, A: Tensor) -> Tensor:
        """What stands in for the polar factor of each matrix of A, (b, m, n); zero for zero.

        Raises:
            ValueError: For another function than the polar factor.
        """
        if target.name != "polar":
            raise ValueError(f"TruncatedQDWH stands in for the polar factor alone, not for {target.name}")
        if A.shape[-2] < A.shape[-1]:
            return self.evaluate(target, A.mT).mT
        norm = (torch.linalg.matrix_norm(A, 1) * torch.linalg.matrix_norm(A, torch.inf)).sqrt()[:, None, None]
        X = A / torch.where(norm > 0, norm, 1.0)
        lower = torch.finfo(A.dtype).eps
        for _ in range(self.steps):
            X, lower = _step(X, lower)
        return 1.5 * X - 0.5 * X @ (X.mT @ X)


def _step(X: Tensor, lower: float) -> tuple[Tensor, float]:
    """X (a + b X^T X) (I + c X^T X)^-1 with the weights for singular values in [lower, 1], and the new lower bound."""
    d = (4 * (1 - lower**2) / lower**4) ** (1 / 3)
    a = (1 + d) ** 0.5 + (2 - d + 2 * (2 - lower**2) / (lower**2 * (1 + d) ** 0.5)) ** 0.5
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device).expand(X.shape[0], -1, -1)
    if c > 100:
        Q = torch.linalg.qr(torch.cat([c**0.5 * X, eye], dim=-2)).Q
        lifted = Q[:, : X.shape[-2]] @ Q[:, X.shape[-2] :].mT / c**0.5
    else:
        factor = torch.linalg.cholesky(eye + c * X.mT @ X)
        lifted = torch.cholesky_solve(X.mT, factor).mT
    return b / c * X + (a - b / c) * lifted, lower * (a + b * lower**2) / (1 + c * lower**2)
