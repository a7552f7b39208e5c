"""Inverse roots for Shampoo: a ridge relative to each matrix, any method, checked, repeated where the check fails.

This is the one place of an optimizer that waits for the device, and only at the steps at which roots are due.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
from ..options import check_number

__all__ = ["RootMethod", "Roots", "check_roots", "inverse_roots", "minimax", "ridged", "root_plan"]

RootMethod = Method | Callable[[int, float], Method]

_EXACT = Exact()
LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class Roots:
    """What `inverse_roots` found.

    Attributes:
        values: ``(b, n, n)``; of a matrix in `failed` nothing to be used.
        repeated: index and reason of each matrix whose root was computed a second time, with success.
        failed: index and reason of each matrix that has no root.
        zero: index of each matrix of zeros, which counts as the identity.
    """

    values: Tensor
    repeated: tuple[tuple[int, str], ...]
    failed: tuple[tuple[int, str], ...]
    zero: tuple[int, ...]


@lru_cache(maxsize=64)
def minimax(p: int, lower: float) -> PolarExpress:
    """The shortest minimax composition for roots whose bound is known: quintic steps, worst error below 1e-3.

    With a ridge the bound of the spectrum is no guess, so the steps are as few and as gentle as can be: for a ridge of
    1e-6 six of them for p = 4 and seven for p = 2. Products alone, for a device on which decompositions are slow.

    Args:
        p: of the inverse p-th root.
        lower: bound of s = m^(1/p), in (0, 1).

    Raises:
        ValueError: the bound is no number in (0, 1), as it is without a ridge.
    """
    # Products of a float32 iteration overshoot by 1e-6 or so: a safety of 1e-4 is ample, and 1e-2 costs accuracy.
    candidates = (PolarExpress(steps=steps, lower=lower, cushion=0.0, safety=1.0001) for steps in range(2, 60))
    return next(method for method in candidates if method.schedule(p).error() < 1e-3)


def ridged(A: Tensor, ridge: float) -> tuple[Tensor, Scale]:
    """The symmetric part of A, divided by its Frobenius norm, plus ridge I; the identity for a zero matrix.

    The Frobenius norm is at least the largest eigenvalue and at most sqrt(n) times it, and close to it where a ridge
    matters: for a spectrum that decays. So the condition number of the sum is at most 1 + 1/ridge, without an
    eigenvalue being computed.

    Args:
        A: ``(b, n, n)``, symmetric positive semidefinite up to rounding.
        ridge: at least 0.

    Returns:
        The matrices, and what they were divided by.
    """
    scaled, scale = prescale(A)
    X = torch.add(scaled, scaled.mT).mul_(0.5)
    # The norm is 1 or 0, or no number; passes over the matrices take a good part of the time of their roots.
    zero = torch.linalg.vector_norm(scaled, dim=(-2, -1)) == 0
    # Of two Python numbers `where` makes float32, in which a ridge is not what float64 asks for.
    X.diagonal(dim1=-2, dim2=-1).add_(torch.where(zero, torch.ones_like(X[:, 0, 0]), ridge)[:, None])
    return X, scale


def inverse_roots(A: Tensor, p: int, ridge: float, method: RootMethod | None, tolerance: float) -> Roots:
    """(A + ridge ||A||_F I)^(-1/p) of each matrix.

    The residual ||U^a A U^b - I||_F / sqrt(n), a + b = p, of every root that an iteration or `Resolvents` made is
    estimated by `certify` (its "balanced" one); a decomposition either is accurate or raises. Where a residual is above
    `tolerance` or no number, and where a method refuses a matrix, the root is computed again in float64 by `Exact`.

    Args:
        A: ``(b, n, n)``, float32 or float64, symmetric positive semidefinite up to rounding.
        p: at least 1.
        ridge: at least 0; relative.
        method: a method, or a function of p and of the lower bound of s = m^(1/p) that gives one; None is that of
            the run plan.
        tolerance: of the residual.
    """
    X, scale = ridged(A, ridge)
    finite = torch.linalg.vector_norm(X, dim=(-2, -1)).isfinite()
    if not bool(finite.all()):
        X = torch.where(finite[:, None, None], X, torch.eye(X.shape[-1], dtype=X.dtype, device=X.device))
    U, reasons = _roots(X, p, _chosen(X, p, ridge, method), tolerance)
    repeated, failed = [], []
    for i, sound in enumerate(finite.tolist()):
        if not sound:
            failed.append((i, "the factor is not finite"))
        elif reasons[i]:
            again, still = _roots(X[i : i + 1].double(), p, _EXACT, tolerance)
            (failed if still[0] else repeated).append((i, still[0] or reasons[i]))
            U[i] = again[0]
    # The scale of a zero matrix is 1 by convention, and that of few others: no pass over all of them.
    alone = ((scale.peak == 1) & (scale.norm == 1)).flatten().tolist()
    zero = tuple(i for i, unit in enumerate(alone) if unit and not bool(A[i].any()))
    return Roots(scale.undo(U, -1 / p), tuple(repeated), tuple(failed), zero)


def _chosen(X: Tensor, p: int, ridge: float, method: RootMethod | None) -> Method:
    if method is None:
        return _planned(X, p, ridge, None)
    if not isinstance(method, Scheduled | Iteration | Evaluation):  # asked first: a Schedule can be called, too
        method = method(p, lower_bound(p, ridge, X.shape[-1]))
    return _planned(X, p, ridge, method) if isinstance(method, Resolvents) else method


def _planned(X: Tensor, p: int, ridge: float, method: Method | None) -> Method:
    """The method of the run plan: the default for None, with the machine's products."""
    return root_plan(X.shape[-1], p, ridge, X.dtype, X.device, method).method


def root_plan(
    n: int, p: int, ridge: float, dtype: torch.dtype, device: torch.device, method: Method | None = None
) -> RunPlan:
    """How inverse p-th roots of n x n factors with a relative ridge are computed; None is the default method."""
    target = INV_ROOT.with_exponent(p)
    return resolve(target, method, (n, n), dtype, device, purpose=Purpose.STEP, ridge=ridge)


def _roots(X: Tensor, p: int, method: Method, tolerance: float) -> tuple[Tensor, list[str]]:
    """The roots, and of each what is wrong with it: nothing, mostly."""
    short = isinstance(method, Resolvents)
    try:
        # What `inv_rootm` checks holds here, and its passes over X would take as long as a third of the resolvents.
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
        # An even power hides a negative eigenvalue; of a positive definite root there is a Cholesky factor. A sum of
        # resolvents is positive definite as it is made: sums of K^T K, and a line that is positive on the spectrum.
        sound = finite if short else finite & (torch.linalg.cholesky_ex(U / 2 + U.mT / 2).info == 0)
        residuals = torch.where(sound, measured, math.inf)
    return U, ["" if r <= tolerance else f"its residual by {method!r} is {r:.2g}" for r in residuals.tolist()]


def check_roots(root: Any, method: Any, tolerance: Any) -> None:
    """Refuse what says nothing about roots.

    Args:
        root: p for every order, a mapping from orders to p, or None.
        method: a method, a function of p and a lower bound, or None.
        tolerance: a positive number.

    Raises:
        ValueError: a p or an order below 1, or the tolerance is not positive.
        TypeError: `method` or `tolerance` is of another type.
    """
    numbers = [*root, *root.values()] if isinstance(root, Mapping) else [1 if root is None else root]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ValueError(f"root must be p of the inverse p-th root, at least 1, or map orders to p; got {root!r}.")
    known = method is None or isinstance(method, Scheduled | Iteration | Evaluation) or callable(method)
    if not known or (isinstance(method, type)):
        raise TypeError(f"method must be a value such as Prism(), or a function of (p, lower); got {method!r}.")
    if not check_number(tolerance, "tolerance") > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}.")
