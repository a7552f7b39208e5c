"""Certify: measures the error of a computed function on the very matrices."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import shown
from .iteration.defect import orthonormality, power_defect
from .iteration.target import INV_ROOT, TARGETS, Target
from .linalg.norms import prescale
from .linalg.nuclear import LEADING, nuclear_norm
from .run.arguments import check_finite, check_generator, check_matrix, check_readable

__all__ = ["Certificate", "balanced_residual", "certify"]

_DENSE = 512  # up to this short side dense products and singular values cost no more than the sketch
# Random columns. A squared norm then has a relative standard deviation of at most sqrt(2 / 64) = 0.18.
_COLUMNS = LEADING + 16
_FEW = 16  # random columns in the check of Shampoo's roots: at most sqrt(2 / 16) = 0.35


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
        direction: Which of the many solutions was found, from -1 to 1. polar: 1 for the exact factor, less if U turns
            away from it or is too short. If singular values of U exceed 1, <U, X> / ||X||_* may exceed 1 and is cut
            to 1: `orthogonality` shows that U is too long. Roots: 1 for the principal, positive root, less if an
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

    Everything is computed in float64. Up to 512 rows (or columns, if they are fewer) the figures are exact up to
    rounding: dense products and singular values, about 5 n^2 m multiply-adds. For larger matrices the figures are
    estimates from thin products alone, about 1500 m n multiply-adds. Norms are then within a factor of 1.5 in 9,999
    cases of 10,000. The direction is right to rounding for the exact factor. For other factors it was within 0.04 of
    the true value on 990 problems of eleven kinds of spectra (tests/certify_accuracy.py); the noise alone has a
    standard deviation of at most 0.03 (`nuclear_norm`).

    Args:
        X: (..., m, n), the matrices; square except for the polar factor. With a ridge, pass X + ridge I.
        U: The same shape, the results; any dtype.
        of: "polar", "sign", "sqrt", "inv_sqrt", "root", "inv_root" or "inv".
        p: The exponent of "root" and "inv_root"; the others have none to choose.
        only: "residual" or, for an inverse root, "balanced": this alone, with NaN for the direction of a root, which
            costs 20 times as much. None is every figure.
        exact: Measure larger matrices by dense products and singular values, too.
        generator: Draws the sketch of larger matrices, on the device of X; None is a fixed seed.

    Returns:
        A `Certificate`. For the polar factor of a zero matrix the direction is 1 and the residual 0.

    Raises:
        TypeError: `exact` is no boolean, `generator` no generator, or X or U no dense real tensor with values.
        ValueError: `of` or `only` is another word, p is missing, out of range, or given where `of` has none, shapes or
            devices of X and U differ, or X or U is empty or not finite.
    """
    target = _target(of, p)
    _check_only(only, target)
    if not isinstance(exact, bool):
        raise TypeError(f"certify: exact must be True or False, got {shown(exact)}")
    check_generator(generator, "certify")
    _check_pair(X, U, target)
    scaled, scale = prescale(_wide(X))
    S = None if exact or scaled.shape[-2] <= _DENSE else _signs(scaled, _COLUMNS, generator)
    if target.name == "polar":
        figures = _of_polar(scaled, _wide(U), S)
    else:
        orthogonality, residual = _of_square(target, scaled, scale.undo(_wide(U), -target.homogeneity), S, only)
        absent = target.name in ("sign", "inv") or only is not None
        figures = orthogonality, torch.full_like(residual, torch.nan) if absent else _positivity(_wide(U), S), residual
    return Certificate(*(f.reshape(X.shape[:-2]) for f in figures))


@torch.no_grad()
def balanced_residual(X: Tensor, U: Tensor, p: int, probes: Tensor | None = None) -> Tensor:
    """Estimate ``certify(X, U, of="inv_root", p=p, only="balanced").residual``, (b), by 16 random columns.

    For an error of rank 1, the worst case, the estimate is within a factor of 1.5 in 95 cases of 100, and within a
    factor of 2.2 in 999 cases of 1000. This function leaves out the checks and the scaling of `certify`, which take
    three times as long as the estimate. So X (b, n, n) must be symmetric and finite, with a norm between 1e-100 and
    1e100, and U (b, n, n) finite. Returns (b,).

    `probes` (n, k), in float64, are other random columns with entries of mean square 1. Then U need not be finite: its
    residual is infinite.
    """
    S = _signs(X, _FEW, None) if probes is None else probes
    target = INV_ROOT.with_exponent(p)
    # One by one on a CPU, because the float64 copy is read five times and then stays in the cache.
    single = X.device.type == "cpu" and probes is None
    pairs = zip(X.split(1), U.split(1), strict=True) if single else [(X, U)]
    return torch.cat([_of_square(target, x.to(S.dtype), u.to(S.dtype), S, "balanced")[1] for x, u in pairs])


def _wide(A: Tensor) -> Tensor:
    """Return the matrices with their short side first, (b, n, m), in float64."""
    A = A if A.shape[-2] <= A.shape[-1] else A.mT
    return A.to(torch.float64).reshape(-1, *A.shape[-2:])


def _check_pair(X: Tensor, U: Tensor, target: Target) -> None:
    for name, argument in (("X", X), ("U", U)):
        check_matrix(argument, replace(target, verb="certify"))
        check_readable(argument, "certify")
        if argument.numel() == 0:
            raise ValueError(f"certify needs nonempty matrices, got {name} of shape {tuple(argument.shape)}")
        check_finite(argument, "certify")
    if X.shape != U.shape:
        raise ValueError(f"certify compares matrices of one shape, got X {tuple(X.shape)} and U {tuple(U.shape)}")
    if X.device != U.device:
        raise ValueError(f"certify compares matrices on one device, got X on {X.device} and U on {U.device}: move U")


def _check_only(only: str | None, target: Target) -> None:
    inverse_root = target.name in ("inv_sqrt", "inv_root")
    known = {"residual": target.name not in ("polar", "sign"), "balanced": inverse_root, None: True}
    if not (only is None or isinstance(only, str)) or not known.get(only):
        raise ValueError(
            'certify: only must be "residual" (of a root or an inverse), "balanced" (of an inverse root) or None; '
            f"got {shown(only)} of {target.name}"
        )


def _target(of: str, p: int | None) -> Target:
    named = {target.name: target for target in TARGETS}
    if not isinstance(of, str) or of not in named:
        raise ValueError(f"certify: of must be one of {', '.join(named)}, got {shown(of)}")
    if of in ("root", "inv_root"):
        if p is None:
            raise ValueError(f"certify needs the exponent of {of}: pass p=..., for example p=4")
        return replace(named[of], verb="certify").with_exponent(p)
    if p is not None:
        raise ValueError(
            f"certify: {of} has no exponent to choose, got p={shown(p)}: leave it out, or take of='root' or 'inv_root'"
        )
    return named[of]


def _of_polar(X: Tensor, U: Tensor, S: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the figures of a polar factor; X (b, n, m) has norm 1 or is zero."""
    n = X.shape[-2]
    W, weight = _weighed(X, S)

    def times(V: Tensor) -> Tensor:
        return (X @ (U.mT @ V) + U @ (X.mT @ V)) / 2  # sym(X U^T) V

    orthogonality = _norm(orthonormality(U, W), weight / n**0.5)
    residual = _norm(U.mT @ times(W) - X.mT @ W, weight)
    scaled, scale = prescale(U)
    inner = (X * scaled).sum((-2, -1))
    length = (scale.norm.squeeze((-2, -1)), scale.peak.squeeze((-2, -1)))
    nuclear = torch.linalg.svdvals(X).sum(-1) if S is None else nuclear_norm(X, S, times, inner * length[0] * length[1])
    return orthogonality, _cosine(inner, nuclear, *length), residual


def _of_square(target: Target, X: Tensor, U: Tensor, S: Tensor | None, only: str | None) -> tuple[Tensor, Tensor]:
    """Return orthogonality and residual of a square function."""
    n = X.shape[-1]
    W, weight = _weighed(X, S)
    absent = torch.full_like(X[:, 0, 0], torch.nan)
    right = target.p - target.p // 2 if only == "balanced" else 0
    defect = _norm(power_defect(target, X, U, W, right)[0], weight)
    if target.name == "sign":
        residual = U @ (U @ (X @ W) + X @ (U @ W)) / 2 - X @ W
        return defect / n**0.5, _norm(residual, weight)
    return absent, defect if target.homogeneity > 0 else defect / n**0.5


def _norm(E: Tensor, weight: float) -> Tensor:
    """Return weight ||E||_F; infinity if E has NaN, which is left when two products overflow and are subtracted."""
    return torch.linalg.matrix_norm(E).mul(weight).nan_to_num(nan=torch.inf, posinf=torch.inf)


def _weighed(X: Tensor, S: Tensor | None) -> tuple[Tensor, float]:
    """Return W and c with ||A||_F = c ||A W||_F: the identity and 1, or S, for which the squares agree on average."""
    if S is not None:
        return S, S.shape[-1] ** -0.5
    return torch.eye(X.shape[-2], dtype=X.dtype, device=X.device), 1.0


def _signs(X: Tensor, columns: int, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        generator = torch.Generator(device=X.device).manual_seed(0)
    return torch.randint(0, 2, (X.shape[-2], columns), generator=generator, device=X.device).to(torch.float64) * 2 - 1


def _positivity(U: Tensor, S: Tensor | None) -> Tensor:
    """Return tr(U) / ||U||_*, the direction of U towards I, the polar factor of positive matrices."""
    U, _ = prescale(U)
    trace = U.diagonal(dim1=-2, dim2=-1).sum(-1)
    return _cosine(trace, torch.linalg.svdvals(U).sum(-1) if S is None else nuclear_norm(U, S, U.matmul, trace))


def _cosine(inner: Tensor, nuclear: Tensor, *factors: Tensor) -> Tensor:
    """Return inner / nuclear times the factors, cut to [-1, 1]; 1 for a zero matrix."""
    ratio = torch.where(nuclear > 0, inner / nuclear.clamp(min=torch.finfo(nuclear.dtype).tiny), 1.0)
    for factor in factors:  # one by one: their product may overflow
        ratio = torch.where(nuclear > 0, ratio * factor, 1.0)
    return ratio.clamp(-1, 1)
