"""Ritz: where the eigenvalues of M lie and how many of them, estimated from a few skinny products on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...iteration.residual import Form, Residual
from ...linalg.lanczos import lanczos
from ...linalg.tridiagonal import eigen

__all__ = ["Density", "density"]


@dataclass(frozen=True)
class Density:
    """A discrete stand-in for the spectrum of each matrix: tr f(M)/n is about the sum of weights times f(nodes).

    Attributes:
        nodes: (b, k), float64, not negative.
        weights: (b, k), of sum 1.
        least: (b,), the smallest Ritz value: never below the smallest eigenvalue, but for rounding.
        greatest: (b,), the greatest Ritz value: never above the greatest eigenvalue, but for rounding.
    """

    nodes: Tensor
    weights: Tensor
    least: Tensor
    greatest: Tensor


def density(residual: Residual, columns: int, depth: int, draw: int) -> Density:
    """The mean of Gauss and Gauss-Radau quadrature over Lanczos steps from random vectors.

    For functions whose derivatives keep their signs the two rules err to opposite sides. The node that the second one
    has at 0 shows what lies too far down for the first to see: a spectrum that ends, one that goes on, and exact zeros.

    Args:
        residual: Of the matrices.
        columns: Random vectors.
        depth: Lanczos steps from each, one product apiece.
        draw: Which random vectors.

    Raises:
        ValueError: If M is the square of a matrix that is not symmetric, which has no such density.

    References:
        Golub, Meurant, "Matrices, Moments and Quadrature with Applications" (2010), Chapter 6. Ubaru, Chen, Saad, "Fast
        estimation of tr(f(A)) via stochastic Lanczos quadrature", SIAM J. Matrix Anal. Appl. 38 (2017).
    """
    b = residual.M.shape[0]
    if residual.form is Form.SQUARE:
        _check_symmetric(residual.wide, residual.roundoff)
    S = residual.sketch(columns, draw).expand(b, -1, -1)
    T = lanczos(residual.product, S, depth).to(torch.float64)
    # LAPACK refuses NaN, and the NaN of one matrix is no reason to stop the others; it stays in its own iterate.
    T = torch.where(torch.isfinite(T).all(-1).all(-1)[..., None, None], T, 0.0)
    inner, share = eigen(T[..., :depth, :depth])
    outer, weights = eigen(T)
    # The least eigenvalue of T is 0; what is exactly zero no step can lift.
    nodes = torch.cat([inner, outer[..., 1:]], -1).flatten(1).clamp(min=0)
    weights = torch.cat([share, weights[..., 1:]], -1).flatten(1)
    held = share > 1e-24  # what an exhausted Krylov space is padded with is no Ritz value
    least = torch.where(held, inner, torch.inf).flatten(1).amin(-1).clamp(min=0)
    greatest = torch.where(held, inner, 0.0).flatten(1).amax(-1)
    return Density(nodes, weights / weights.sum(-1, keepdim=True), least, greatest)


def _check_symmetric(M: Tensor, roundoff: float) -> None:
    """One flag is read from the device, for the sign alone; rounding makes M nonsymmetric by far less."""
    asymmetry = torch.linalg.matrix_norm(M - M.mT) > roundoff**0.5 * torch.linalg.matrix_norm(M)
    if bool(asymmetry.any()):
        raise ValueError(
            "this method looks at the spectrum by Lanczos steps, which need a symmetric matrix, and this one is not: "
            "for its sign take PolarExpress(...), NewtonSchulz(...) or Exact()"
        )
