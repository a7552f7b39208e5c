"""Polar: the derivative of the polar decomposition, by a Lyapunov equation in the symmetric factor."""

from functools import partial

import torch
from torch import Tensor

from .equation import RootEquation
from .implicit import Gradients, Implicit, Pullback, symmetrised

__all__ = ["polar_adjoint"]


def polar_adjoint(side: str) -> Pullback:
    """Return the pullback of A -> (U, H) for H on the given side, "right" or "left"; also of A -> (U,)."""
    return partial(_adjoint, side)


def _adjoint(side: str, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Compute the gradient of A in float64.

    A is transposed if it is wide, or square with H on the left, so that A = U H is tall. With P = H^-1 and L(C) the
    solution of H L + L H = C, the gradient is

        for the gradient G of U: U L(U^T G - G^T U) + (I - U U^T) G P,    for the gradient G of H: 2 A L((G + G^T)/2).

    If H is on the longer side, H = U A^T, and the product rule gives the gradient.

    If A is rank-deficient, the derivative is along matrices of the same rank, as U is zero on the null space: P is the
    pseudo-inverse, and L is zero between null vectors.
    """
    m, n = A.shape[-2:]
    turned = m < n or (m == n and side == "left")
    grad_U, grad_H = (None if G is None else G.to(torch.float64) for G in (*gradients, None)[:2])
    X = A.to(torch.float64)
    if turned:
        X, grad_U = X.mT, None if grad_U is None else grad_U.mT
    tolerance = max(m, n) * torch.finfo(torch.promote_types(A.dtype, torch.float32)).eps
    outputs = Implicit.apply(X, partial(_decomposed, tolerance), _pulled, 2)
    if (side == "left") == turned:
        result = _pulled(X, outputs, (grad_U, grad_H, None))
    else:
        result = _through_product(X, outputs, grad_U, grad_H)
    return (result.mT if turned else result).to(A.dtype)


def _through_product(X: Tensor, outputs: tuple[Tensor, ...], grad_U: Tensor | None, grad_H: Tensor | None) -> Tensor:
    """Compute the gradient for H = U X^T on the longer side, by the product rule."""
    if grad_H is None:
        return _pulled(X, outputs, (grad_U, None, None))
    S = symmetrised(grad_H)
    SX = S @ X
    return S @ outputs[0] + _pulled(X, outputs, (SX if grad_U is None else grad_U + SX, None, None))


def _decomposed(tolerance: float, X: Tensor) -> tuple[Tensor, ...]:
    """Return U, H, the (pseudo-)inverse of H, and the eigenvalues (negligible ones set to 0) and eigenvectors of H."""
    W, s, Vh = torch.linalg.svd(X, full_matrices=False)
    live = s > tolerance * s[..., :1]
    s = torch.where(live, s, 0.0)
    inverse = torch.where(live, 1 / torch.where(live, s, 1.0), 0.0)
    V = Vh.mT
    U = (W * live.unsqueeze(-2)) @ Vh
    return U, (V * s.unsqueeze(-2)) @ Vh, (V * inverse.unsqueeze(-2)) @ Vh, s, V


def _pulled(X: Tensor, outputs: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    (U, H, P, s, V), (grad_U, grad_H, grad_P) = outputs, gradients[:3]
    result = torch.zeros_like(X)
    if grad_U is not None:
        inner = U.mT @ grad_U
        result = U @ RootEquation.apply(H, inner - inner.mT, 2, s, V, 1) + (grad_U - U @ inner) @ P
    if grad_P is not None:
        inner = -P @ symmetrised(grad_P) @ P
        grad_H = inner if grad_H is None else grad_H + inner
    if grad_H is not None:
        result = result + 2 * X @ RootEquation.apply(H, symmetrised(grad_H), 2, s, V, 1)
    return result
