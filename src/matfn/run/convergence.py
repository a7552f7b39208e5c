"""Converged: whether the result of an iteration satisfies the equation of its function, seen by a few random signs."""

import inspect
import math
import warnings

import torch
from torch import Tensor

from ..errors import ConvergenceWarning, SpectrumError
from ..iteration.defect import EQUATION, isometry, power_defect
from ..iteration.protocols import Evaluation, Fitted, Method, Scheduled
from ..iteration.target import Target
from ..linalg.norms import prescale

__all__ = ["check_converged"]

_COLUMNS = 16  # as of `certify`: the estimate of a norm is within a factor 1.5 or so
# In units of eps times condition the residual of converged steps was 0.25 at most for inv and 0.8 for inverse roots up
# to p = 8, in both dtypes, at 8, 32 and 128 rows and condition 10 to 1e6. The check rounds once more.
_ROUNDING = 8.0
_MOST = 0.1  # a residual of a tenth is reported however ill-conditioned the matrix: not two digits are left
_ASKED = 0.01  # a schedule that promises no more than two digits was not made for a verb that promises all


@torch.no_grad()
def check_converged(target: Target, A: Tensor, U: Tensor, method: Method | None) -> None:
    """Warn where steps ended too early, and refuse a sign that no real spectrum explains.

    The residual is estimated on 16 random signs: at most 2 p products with as many columns, and one number that is read
    from the device. That is half a product of n x n matrices for p = 4 from 512 rows on; at 32 rows a tenth of the time
    of twelve steps, most of it calls. It may be as large as

    - sqrt(eps), half of the digits: the next step of an iteration that has come so far would have given the others.
      Square roots by coupled steps leave sqrt(condition) eps, which is no more for any matrix that is not singular;
    - 8 eps times the condition number, of inverses, as far as a tenth; of a sign times ||S||_F^2 / n, its size;
    - 2 p times the error that a schedule promises or a `tol` asks for, where that is at most a hundredth.

    A decomposition is not looked at, and nothing is under `torch.compile`.

    Args:
        target: What was computed.
        A: (..., m, n), the argument, float32 or float64, finite.
        U: The same shape and dtype, finite.
        method: The method; None is a decomposition.

    Raises:
        SpectrumError: For a sign, where the residual is more than steps for real eigenvalues leave however few they
            are; of a method that measures the spectrum, as `QDWH()` and `ZoloPD()` do, more than rounding explains.
    """
    if method is None or isinstance(method, Evaluation) or A.numel() == 0 or torch.compiler.is_compiling():
        return
    scaled, scale = prescale(A.reshape(-1, *A.shape[-2:]))
    U = scale.undo(U.reshape(scaled.shape).to(scaled.dtype), -target.homogeneity)
    residual, condition = _residual(target, scaled, U if U.shape[-2] <= U.shape[-1] else U.mT)
    eps = torch.finfo(scaled.dtype).eps
    allowed = math.sqrt(eps) * condition if target.name == "sign" else math.sqrt(eps) + _ROUNDING * eps * condition
    excess = torch.nan_to_num(residual / allowed.clamp(max=_MOST), nan=math.inf)
    worst = int(excess.argmax())
    if excess[worst] <= 1:
        return
    size, limit = residual[worst].item(), min(_MOST, allowed[worst].item())
    if target.name == "sign" and (_measures(method) or not size <= _of_real(method)):
        raise SpectrumError(
            f"{_given(target, method, worst, len(residual), size, limit)}. An iteration needs real eigenvalues off "
            "zero; method=Exact() takes every spectrum off the imaginary axis"
        )
    if size > limit + 2 * target.p * _asked(target, method):
        warnings.warn(
            f"{_given(target, method, worst, len(residual), size, limit)}. It has not converged: take more steps, a "
            "`lower` below the spectrum, if it has one, a wider dtype, or method=Exact()",
            ConvergenceWarning,
            stacklevel=_outside(),
        )


def _residual(target: Target, X: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """The residual of each matrix of the batch, and the condition that rounding is multiplied by (0 for none)."""
    n = U.shape[-2]
    generator = torch.Generator(device=X.device).manual_seed(0)
    S = torch.randint(0, 2, (n, _COLUMNS), generator=generator, device=X.device).to(X.dtype) * 2 - 1
    norm, weight = torch.linalg.matrix_norm, (n * _COLUMNS) ** -0.5  # of S itself it gives 1
    if target.name == "polar":
        return norm(isometry(U, S)) * weight, torch.zeros_like(X[:, 0, 0])
    # With X in the middle of the powers of U an error that does not commute with X weighs least (`certify`). An inverse
    # stands on the left, as its steps carry U X; X U would be off by the square of the condition number.
    right = target.p - (1 if target.name == "inv" else target.p // 2)
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
    """Whether the method finds the least eigenvalue itself, so that steps made for another are no explanation."""
    return isinstance(method, Fitted) and getattr(method, "lower", 0.0) is None


def _of_real(method: Method) -> float:
    """Twice what s^2 - 1 can be for a real eigenvalue, which steps take to some s between 0 and 1 + their error."""
    error = method.schedule(2).error() if isinstance(method, Scheduled) else 0.0
    return 2 * max(1.0, (1 + error) ** 2 - 1)


def _asked(target: Target, method: Method) -> float:
    """The error that the method was asked to leave, if it is small."""
    error = method.schedule(target.p).error() if isinstance(method, Scheduled) else getattr(method, "tol", None) or 0.0
    return error if error <= _ASKED else 0.0


def _given(target: Target, method: Method, index: int, count: int, size: float, limit: float) -> str:
    which = f" of matrix {index} of {count}" if count > 1 else ""
    return (
        f"{target} by {method!r} left a residual {EQUATION[target.name]} of about {size:.2g}{which}, where rounding "
        f"explains {limit:.2g}"
    )


def _outside() -> int:
    """The stack level of the caller's own line: neither of this package nor of torch, which may lie between."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("matfn", "torch"):
        frame, level = frame.f_back, level + 1
    return level
