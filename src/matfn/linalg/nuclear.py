"""Nuclear: the sum of the singular values of large matrices, estimated by thin products."""

from collections.abc import Callable

import torch
from torch import Tensor

from .lanczos import root_forms

__all__ = ["LEADING", "nuclear_norm"]

LEADING = 48  # leading singular vectors that are treated one by one
_POWERS = 2  # steps of the subspace iteration with X X^T that finds them
_STEPS = 4, 20  # Lanczos steps for the leading vectors, which are nearly eigenvectors, and for the random ones


def nuclear_norm(X: Tensor, S: Tensor, times: Callable[[Tensor], Tensor], trace: Tensor) -> Tensor:
    """Estimate ||X||_*, the trace of B = (X X^T)^(1/2), (b,). A symmetric matrix H near B makes the estimate better.

    With an orthonormal basis Q of nearly the leading singular vectors, tr B = tr(Q^T B Q) + tr(P B P), P = I - Q Q^T.
    The second trace is the mean of g^T B g over g = P s with random signs s. Each form lies between two bounds
    (`root_forms`). If the forms of B - H vary less than the forms of B, the result is tr H + tr(B - H), with the value
    of tr(B - H) nearest to 0 that the bounds allow. So H = B gives tr H, without noise.

    Args:
        X: (b, n, m), LEADING < n <= m, float64, of Frobenius norm 1 or zero.
        S: (n, LEADING + columns), random signs; the first `LEADING` columns find Q, the others are the vectors s.
        times: W -> H W for W (b, n, k).
        trace: tr H, (b,).

    References:
        Meyer, Musco, Musco, Woodruff, "Hutch++", arXiv 2010.09649. The noise of the second trace has a standard
        deviation of at most sqrt(2 / columns) ||P B P||_F, and ||P B P||_F <= ||X||_* / (2 sqrt(k)) if Q spans the k
        leading vectors.
    """
    Q = _leading(X, S[:, :LEADING])
    G = S[:, LEADING:].expand(len(X), -1, -1)
    for _ in range(2):  # the second projection removes what rounding left in the first
        G = G - Q @ (Q.mT @ G)
    leading, rest = (torch.stack(root_forms(X, V, steps)) for V, steps in zip((Q, G), _STEPS, strict=True))
    of_H, rest_of_H = ((V * times(V)).sum(-2) for V in (Q, G))
    least, greatest = (leading - of_H).sum(-1) + (rest - rest_of_H).mean(-1)
    near = trace + torch.maximum(least, greatest.clamp(max=0))
    alone = (leading.sum(-1) + rest.mean(-1)).mean(0)
    helps = (rest - rest_of_H).mean(0).var(-1) <= rest.mean(0).var(-1)  # False for NaN, if H overflows
    return torch.where(helps, near, alone).maximum(torch.linalg.matrix_norm(X))


def _leading(X: Tensor, S: Tensor) -> Tensor:
    """Return nearly the leading left singular vectors of X (b, n, m), by subspace iteration from S (n, k)."""
    Q = S.expand(len(X), -1, -1)
    for _ in range(_POWERS):
        Q, _ = torch.linalg.qr(X @ (X.mT @ Q))
    V = X.mT @ Q
    return Q @ torch.linalg.eigh(V.mT @ V)[1]
