"""Quadrature: bounds of s^T (X X^T)^(1/2) s from a few Lanczos steps."""

import torch
from torch import Tensor

__all__ = ["root_forms"]

_STEPS = 20  # the bracket closes like 1 / steps when the spectrum spans many decades, geometrically when it does not


def root_forms(X: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of s^T (X X^T)^(1/2) s for each column s of S, each (b, columns).

    Lanczos steps from s give a tridiagonal T whose eigenvalues are the nodes of Gauss quadrature, an upper bound since
    all even derivatives of the square root are negative; with a node prescribed at 0 (Radau) it is a lower bound.

    Args:
        X: (b, n, m), the short side first.
        S: (n, columns), no column zero.
    """
    steps, info = min(_STEPS, X.shape[-2]), torch.finfo(X.dtype)
    norms = torch.linalg.vector_norm(S, dim=-2)
    basis = [(S / norms).mT.expand(X.shape[0], -1, -1)]  # one row per column of S: (b, columns, n)
    T = X.new_zeros(X.shape[0], S.shape[-1], steps + 1, steps + 1)
    beta = pivot = X.new_ones(X.shape[0], S.shape[-1])  # pivots of the LDL^T factorization of T
    for j in range(steps):
        V = torch.stack(basis, -1)
        W = (basis[j] @ X) @ X.mT
        T[..., j, j] = (W * basis[j]).sum(-1)
        for _ in range(2):
            W = W - (V @ (V.mT @ W.unsqueeze(-1))).squeeze(-1)
        beta = torch.linalg.vector_norm(W, dim=-1)
        # A row whose Krylov space is exhausted goes on with zeros, which decouple from its first block.
        beta = torch.where(beta > 10 * info.eps * T[..., 0, 0], beta, 0.0)
        pivot = T[..., j, j] - (T[..., j, j - 1] ** 2 / pivot if j else 0.0)
        pivot = torch.maximum(pivot, (info.eps * T[..., 0, 0]).clamp(min=info.tiny))
        T[..., j, j + 1] = T[..., j + 1, j] = beta
        basis.append(torch.where((beta > 0).unsqueeze(-1), W / beta.clamp(min=info.tiny).unsqueeze(-1), 0.0))
    T[..., steps, steps] = beta**2 / pivot  # makes 0 an eigenvalue
    return _root_form(T, norms), _root_form(T[..., :steps, :steps], norms)


def _root_form(T: Tensor, norms: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(T)
    return norms**2 * (vectors[..., 0, :] ** 2 * values.clamp(min=0).sqrt()).sum(-1)
