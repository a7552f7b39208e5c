"""The derivative of the polar decomposition, by one Lyapunov equation in the symmetric factor."""

from functools import partial

import torch
from torch import Tensor

from .equation import RootEquation
from .implicit import Gradients, Implicit, Pullback
from .roots import symmetrised

__all__ = ["polar_adjoint"]


def polar_adjoint(side: str) -> Pullback:
    """The pullback of A -> (U, H) for H on the given side, "right" or "left"; also of A -> (U,)."""
    return partial(_adjoint, side)


def _adjoint(side: str, A: Tensor, _: tuple[Tensor, ...], gradients: Gradients) -> Tensor:
    """Turn A so that it is tall and, where there is a choice, H on its right; then work in float64.

    For A = U H, with P = H^-1 and L(C) the solution of H L + L H = C,

        from G to U: U L(U^T G - G^T U) + (I - U U^T) G P,    from G to H: 2 A L((G + G^T)/2).

    An H on the longer side, H = U A^T, is a product of the other two and its gradient theirs.

    A rank-deficient A gets the derivative along matrices of the same rank, in keeping with the factor on the range: P
    is then the pseudo-inverse, and L leaves out what only directions outside the range would ask for.
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
    """The same for H = U X^T, on the longer side."""
    if grad_H is None:
        return _pulled(X, outputs, (grad_U, None, None))
    S = symmetrised(grad_H)
    SX = S @ X
    return S @ outputs[0] + _pulled(X, outputs, (SX if grad_U is None else grad_U + SX, None, None))


def _decomposed(tolerance: float, X: Tensor) -> tuple[Tensor, ...]:
    """U, H, the (pseudo-)inverse of H, and the spectrum of H: values of 0 where they count as such, and vectors."""
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
