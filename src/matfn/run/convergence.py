"""Convergence: tests on random signs whether the result of an iteration satisfies the equation of its function."""

import inspect
import math
import warnings

import torch
from torch import Tensor

from ..errors import ConvergenceWarning, SpectrumError
from ..iteration.defect import EQUATION, isometry, power_defect
from ..iteration.protocols import Fitted, Method, Scheduled
from ..iteration.schedule import Schedule
from ..iteration.target import Target
from ..linalg.norms import prescale
from ..methods import Exact
from .direction import misdirected

__all__ = ["check_converged"]

_COLUMNS = 16  # as in `certify`: estimates a norm within a factor of about 1.5
# In units of eps times condition. Converged steps left 0.25 at most for inv, and 0.8 for inverse roots up to p = 8, at
# condition 10 to 1e6.
_ROUNDING = 8.0
_MOST = 0.1  # larger residuals are reported whatever the condition: not two digits are left
_ASKED = 0.01  # a larger error of the schedule is no excuse: the verbs promise all digits


@torch.no_grad()
def check_converged(target: Target, A: Tensor, U: Tensor, method: Method | None, dtype: torch.dtype) -> None:
    """Warn if the steps ended too early; refuse a sign that no real spectrum explains.

    The residual is estimated on 16 random signs by at most 2 p products with as many columns, and one number is read
    from the device. The allowed residual is the sum of

    - sqrt(eps), half of the digits: the next step would have given the others. Coupled steps for square roots leave
      sqrt(condition) eps, which is no more for a matrix that is not singular;
    - for inverses 8 eps times the condition number, at most 0.1 in all; for a sign sqrt(eps) ||S||_F^2 / n instead;
    - 2 p times the error of the schedule or the `tol` of the method, if this error is at most 0.01, and 2 p times the
      rounding that the coefficients of a schedule amplify;
    - p times the eps of `dtype`, to which the verb rounds U: more than sqrt(eps) for half precision alone.

    A small residual does not show that this is the wanted solution of the equation; `misdirected` tests that.

    `Exact` (None is `Exact`) is not checked, and nothing is checked under `torch.compile`. The argument A and the
    result U, (..., m, n), are float32 or float64 and finite.

    Raises:
        SpectrumError: For a sign whose residual is larger than too few steps leave for real eigenvalues; for a method
            that measures the spectrum, as `QDWH()` and `ZoloPD()`, larger than rounding explains.
    """
    if method is None or isinstance(method, Exact) or A.numel() == 0 or torch.compiler.is_compiling():
        return
    scaled, scale = prescale(A.reshape(-1, *A.shape[-2:]))
    U = scale.undo(U.reshape(scaled.shape).to(scaled.dtype), -target.homogeneity)
    rounded = torch.finfo(dtype).eps
    if not _residual_explained(target, scaled, U, method, rounded):
        return
    if found := misdirected(target, scaled, U, method, rounded):
        worst, what = found
        stable = "a method that keeps small values, such as QDWH()" if target.homogeneity == 0 else "other steps"
        given = _given(target, method, worst, len(scaled))
        _warn(f"{given} left {what}. Take {stable}, {_wider(scaled)}or method=Exact()")


def _residual_explained(target: Target, X: Tensor, U: Tensor, method: Method, rounded: float) -> bool:
    """Return whether rounding and the asked error explain the residual; if they do not, warn or raise first.

    `rounded` is the eps of the dtype to which U will be rounded.
    """
    residual, condition = _residual(target, X, U if U.shape[-2] <= U.shape[-1] else U.mT)
    eps = torch.finfo(X.dtype).eps
    allowed = math.sqrt(eps) * condition if target.name == "sign" else math.sqrt(eps) + _ROUNDING * eps * condition
    excess = torch.nan_to_num(residual / allowed.clamp(max=_MOST), nan=math.inf)
    worst = int(excess.argmax())
    size, limit = residual[worst].item(), min(_MOST, allowed[worst].item())
    if excess[worst] <= 1:
        return True
    given = (
        f"{_given(target, method, worst, len(residual))} left a residual {EQUATION[target.name]} of about {size:.2g}, "
        "where rounding"
    )
    if target.name == "sign" and (_measures(method) or not size <= _of_real(method)):
        raise SpectrumError(
            f"{given} explains {limit:.2g}. An iteration needs real eigenvalues off zero; method=Exact() takes every "
            "spectrum off the imaginary axis"
        )
    if size <= limit + target.p * (rounded + 2 * (_asked(target, method) + _lifted(target, method) * eps)):
        return True
    _warn(
        f"{given} explains {limit:.2g}. It has not converged: take more steps, a `lower` below the spectrum, if it has "
        f"one, {_wider(X)}or method=Exact()"
    )
    return False


def _residual(target: Target, X: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Return the residual of each matrix, and the condition number that multiplies its rounding (0 for none)."""
    n = U.shape[-2]
    generator = torch.Generator(device=X.device).manual_seed(0)
    S = torch.randint(0, 2, (n, _COLUMNS), generator=generator, device=X.device).to(X.dtype) * 2 - 1
    norm, weight = torch.linalg.matrix_norm, (n * _COLUMNS) ** -0.5  # of S itself it gives 1
    if target.name == "polar":
        return norm(isometry(U, S)) * weight, torch.zeros_like(X[:, 0, 0])
    # With X between the powers of U, an error that does not commute with X counts least (`certify`). An inverse stands
    # on the left, as in its steps; the residual of X U grows with the square of the condition number.
    right = target.p - (1 if target.name == "inv" else max(1, target.p // 2))
    defect, W = power_defect(target, X, U, S, right)
    if target.name == "sign":
        return norm(defect) * weight, torch.linalg.vector_norm(U, dim=(-2, -1)).square().div(n).clamp(min=1.0)
    if target.homogeneity > 0:
        residual = norm(defect) * _COLUMNS**-0.5  # X has norm 1, or is zero
        return residual, torch.zeros_like(residual)
    for _ in range(target.p - right):
        W = U @ W
    return norm(defect) * weight, norm(W) * _COLUMNS**-0.5 * norm(X)


def _measures(method: Method) -> bool:
    """Tell whether the method measures the least eigenvalue, so that a wrong `lower` is no explanation."""
    return isinstance(method, Fitted) and getattr(method, "lower", 0.0) is None


def _of_real(method: Method) -> float:
    """Twice the largest s^2 - 1 for a real eigenvalue; the steps take s to a value between 0 and 1 + their error."""
    error = method.schedule(2).error() if isinstance(method, Scheduled) else 0.0
    return 2 * max(1.0, (1 + error) ** 2 - 1)


def _asked(target: Target, method: Method) -> float:
    """The error that the method was asked to leave, if it is small."""
    if isinstance(method, Scheduled):
        error = method.schedule(target.p).error()
    else:
        error = getattr(method, "tol", None) or getattr(method, "error", None)
    return error if isinstance(error, float) and error <= _ASKED else 0.0


def _lifted(target: Target, method: Method) -> float:
    """How far the steps amplify rounding: coupled steps do not correct it where it does not commute with A."""
    schedule = method.schedule(target.p) if isinstance(method, Scheduled) else None
    return schedule.rounding if isinstance(schedule, Schedule) else 1.0


def _given(target: Target, method: Method, index: int, count: int) -> str:
    return f"{target} of matrix {index} of {count}, by {method!r}," if count > 1 else f"{target} by {method!r}"


def _wider(X: Tensor) -> str:
    return "" if X.dtype == torch.float64 else "a wider dtype, "


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=_outside())


def _outside() -> int:
    """The stack level of the caller's line, outside this package and torch."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("matfn", "torch"):
        frame, level = frame.f_back, level + 1
    return level
