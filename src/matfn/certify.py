"""Certify: the error that a polar factor has reached, measured on the very matrices."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_finite, check_matrix
from .engines import prescale
from .quadrature import root_forms
from .target import POLAR

__all__ = ["Certificate", "certify"]

_COLUMNS = 16  # random columns; the relative standard deviation of a squared norm is at most sqrt(2 / 16) = 0.35


@dataclass(frozen=True)
class Certificate:
    """What was reached; every field has the batch shape of the input.

    Attributes:
        orthogonality: ||U^T U - I||_F / sqrt(n) on the short side n: 0 for orthonormal rows or columns, sqrt(1 - r/n)
            for a factor on a range of rank r < n.
        direction: <U, X> / ||X||_*: 1 for the exact factor, less where U turns away from it or is too short, more where
            its singular values exceed 1.
        residual: ||U H - X||_F / ||X||_F with H = sym(U^T X): the backward error of the decomposition.
    """

    orthogonality: Tensor
    direction: Tensor
    residual: Tensor

    def __str__(self) -> str:
        """One line: the worst of the batch."""
        return (
            f"orthogonality {self.orthogonality.max().item():.2e}, direction {self.direction.min().item():.6f}, "
            f"residual {self.residual.max().item():.2e}"
        )


@torch.no_grad()
def certify(X: Tensor, U: Tensor, *, exact: bool = False, generator: torch.Generator | None = None) -> Certificate:
    """How good U is as the polar factor of X.

    The sketched figures (default) cost skinny products alone, about 1000 m n multiply-adds, and estimate: norms within
    a factor 1.5 or so; of the direction, the value nearest to 1 that quadrature bounds of ||X||_* allow. That is right
    for a good U, and for an ill-conditioned X up to 0.07 nearer to 1 than the truth for a bad one. Everything is
    computed in float64.

    Args:
        X: (..., m, n), the matrices.
        U: The same shape, the factors; any dtype.
        exact: Measure instead of estimate, by dense products and singular values.
        generator: Draws the sketch, on the device of X; default a fixed seed, so that the same input gives the same
            figures.

    Returns:
        A `Certificate`. For a zero matrix direction is 1 and residual 0: there is nothing to get wrong.

    Raises:
        ValueError: If the shapes differ, a matrix is empty, or entries are not finite.
    """
    for name, argument in (("X", X), ("U", U)):
        check_matrix(argument, POLAR)
        if argument.numel() == 0:
            raise ValueError(f"certify needs nonempty matrices, got {name} of shape {tuple(argument.shape)}")
        check_finite(argument, POLAR)
    if X.shape != U.shape:
        raise ValueError(f"certify compares matrices of one shape, got X {tuple(X.shape)} and U {tuple(U.shape)}")
    wide = (lambda A: A) if X.shape[-2] <= X.shape[-1] else (lambda A: A.mT)
    flat = [wide(A.to(torch.float64)).reshape(-1, min(X.shape[-2:]), max(X.shape[-2:])) for A in (X, U)]
    scaled, _ = prescale(flat[0])
    fields = _measured(scaled, flat[1]) if exact else _sketched(scaled, flat[1], generator)
    return Certificate(*(f.reshape(X.shape[:-2]) for f in fields))


def _measured(X: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three figures from dense products and singular values; X has norm 1 (or is zero)."""
    n = X.shape[-2]
    orthogonality = torch.linalg.matrix_norm(U @ U.mT - torch.eye(n, dtype=X.dtype, device=X.device)) / n**0.5
    H = X @ U.mT
    residual = torch.linalg.matrix_norm((H + H.mT) / 2 @ U - X)
    nuclear = torch.linalg.svdvals(X).sum(-1)
    return orthogonality, _ratio(H.diagonal(dim1=-2, dim2=-1).sum(-1), nuclear), residual


def _sketched(X: Tensor, U: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same with S of `_COLUMNS` random signs: E ||S^T A||_F^2 = columns * ||A||_F^2."""
    n = X.shape[-2]
    if generator is None:
        generator = torch.Generator(device=X.device).manual_seed(0)
    S = torch.randint(0, 2, (n, _COLUMNS), generator=generator, device=X.device).to(X.dtype) * 2 - 1
    XS, US = X.mT @ S, U.mT @ S
    norm = torch.linalg.matrix_norm
    orthogonality = norm(U @ US - S) / (n * _COLUMNS) ** 0.5
    HS = (X @ US + U @ XS) / 2  # sym(X U^T) S
    residual = norm(U.mT @ HS - XS) / _COLUMNS**0.5
    inner = (X * U).sum((-2, -1))
    # ||X||_* - <U, X> is the trace of (X X^T)^(1/2) - sym(X U^T), which the probes s^T (.) s see with little noise when
    # U is good. The quadrature brackets it; of the bracket we report the value nearest to 0.
    least, greatest = (f.mean(-1) - (S * HS).sum(-2).mean(-1) for f in root_forms(X, S))
    excess = torch.maximum(least, greatest.clamp(max=0))
    return orthogonality, _ratio(inner, inner + excess), residual


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny), 1.0)
