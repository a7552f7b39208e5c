"""Inverse roots: how the roots of Shampoo's factors are computed, checked and repeated.

Here the host reads the verdict of each root at once. That is free on a CPU; `device_roots` is the way for a GPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ...certify import balanced_residual
from ...errors import SpectrumError
from ...iteration.protocols import Evaluation, Iteration, Method, Scheduled
from ...iteration.target import INV_ROOT
from ...kernels.products import without_autocast
from ...linalg.norms import Scale, prescale
from ...methods import Exact, PolarExpress
from ...methods.resolvents.resolvents import Resolvents
from ...run.execute import accurate
from ...run.plan import Purpose, RunPlan, lower_bound, resolve

__all__ = [
    "NOT_FINITE",
    "RootMethod",
    "Roots",
    "chosen",
    "exact_root",
    "inverse_roots",
    "minimax",
    "ridged",
    "root_plan",
]

RootMethod = Method | Callable[[int, float], Method]

NOT_FINITE = "the factor is not finite"
_EXACT = Exact()
LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Roots:
    """The result of `inverse_roots`."""

    values: Tensor  # (b, n, n); without meaning for matrices in `failed`
    repeated: tuple[tuple[int, str], ...]  # (index, reason) where a second computation succeeded
    failed: tuple[tuple[int, str], ...]  # (index, reason) where it failed, too
    zero: tuple[int, ...]  # indices of zero matrices, which count as the identity


@lru_cache(maxsize=64)
def minimax(p: int, lower: float) -> PolarExpress:
    """The shortest minimax composition of quintic steps with a worst error below 1e-3 for roots of known bound.

    A ridge gives the exact bound of the spectrum, so few steps suffice: for a ridge of 1e-6 six for p = 4 and seven for
    p = 2. They are products only, for devices on which decompositions are slow.

    Args:
        p: The order of the inverse p-th root.
        lower: Lower bound of s = m^(1/p), in (0, 1).

    Raises:
        ValueError: If the bound is not in (0, 1), as without a ridge.
    """
    # Products in float32 overshoot by about 1e-6, so a safety of 1e-4 is enough. 1e-2 would cost accuracy.
    candidates = (PolarExpress(steps=steps, lower=lower, cushion=0.0, safety=1.0001) for steps in range(2, 60))
    return next(method for method in candidates if method.schedule(p).error() < 1e-3)


def ridged(A: Tensor, ridge: float) -> tuple[Tensor, Scale]:
    """The symmetric part of A ``(b, n, n)`` divided by ||A||_F, plus ridge I; and the divisor. Zero gives the identity.

    ||A||_F is at least the largest eigenvalue and at most sqrt(n) times it, and close to it for a spectrum that decays,
    where a ridge matters. So the condition number of the sum is at most 1 + 1/ridge without computing an eigenvalue.
    """
    scaled, scale = prescale(A)
    X = torch.add(scaled, scaled.mT).mul_(0.5)
    zero = torch.linalg.vector_norm(scaled, dim=(-2, -1)) == 0
    # `where` makes float32 of two Python numbers, and a ridge rounded to float32 is wrong in float64.
    X.diagonal(dim1=-2, dim2=-1).add_(torch.where(zero, torch.ones_like(X[:, 0, 0]), ridge)[:, None])
    return X, scale


def inverse_roots(A: Tensor, p: int, ridge: float, method: RootMethod | None, tolerance: float) -> Roots:
    """(A + ridge ||A||_F I)^(-1/p) of each matrix.

    `certify` estimates the "balanced" residual ||U^a A U^b - I||_F / sqrt(n), a + b = p, of each root that an iteration
    or `Resolvents` computed. A decomposition is accurate or raises. If a residual is above `tolerance` or not finite,
    or a method refuses a matrix, the root is computed again in float64 by `Exact`.

    Args:
        A: ``(b, n, n)``, float32 or float64, symmetric positive semidefinite up to rounding.
        p: At least 1.
        ridge: Relative to ||A||_F, at least 0.
        method: A method, or a function of p and of the lower bound of s = m^(1/p) that returns one. None is the
            method of the run plan.
        tolerance: The greatest residual accepted.
    """
    X, scale = ridged(A, ridge)
    finite = torch.linalg.vector_norm(X, dim=(-2, -1)).isfinite()
    if not bool(finite.all()):
        X = torch.where(finite[:, None, None], X, torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
    U, reasons = _roots(X, p, chosen(X, p, ridge, method), tolerance)
    repeated, failed = [], []
    for i, sound in enumerate(finite.tolist()):
        if not sound:
            failed.append((i, NOT_FINITE))
        elif reasons[i]:
            again, still = exact_root(X[i : i + 1], p, tolerance)
            (failed if still else repeated).append((i, still or reasons[i]))
            U[i] = again[0]
    # The scale of a zero matrix is 1 by convention. Few other matrices have it, which saves a pass over all of them.
    unit = ((scale.peak == 1) & (scale.norm == 1)).flatten().tolist()
    zero = tuple(i for i, candidate in enumerate(unit) if candidate and not bool(A[i].any()))
    return Roots(scale.undo(U, -1 / p), tuple(repeated), tuple(failed), zero)


def exact_root(X: Tensor, p: int, tolerance: float) -> tuple[Tensor, str]:
    """The root ``(1, n, n)`` of one matrix by `Exact` in float64, and the reason why there is none, or ""."""
    root, reasons = _roots(X.double(), p, _EXACT, tolerance)
    return root, reasons[0]


def chosen(X: Tensor, p: int, ridge: float, method: RootMethod | None) -> Method:
    """The method itself; for None and `Resolvents` the run plan's method, with the products of the machine."""
    if not (method is None or isinstance(method, Scheduled | Iteration | Evaluation)):  # some methods are callable, too
        method = method(p, lower_bound(p, ridge, X.shape[-1]))
    if method is None or isinstance(method, Resolvents):
        return root_plan(X.shape[-1], p, ridge, X.dtype, X.device, method).method
    return method


def root_plan(
    n: int, p: int, ridge: float, dtype: torch.dtype, device: torch.device, method: Method | None = None
) -> RunPlan:
    """The run plan of inverse p-th roots of n x n factors with a relative ridge. None is the default method."""
    target = INV_ROOT.with_exponent(p)
    return resolve(target, method, (n, n), dtype, device, purpose=Purpose.STEP, ridge=ridge)


def _roots(X: Tensor, p: int, method: Method, tolerance: float) -> tuple[Tensor, list[str]]:
    """The roots, and for each the reason why it is refused, or ""."""
    short = isinstance(method, Resolvents)
    try:
        # `inv_rootm` would check X once more, which takes a third of the time of the resolvents.
        target = INV_ROOT.with_exponent(p)
        with without_autocast(X):
            U = method.evaluate(target, X) if short else accurate(target, X, method)
    except (SpectrumError, LinAlgError) as error:
        if len(X) == 1:
            return torch.zeros_like(X), [" ".join(str(error).split())]
        single = [_roots(X[i : i + 1], p, method, tolerance) for i in range(len(X))]  # one of them spoils the batch
        return torch.cat([U for U, _ in single]), [reason for _, (reason,) in single]
    finite = torch.linalg.vector_norm(U, dim=(-2, -1)).isfinite()
    if not bool(finite.all()):
        U = torch.where(finite[:, None, None], U, 0.0)
    residuals = torch.where(finite, 0.0, math.inf)
    if short or not isinstance(method, Evaluation):
        measured = balanced_residual(X, U, p)
        # An even power hides negative eigenvalues of a root, which a Cholesky factorization finds. Sums of resolvents
        # are positive definite: they add K^T K and a line that is positive on the spectrum.
        sound = finite if short else finite & (torch.linalg.cholesky_ex(U / 2 + U.mT / 2).info == 0)
        residuals = torch.where(sound, measured, math.inf)
    return U, ["" if r <= tolerance else f"its residual by {method!r} is {r:.2g}" for r in residuals.tolist()]
