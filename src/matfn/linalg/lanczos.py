"""Quadrature: Lanczos steps from a few vectors, which turn quadratic forms of functions of a matrix into short sums."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["lanczos", "root_forms"]

_STEPS = 20  # the bracket closes like 1 / steps when the spectrum spans many decades, geometrically when it does not


def lanczos(product: Callable[[Tensor], Tensor], S: Tensor, steps: int) -> Tensor:
    """Tridiagonal matrices T with s^T f(M) s close to ||s||^2 (f(T))_11 for each column s of S.

    The leading `steps` x `steps` block gives Gauss quadrature, exact for polynomials f of degree 2 steps - 1; the whole
    matrix has the eigenvalue 0 and gives Gauss-Radau quadrature with a node there, exact to degree 2 steps.

    Args:
        product: V -> M V for V of shape (b, n, columns), M symmetric positive semidefinite.
        S: (b, n, columns), no column zero.
        steps: Lanczos steps, each one product.

    Returns:
        (b, columns, steps + 1, steps + 1), in the dtype of S. NaN where M has one.

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
        for _ in range(2):  # once would leave what rounding makes of a vector that is nearly used up
            W = W - (V * (V * W).sum(-2, keepdim=True)).sum(0)
        beta = torch.linalg.vector_norm(W, dim=-2)
        # A column whose Krylov space is exhausted goes on with zeros, which decouple from its first block.
        beta = torch.where(beta > 10 * info.eps * T[..., 0, 0], beta, 0.0)
        pivot = T[..., j, j] - (T[..., j, j - 1] ** 2 / pivot if j else 0.0)
        pivot = torch.maximum(pivot, (info.eps * T[..., 0, 0]).clamp(min=info.tiny))
        T[..., j, j + 1] = T[..., j + 1, j] = beta
        v = torch.where((beta > 0).unsqueeze(-2), W / beta.clamp(min=info.tiny).unsqueeze(-2), 0.0)
        basis.append(v)
    T[..., steps, steps] = beta**2 / pivot  # makes 0 an eigenvalue
    return T


def root_forms(X: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of s^T (X X^T)^(1/2) s for each column s of S, each (b, columns).

    All even derivatives of the square root are negative, so that Gauss quadrature is an upper bound; with a node
    prescribed at 0 (Radau) it is a lower bound.

    Args:
        X: (b, n, m), the short side first.
        S: (n, columns), no column zero.
    """
    steps, norms = min(_STEPS, X.shape[-2]), torch.linalg.vector_norm(S, dim=-2)
    T = lanczos(lambda V: X @ (X.mT @ V), S.expand(X.shape[0], -1, -1), steps)
    return _root_form(T, norms), _root_form(T[..., :steps, :steps], norms)


def _root_form(T: Tensor, norms: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(T)
    return norms**2 * (vectors[..., 0, :] ** 2 * values.clamp(min=0).sqrt()).sum(-1)
