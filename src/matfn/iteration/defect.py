"""Defect: by how much a result misses the equation of its function; `certify` and the convergence check both use it."""

from torch import Tensor

from .target import Target

__all__ = ["EQUATION", "isometry", "orthonormality", "power_defect"]

# The residual that the convergence check reports, by the name of the target.
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
    """(U U^T - I) W for U (b, n, m) with n <= m: zero for orthonormal rows."""
    return U @ (U.mT @ W) - W


def isometry(U: Tensor, W: Tensor) -> Tensor:
    """(U^T U U^T - U^T) W for U (b, n, m): zero also for a polar factor on the range of a rank-deficient matrix."""
    V = U.mT @ W
    return U.mT @ (U @ V) - V


def power_defect(target: Target, X: Tensor, U: Tensor, W: Tensor, right: int = 0) -> tuple[Tensor, Tensor]:
    """The defect E W of the equation between a square matrix and its function, and the last vectors before X.

    | target               | E                          |
    |----------------------|----------------------------|
    | sign                 | U U - I                    |
    | sqrt, root           | U^p - X                    |
    | inv, inverse roots   | U^(p - right) X U^right - I|

    Args:
        target: Any but the polar factor.
        X: The scaled argument, (b, n, n).
        U: The result for it, (b, n, n).
        W: (n, k) or (b, n, k); the identity gives E itself.
        right: How many factors U stand to the right of X.

    Returns:
        E W, and U^right W.
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
