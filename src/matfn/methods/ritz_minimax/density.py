"""Density: an estimate of the spectrum of M by Lanczos quadrature, on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import which
from ...iteration.residual import Form, Residual
from ...linalg.lanczos import lanczos
from ...linalg.tridiagonal import eigen

__all__ = ["Density", "check_symmetric", "density"]


@dataclass(frozen=True)
class Density:
    """A discrete estimate of the spectrum of each matrix: tr f(M)/n is about the sum of weights f(nodes).

    Attributes:
        nodes: (b, k), float64, not negative.
        weights: (b, k), with sum 1.
        least: (b,), the least Ritz value; up to rounding not below the least eigenvalue.
        greatest: (b,), the greatest Ritz value; up to rounding not above the greatest eigenvalue.
    """

    nodes: Tensor
    weights: Tensor
    least: Tensor
    greatest: Tensor


def density(residual: Residual, columns: int, depth: int, draw: int) -> Density:
    """Estimate the spectrum by the mean of Gauss and Gauss-Radau quadrature over Lanczos steps from random vectors.

    For functions whose derivatives keep their signs, the errors of the two rules have opposite signs. The node of
    Gauss-Radau at 0 holds the weight of eigenvalues that are too small for Gauss: small ones and exact zeros. Each of
    the `depth` steps is one product with the `columns` vectors of sketch number `draw`. The first step of an iteration
    has draw 0. For the sign it refuses a nonsymmetric M, because Lanczos steps say nothing about its eigenvalues.

    References:
        Golub, Meurant, "Matrices, Moments and Quadrature with Applications" (2010), Chapter 6. Ubaru, Chen, Saad, "Fast
        estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal. Appl. 38 (2017).
    """
    b = residual.M.shape[0]
    if residual.form is Form.SQUARE and draw == 0:
        check_symmetric(residual.wide, residual.roundoff)
    S = residual.sketch(columns, draw).expand(b, -1, -1)
    T = lanczos(residual.product, S, depth).to(torch.float64)
    # LAPACK refuses NaN. Replace it here, so that the other matrices continue; the iterate of the matrix keeps its NaN.
    T = torch.where(torch.isfinite(T).all(-1).all(-1)[..., None, None], T, 0.0)
    inner, share = eigen(T[..., :depth, :depth])
    outer, weights = eigen(T)
    # The least eigenvalue of T is 0. Drop it: no step can lift an exact zero.
    nodes = torch.cat([inner, outer[..., 1:]], -1).flatten(1).clamp(min=0)
    weights = torch.cat([share, weights[..., 1:]], -1).flatten(1)
    held = share > 1e-24  # the padding of an exhausted Krylov space is no Ritz value
    least = torch.where(held, inner, torch.inf).flatten(1).amin(-1).clamp(min=0)
    greatest = torch.where(held, inner, 0.0).flatten(1).amax(-1)
    return Density(nodes, weights / weights.sum(-1, keepdim=True), least, greatest)


def check_symmetric(M: Tensor, roundoff: float) -> None:
    """Refuse a nonsymmetric A by its first M = A A. Reads one flag, for the sign only.

    With the unit roundoff u, a product of norm-1 matrices has rounding errors of about n^(1/2) u, and ||M||_F is at
    least n^(-1/2). The M of later steps is not checked: for an ill-conditioned A it differs from its transpose by more,
    u times the condition number.
    """
    asymmetry = torch.linalg.matrix_norm(M - M.mT) > roundoff**0.5 * torch.linalg.matrix_norm(M)
    if bool(asymmetry.any()):
        raise ValueError(
            f"signm by RitzMinimax needs symmetric matrices, because it takes Lanczos steps, but {which(asymmetry)} is "
            "nonsymmetric: take PolarExpress(...), NewtonSchulz(...) or Exact()"
        )
