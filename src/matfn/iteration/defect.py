"""Defect: how far a result is from the equation of its function, for `certify` and the convergence check."""

from torch import Tensor

from .target import Target

__all__ = ["EQUATION", "isometry", "orthonormality", "power_defect"]

# The residual that the convergence check reports, by target.
EQUATION = {
    "polar": "||U U^T U - U||_F / sqrt(n)",
    "sign": "||S S - I||_F / sqrt(n)",
    "sqrt": "||R R - A||_F / ||A||_F",
    "root": "||R^p - A||_F / ||A||_F",
    "inv_sqrt": "||B A B - I||_F / sqrt(n)",
    "inv_root": "||B^a A B^b - I||_F / sqrt(n), a + b = p,",
    "inv": "||B A - I||_F / sqrt(n)",
}


def orthonormality(U: Tensor, W: Tensor) -> Tensor:
    """Return (U U^T - I) W for U (b, n, m), n <= m; zero for orthonormal rows."""
    return U @ (U.mT @ W) - W


def isometry(U: Tensor, W: Tensor) -> Tensor:
    """Return (U^T U U^T - U^T) W for U (b, n, m); zero also for the polar factor of a rank-deficient matrix."""
    V = U.mT @ W
    return U.mT @ (U @ V) - V


def power_defect(target: Target, X: Tensor, U: Tensor, W: Tensor, right: int = 0) -> tuple[Tensor, Tensor]:
    """Return the defect E W of the equation between a square X and its function U, and U^right W.

    | target               | E                          |
    |----------------------|----------------------------|
    | sign                 | U U - I                    |
    | sqrt, root           | U^p - X                    |
    | inv, inverse roots   | U^(p - right) X U^right - I|

    X is the scaled argument, (b, n, n), U the result for X, and W is (n, k) or (b, n, k); the identity gives E itself.
    """
    if target.name == "sign":
        return U @ (U @ W) - W, W
    if target.homogeneity > 0:
        return _power(U, target.p, W) - X @ W, W
    V = _power(U, right, W)
    return _power(U, target.p - right, X @ V) - W, V


def _power(U: Tensor, p: int, W: Tensor) -> Tensor:
    for _ in range(p):
        W = U @ W
    return W
