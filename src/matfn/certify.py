"""Certify: measures the error of a computed function on the very matrices."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .iteration.defect import orthonormality, power_defect
from .iteration.target import INV_ROOT, TARGETS, Target
from .linalg.lanczos import root_forms
from .linalg.norms import prescale
from .run.arguments import check_finite, check_matrix

__all__ = ["Certificate", "balanced_residual", "certify"]

_COLUMNS = 16  # random columns; a squared norm then has a relative standard deviation of at most sqrt(2 / 16) = 0.35


@dataclass(frozen=True)
class Certificate:
    """The measured figures, each with the batch shape of the input; NaN for a figure that the function does not have.

    With X the matrix, U the result, n the short side:

    | of       | orthogonality             | direction         | residual                                     |
    |----------|---------------------------|-------------------|----------------------------------------------|
    | polar    | ||U^T U - I||_F / sqrt(n) | <U, X> / ||X||_*  | ||U H - X||_F / ||X||_F, H = sym(U^T X)      |
    | sign     | ||U U - I||_F / sqrt(n)   | NaN               | ||U H - X||_F / ||X||_F, H = (U X + X U) / 2 |
    | sqrt     | NaN                       | tr(U) / ||U||_*   | ||U U - X||_F / ||X||_F                      |
    | root     | NaN                       | tr(U) / ||U||_*   | ||U^p - X||_F / ||X||_F                      |
    | inv_sqrt | NaN                       | tr(U) / ||U||_*   | ||U U X - I||_F / sqrt(n)                    |
    | inv_root | NaN                       | tr(U) / ||U||_*   | ||U^p X - I||_F / sqrt(n)                    |
    | inv      | NaN                       | NaN               | ||U X - I||_F / sqrt(n)                      |

    Attributes:
        orthogonality: Distance from orthonormal rows or columns (polar), from an involution (sign). For a polar factor
            on a range of rank r < n it is sqrt(1 - r/n).
        direction: Which of the many solutions was found. polar: 1 for the exact factor, less if U turns away from it or
            is too short, more if its singular values exceed 1. Roots: 1 for the principal, positive root, less if an
            eigenvalue has the wrong sign or U is not symmetric.
        residual: The defect of the equation. For polar, sign, sqrt and root a backward error, near the unit roundoff
            for a good method. For an inverse root p times its relative error if the error commutes with X, otherwise up
            to the condition number of X times that: rounding alone gives about unit roundoff times condition. The
            "balanced" residual, ||U^a X U^b - I||_F / sqrt(n) with a = p // 2 and b = p - a, has the square root of the
            condition number instead.
    """

    orthogonality: Tensor
    direction: Tensor
    residual: Tensor

    def __str__(self) -> str:
        """One line: the worst of the batch, without NaN."""
        figures = (
            ("orthogonality", self.orthogonality.max().item(), ".2e"),
            ("direction", self.direction.min().item(), ".6f"),
            ("residual", self.residual.max().item(), ".2e"),
        )
        return ", ".join(f"{name} {value:{form}}" for name, value, form in figures if value == value)


@torch.no_grad()
def certify(
    X: Tensor,
    U: Tensor,
    *,
    of: str = "polar",
    p: int | None = None,
    only: str | None = None,
    exact: bool = False,
    generator: torch.Generator | None = None,
) -> Certificate:
    """Measure how good U is as the function `of` of X.

    The default figures are estimates by thin products alone, about 1000 m n multiply-adds, in float64. Norms are within
    a factor of about 1.5. The direction is the value nearest to 1 within the bounds that quadrature gives for ||X||_*:
    right for a good U; for a bad U and an ill-conditioned X up to 0.07 too near to 1.

    Args:
        X: (..., m, n), the matrices; square except for the polar factor. With a ridge, pass X + ridge I.
        U: The same shape, the results; any dtype.
        of: "polar", "sign", "sqrt", "inv_sqrt", "root", "inv_root" or "inv".
        p: The exponent of "root" and "inv_root"; the others have none to choose.
        only: "residual" or, for an inverse root, "balanced": this alone, with NaN for the direction of a root, which
            costs 20 times as much. None is every figure.
        exact: Measure by dense products and singular values instead.
        generator: Draws the sketch, on the device of X; None is a fixed seed.

    Returns:
        A `Certificate`. For the polar factor of a zero matrix the direction is 1 and the residual 0.

    Raises:
        ValueError: `of` or `only` is another word, p is missing or of no use, shapes differ, X is empty or not finite.
    """
    target = _target(of, p)
    _check_only(only, target)
    _check_pair(X, U, target)
    scaled, scale = prescale(_wide(X))
    S = None if exact else _signs(scaled, generator)
    U = scale.undo(_wide(U), -target.homogeneity)
    if target.name != "polar":
        figures = _checked(target, scaled, U, S, only)
    else:
        figures = _measured(scaled, U) if S is None else _sketched(scaled, U, S)
    return Certificate(*(f.reshape(X.shape[:-2]) for f in figures))


@torch.no_grad()
def balanced_residual(X: Tensor, U: Tensor, p: int) -> Tensor:
    """Return ``certify(X, U, of="inv_root", p=p, only="balanced").residual``, (b), without checks and scaling of X.

    These take three times as long as the estimate itself. X (b, n, n) is symmetric and finite, with a norm between
    1e-100 and 1e100; U (b, n, n) is finite.
    """
    S = _signs(X, None).to(torch.float64)
    target = INV_ROOT.with_exponent(p)
    # One by one on a CPU, because the float64 copy is read five times and then stays in the cache.
    pairs = zip(X.split(1), U.split(1), strict=True) if X.device.type == "cpu" else [(X, U)]
    return torch.cat([_checked(target, x.to(S.dtype), u.to(S.dtype), S, "balanced")[2] for x, u in pairs])


def _wide(A: Tensor) -> Tensor:
    """Return the matrices with their short side first, (b, n, m), in float64."""
    A = A if A.shape[-2] <= A.shape[-1] else A.mT
    return A.to(torch.float64).reshape(-1, *A.shape[-2:])


def _check_pair(X: Tensor, U: Tensor, target: Target) -> None:
    for name, argument in (("X", X), ("U", U)):
        check_matrix(argument, replace(target, verb="certify"))
        if argument.numel() == 0:
            raise ValueError(f"certify needs nonempty matrices, got {name} of shape {tuple(argument.shape)}")
        check_finite(argument, "certify")
    if X.shape != U.shape:
        raise ValueError(f"certify compares matrices of one shape, got X {tuple(X.shape)} and U {tuple(U.shape)}")


def _check_only(only: str | None, target: Target) -> None:
    inverse_root = target.name in ("inv_sqrt", "inv_root")
    known = {"residual": target.name not in ("polar", "sign"), "balanced": inverse_root, None: True}
    if not known.get(only):
        raise ValueError(
            'only must be "residual" (of a root or an inverse), "balanced" (of an inverse root) or None; '
            f"got {only!r} of {target.name}"
        )


def _target(of: str, p: int | None) -> Target:
    named = {target.name: target for target in TARGETS}
    if of not in named:
        raise ValueError(f"of must be one of {', '.join(named)}, got {of!r}")
    if of in ("root", "inv_root"):
        if p is None:
            raise ValueError(f"certify needs the exponent of {of}: pass p=..., for example p=4")
        return named[of].with_exponent(p)
    if p is not None:
        raise ValueError(f"{of} has no exponent to choose, got {p=}: leave it out, or certify of='root' or 'inv_root'")
    return named[of]


def _measured(X: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the figures from dense products and singular values; X has norm 1 (or is zero)."""
    n = X.shape[-2]
    orthogonality = torch.linalg.matrix_norm(U @ U.mT - torch.eye(n, dtype=X.dtype, device=X.device)) / n**0.5
    H = X @ U.mT
    residual = torch.linalg.matrix_norm((H + H.mT) / 2 @ U - X)
    nuclear = torch.linalg.svdvals(X).sum(-1)
    return orthogonality, _ratio(H.diagonal(dim1=-2, dim2=-1).sum(-1), nuclear), residual


def _sketched(X: Tensor, U: Tensor, S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same from S, `_COLUMNS` random signs: E ||S^T A||_F^2 = columns * ||A||_F^2."""
    n = X.shape[-2]
    XS, US = X.mT @ S, U.mT @ S
    norm = torch.linalg.matrix_norm
    orthogonality = norm(orthonormality(U, S)) / (n * _COLUMNS) ** 0.5
    HS = (X @ US + U @ XS) / 2  # sym(X U^T) S
    residual = norm(U.mT @ HS - XS) / _COLUMNS**0.5
    inner = (X * U).sum((-2, -1))
    return orthogonality, _ratio(inner, inner + _excess(X, HS, S)), residual


def _signs(X: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        generator = torch.Generator(device=X.device).manual_seed(0)
    return torch.randint(0, 2, (X.shape[-2], _COLUMNS), generator=generator, device=X.device).to(X.dtype) * 2 - 1


def _checked(target: Target, X: Tensor, U: Tensor, S: Tensor | None, only: str | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the figures of the square functions."""
    n = X.shape[-1]
    W = torch.eye(n, dtype=X.dtype, device=X.device) if S is None else S
    weight = 1.0 if S is None else _COLUMNS**-0.5
    norm = torch.linalg.matrix_norm
    absent = torch.full_like(X[:, 0, 0], torch.nan)
    right = target.p - target.p // 2 if only == "balanced" else 0
    defect = norm(power_defect(target, X, U, W, right)[0]) * weight
    if target.name == "sign":
        residual = U @ (U @ (X @ W) + X @ (U @ W)) / 2 - X @ W
        return defect / n**0.5, absent, norm(residual) * weight
    direction = absent if target.name == "inv" or only else _positivity(U, S)
    return absent, direction, defect if target.homogeneity > 0 else defect / n**0.5


def _positivity(U: Tensor, S: Tensor | None) -> Tensor:
    """Return tr(U) / ||U||_*, the direction of U towards I, the polar factor of positive matrices."""
    U, _ = prescale(U)
    trace = U.diagonal(dim1=-2, dim2=-1).sum(-1)
    if S is None:
        return _ratio(trace, torch.linalg.svdvals(U).sum(-1))
    return _ratio(trace, trace + _excess(U, U @ S, S))


def _excess(X: Tensor, HS: Tensor, S: Tensor) -> Tensor:
    """Estimate ||X||_* - tr(H) from H S: the value nearest to 0 within the bounds that quadrature gives."""
    # It is the trace of (X X^T)^(1/2) - H. Its estimate s^T (.) s has little noise when H is near the root.
    least, greatest = (f.mean(-1) - (S * HS).sum(-2).mean(-1) for f in root_forms(X, S))
    return torch.maximum(least, greatest.clamp(max=0))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator.clamp(min=torch.finfo(denominator.dtype).tiny), 1.0)
