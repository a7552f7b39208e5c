"""The figures of telemetry, computed from the gradients, update directions and weights of a stack of matrices."""

import torch
from torch import Tensor

from ...linalg.lanczos import lanczos

__all__ = ["FIGURES", "measured"]

FIGURES = ("condition", "nuclear_norm", "gradient_norm", "nu", "orthogonality", "direction", "ratio")

# Up to this short side the Gram matrix costs no more time than a sketch (at 128 half), and is more accurate.
_DENSE = 512
# The sketch finds the _COLUMNS greatest singular values, then takes _STEPS Lanczos steps from half as many probes.
_COLUMNS, _STEPS = 16, 20
# Singular values below _ROUNDING eps or _GRAM, relative to the greatest, count as zero: entries have errors of about
# 2 eps, and the Gram matrix in float64 cannot tell 1e-7 from zero.
_ROUNDING, _GRAM = 4, 1e-7


@torch.no_grad()
def measured(G: Tensor, D: Tensor, W: Tensor, size: Tensor, *, exact: bool) -> dict[str, Tensor]:
    """The figures of each matrix, in float64.

    Args:
        G: Gradients, ``(b, m, n)``.
        D: Directions of the updates, ``(b, m, n)``.
        W: Weights before the step, ``(b, m, n)``.
        size: The factor of D in the step, ``(b,)``: learning rate times scale.
        exact: Whether to compute singular values. Else the Gram matrix of the short side is used, in float64, or a
            sketch if the short side has more than 512 rows.

    Returns:
        A tensor ``(b,)`` for each name in `FIGURES`, which `Telemetry` explains. If the gradient or direction of a
        matrix is not finite, all its figures are NaN. Figures that do not exist for a zero matrix are NaN.
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
    """X divided by its largest entry, and this entry. Without it, squares of gradients of 1e-200 would vanish."""
    peak = X.abs().amax((-2, -1))
    return X / torch.where(peak > 0, peak, 1.0)[:, None, None], peak


def _singular(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The least singular value above the tolerance, the greatest, and the sum, each ``(b,)``."""
    return _summed(torch.linalg.svdvals(X), tolerance)


def _gram(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same from X X^T. Values below 1e-7 of the greatest are rounding errors, and are left out of the sum."""
    s = torch.linalg.eigvalsh(X @ X.mT).clamp(min=0).sqrt()
    return _summed(s, max(tolerance, _GRAM))


def _summed(s: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    greatest = s.amax(-1, keepdim=True)
    counted = s > tolerance * greatest
    return torch.where(counted, s, greatest).amin(-1), greatest[:, 0], torch.where(counted, s, 0.0).sum(-1)


def _sketched(X: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same, estimated. The greatest comes out too small and the least too large: the condition is a lower bound."""
    S = _probes(X, _COLUMNS)
    for _ in range(2):
        S = torch.linalg.qr(X @ (X.mT @ S)).Q
    head = S.mT @ X
    least, first, sum_of_first = _gram(head, tolerance)
    rest = X - S @ head
    Q = _probes(X, _COLUMNS // 2)
    Q = Q - S @ (S.mT @ Q)  # else Ritz values fall between 0 and the least nonzero value
    T = lanczos(lambda V: rest @ (rest.mT @ V), Q, _STEPS)
    values, vectors = torch.linalg.eigh(T[..., :-1, :-1])
    s, nodes = values.clamp(min=0).sqrt(), vectors[..., 0, :] ** 2 * Q.square().sum(-2).unsqueeze(-1)
    greatest = torch.maximum(first, s.flatten(1).amax(-1))
    counted = s.flatten(1) > max(tolerance, _GRAM) * greatest[:, None]
    least = torch.where(counted, s.flatten(1), least[:, None]).amin(-1)
    # For each column q of a random orthonormal frame E q^T H q = tr(H) / n. Gauss quadrature gives q^T H q.
    return least, greatest, sum_of_first + (nodes * s).sum(-1).mean(-1) * X.shape[-2]


def _orthogonality(U: Tensor, *, dense: bool) -> Tensor:
    """||U U^T - I||_F / sqrt(n), where n is the short side."""
    n = U.shape[-2]
    Q = torch.eye(n, dtype=U.dtype, device=U.device) if dense else _probes(U, _COLUMNS)
    return torch.linalg.matrix_norm(U @ (U.mT @ Q) - Q) / Q.shape[-1] ** 0.5


def _probes(X: Tensor, columns: int) -> Tensor:
    """Orthonormal columns, ``(n, columns)``. Equal sizes give equal columns, so that a run can be repeated."""
    generator = torch.Generator(device=X.device).manual_seed(columns)
    S = torch.randn(X.shape[-2], columns, generator=generator, dtype=X.dtype, device=X.device)
    return torch.linalg.qr(S).Q
