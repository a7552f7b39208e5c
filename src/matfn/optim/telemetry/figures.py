"""Figures: what telemetry measures of a stack of matrices: gradient, update direction and weight."""

import torch
from torch import Tensor

from ...linalg.lanczos import lanczos

__all__ = ["FIGURES", "measured"]

FIGURES = ("condition", "nuclear_norm", "gradient_norm", "nu", "orthogonality", "direction", "ratio")

# Up to about this short side the Gram matrix and its eigenvalues cost no more than a sketch (128: half), and tell more.
_DENSE = 512
# Of the sketch: so many of the greatest singular values are found apart; Lanczos steps from half as many probes follow.
_COLUMNS, _STEPS = 16, 20
# Below, relative to the greatest, singular values do not count: rounding of the entries is about 2 eps, and the Gram
# matrix in float64 tells no more than 1e-7 from zero.
_ROUNDING, _GRAM = 4, 1e-7


@torch.no_grad()
def measured(G: Tensor, D: Tensor, W: Tensor, size: Tensor, *, exact: bool) -> dict[str, Tensor]:
    """The figures of each matrix, in float64.

    Args:
        G: ``(b, m, n)``, the gradients.
        D: ``(b, m, n)``, the directions of the updates.
        W: ``(b, m, n)``, the weights before the step.
        size: ``(b,)``, by what D is multiplied in the step: learning rate times scale.
        exact: by singular values; else by the Gram matrix of the short side in float64, or a sketch where that has
            more than 512 rows.

    Returns:
        A tensor ``(b,)`` for each name in `FIGURES`. See `Telemetry` for what they mean. All of a matrix are NaN where
        its gradient or direction is not finite, and those that a zero matrix does not have.
    """
    eps = torch.finfo(torch.promote_types(G.dtype, torch.float32)).eps
    G, D = (x.to(torch.float64) if x.shape[-2] <= x.shape[-1] else x.to(torch.float64).mT for x in (G, D))
    norms = torch.linalg.vector_norm(W.to(torch.float64), dim=(-2, -1))
    healthy = (torch.isfinite(G) & torch.isfinite(D)).flatten(1).all(-1)
    (G, peak), (D, top) = (_scaled(torch.where(healthy[:, None, None], x, 0.0)) for x in (G, D))
    b, n = G.shape[:2]
    spectrum = _singular if exact else _gram if n <= _DENSE else _sketched
    least, greatest, nuclear = spectrum(torch.cat([G, D]), _ROUNDING * eps)
    nu, size = greatest[b:], size.to(torch.float64)
    figures = {
        "condition": greatest[:b] / least[:b],
        "nuclear_norm": nuclear[:b] * peak,
        "gradient_norm": torch.linalg.matrix_norm(G) * peak,
        "nu": nu * top,
        "orthogonality": _orthogonality(D / nu[:, None, None], dense=exact or n <= _DENSE),
        "direction": (G * D).sum((-2, -1)) / (nuclear[:b] * nu),
        "ratio": size * torch.linalg.matrix_norm(D) * top / norms,
    }
    return {name: torch.where(healthy, figure, torch.nan) for name, figure in figures.items()}


def _scaled(X: Tensor) -> tuple[Tensor, Tensor]:
    """X over its largest entry, and that: squares of gradients of 1e-200 would vanish."""
    peak = X.abs().amax((-2, -1))
    return X / torch.where(peak > 0, peak, 1.0)[:, None, None], peak


def _singular(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Least singular value that counts, greatest, and sum."""
    return _summed(torch.linalg.svdvals(X), tolerance)


def _gram(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same from X X^T: what is below 1e-7 of the greatest is lost, and would add that much to the sum."""
    s = torch.linalg.eigvalsh(X @ X.mT).clamp(min=0).sqrt()
    return _summed(s, max(tolerance, _GRAM))


def _summed(s: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    greatest = s.amax(-1, keepdim=True)
    counted = s > tolerance * greatest
    return torch.where(counted, s, greatest).amin(-1), greatest[:, 0], torch.where(counted, s, 0.0).sum(-1)


def _sketched(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same, estimated: the extremes from within, so that the condition is a lower bound."""
    S = _probes(X, _COLUMNS)
    for _ in range(2):
        S = torch.linalg.qr(X @ (X.mT @ S)).Q
    head = S.mT @ X
    least, first, sum_of_first = _gram(head, tolerance)
    rest = X - S @ head
    Q = _probes(X, _COLUMNS // 2)
    Q = Q - S @ (S.mT @ Q)  # or Ritz values would fall between 0 and the least that is not
    T = lanczos(lambda V: rest @ (rest.mT @ V), Q, _STEPS)
    values, vectors = torch.linalg.eigh(T[..., :-1, :-1])
    s, nodes = values.clamp(min=0).sqrt(), vectors[..., 0, :] ** 2 * Q.square().sum(-2).unsqueeze(-1)
    greatest = torch.maximum(first, s.flatten(1).amax(-1))
    counted = s.flatten(1) > max(tolerance, _GRAM) * greatest[:, None]
    least = torch.where(counted, s.flatten(1), least[:, None]).amin(-1)
    # E q^T H q over a random orthonormal frame is tr(H) / n for each of its columns; Gauss quadrature gives each.
    return least, greatest, sum_of_first + (nodes * s).sum(-1).mean(-1) * X.shape[-2]


def _orthogonality(U: Tensor, *, dense: bool) -> Tensor:
    """||U U^T - I||_F / sqrt(n) of the short side n."""
    n = U.shape[-2]
    Q = torch.eye(n, dtype=U.dtype, device=U.device) if dense else _probes(U, _COLUMNS)
    return torch.linalg.matrix_norm(U @ (U.mT @ Q) - Q) / Q.shape[-1] ** 0.5


def _probes(X: Tensor, columns: int) -> Tensor:
    """Orthonormal columns, (n, columns): the same for the same size, so that a run can be repeated."""
    generator = torch.Generator(device=X.device).manual_seed(columns)
    S = torch.randn(X.shape[-2], columns, generator=generator, dtype=X.dtype, device=X.device)
    return torch.linalg.qr(S).Q
