"""Lanczos quadrature: short sums for quadratic forms s^T f(M) s."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["lanczos", "root_forms"]


def lanczos(product: Callable[[Tensor], Tensor], S: Tensor, steps: int) -> Tensor:
    """Compute tridiagonal matrices T with s^T f(M) s close to ||s||^2 (f(T))_11 for each column s of S.

    The leading `steps` x `steps` block gives Gauss quadrature, exact for polynomials f of degree 2 steps - 1. The whole
    matrix has the eigenvalue 0 and gives Gauss-Radau quadrature with a node at 0, exact to degree 2 steps.

    Args:
        product: V -> M V for V of shape (b, n, columns), M symmetric positive semidefinite; one call per step.
        S: (b, n, columns), no column zero.
        steps: Number of Lanczos steps.

    Returns:
        (b, columns, steps + 1, steps + 1), in the dtype of S; NaN for a matrix M with NaN.

    References:
        Golub, Meurant, "Matrices, Moments and Quadrature with Applications" (2010), Chapters 6 and 7.
    """
    info = torch.finfo(S.dtype)
    v = S / torch.linalg.vector_norm(S, dim=-2, keepdim=True)
    basis = [v]
    T = S.new_zeros(S.shape[0], S.shape[-1], steps + 1, steps + 1)
    beta = pivot = S.new_ones(S.shape[0], S.shape[-1])  # pivots of the LDL^T factorization of T
    for j in range(steps):
        W = product(v)
        T[..., j, j] = (W * v).sum(-2)
        V = torch.stack(basis)  # (j + 1, b, n, columns)
        for _ in range(2):  # twice: if W is nearly zero, rounding leaves components along V after one pass
            W = W - (V * (V * W).sum(-2, keepdim=True)).sum(0)
        beta = torch.linalg.vector_norm(W, dim=-2)
        # If the Krylov space of a column is exhausted, the column continues with zeros, decoupled from its first block.
        beta = torch.where(beta > 10 * info.eps * T[..., 0, 0], beta, 0.0)
        pivot = T[..., j, j] - (T[..., j, j - 1] ** 2 / pivot if j else 0.0)
        pivot = torch.maximum(pivot, (info.eps * T[..., 0, 0]).clamp(min=info.tiny))
        T[..., j, j + 1] = T[..., j + 1, j] = beta
        v = torch.where((beta > 0).unsqueeze(-2), W / beta.clamp(min=info.tiny).unsqueeze(-2), 0.0)
        basis.append(v)
    T[..., steps, steps] = beta**2 / pivot  # makes 0 an eigenvalue
    return T


def root_forms(X: Tensor, S: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return lower and upper bounds, (b, columns), of s^T (X X^T)^(1/2) s for the columns s != 0 of S (b, n, columns).

    X is (b, n, m) with steps < n <= m. All even derivatives of the square root are negative. So Gauss quadrature is an
    upper bound, and Gauss-Radau quadrature with a node at 0 is a lower bound. The bounds approach each other as
    1 / steps for a spectrum of many decades, else geometrically.
    """
    norms = torch.linalg.vector_norm(S, dim=-2)
    T = lanczos(lambda V: X @ (X.mT @ V), S, steps)
    # An X^T s of at most this length is rounding: s is a null vector, whose form is 0.
    rounding = S.shape[-2] * torch.finfo(S.dtype).eps * norms * torch.linalg.matrix_norm(X)[:, None]
    zero = torch.linalg.vector_norm(X.mT @ S, dim=-2) <= rounding
    T = torch.where(zero[..., None, None], 0.0, T)
    return _root_form(T, norms), _root_form(T[..., :steps, :steps], norms)


def _root_form(T: Tensor, norms: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(T)
    return norms**2 * (vectors[..., 0, :] ** 2 * values.clamp(min=0).sqrt()).sum(-1)
