"""Execute: every function runs through this door: scale, prepare, iterate or evaluate, scale back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..engines import Gram, gram_error
from ..engines.restarts import symmetric_error
from ..errors import SpectrumError, which
from ..iteration.protocols import Evaluation, Fitted, Method, Scheduled, Summed
from ..iteration.schedule import Schedule
from ..iteration.target import POLAR, Domain, Target
from ..linalg.definite import check_definite
from ..linalg.norms import Scale, prescale, prescale_
from ..linalg.rank import completed, on_the_range, on_the_range_if_deficient
from ..methods import Exact
from .arguments import check_method
from .plan import TOLERATED, Purpose, RunPlan, resolve
from .preparation import deflated_gram, prepared, tightened

__all__ = ["accurate", "bears_gram", "evaluated_sum", "execute", "execute_", "factor_of_gram", "polar_factor"]


def execute(plan: RunPlan, A: Tensor, key: int | Tensor = 0) -> Tensor:
    """Compute the function of each matrix of A (..., m, n) by a plan made for their shape, dtype and device.

    `key` selects the sketches of methods that use any (`sketch_key`). The result is new memory, (..., m, n),
    contiguous, in the dtype of A.
    """
    if A.numel() == 0:
        return A.clone()
    flat = A.reshape(-1, *A.shape[-2:])
    parts = _parts(flat, plan)
    if len(parts) == 1 or torch.compiler.is_compiling() or (torch.is_grad_enabled() and A.requires_grad):
        return _whole(plan, flat, key).to(A.dtype).reshape(A.shape).contiguous()
    U = torch.empty_like(A, memory_format=torch.contiguous_format)
    for part, into in zip(parts, _parts(U.view(flat.shape), plan), strict=True):
        into.copy_(_whole(plan, part, key))
    return U


def execute_(plan: RunPlan, A: Tensor) -> None:
    """Compute as `execute` in place of A (b, m, n), float32 or float64, not empty, without derivatives.

    The plan is for the polar factor, by a method that iterates. A serves as memory, because the first pass over new
    memory takes several times as long as the next, and an optimizer already holds A.
    """
    for part in _parts(A, plan):
        part.copy_(_whole(plan, part, 0) if plan.on_range else _iterated(plan, part, 0, prescale_))


def _parts(stack: Tensor, plan: RunPlan) -> tuple[Tensor, ...]:
    """Split a stack (b, m, n) into parts whose iterates stay in the cache of a CPU."""
    if plan.parts is None:
        return (stack,)
    return stack.split(max(1, plan.parts // (stack.shape[-2] * stack.shape[-1])))


def _whole(plan: RunPlan, A: Tensor, key: int | Tensor) -> Tensor:
    """Compute the function of a stack (b, m, n), in a dtype at least as wide as the dtype of the iteration."""
    method = plan.method
    if isinstance(method, Evaluation):
        result = method.evaluate(plan.target, A.to(plan.precision))
        if not isinstance(result, Tensor) or result.shape != A.shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"{method!r}.evaluate must return shape {tuple(A.shape)}, got {got}")
        return result
    if not plan.on_range:
        return _iterated(plan, A, key, prescale)
    wide = A.to(torch.promote_types(A.dtype, torch.float32))
    U = _iterated(plan, wide, key, prescale).to(wide.dtype)
    return on_the_range(U, prescale(wide)[0], plan.wide.mm)


def _iterated(plan: RunPlan, A: Tensor, key: int | Tensor, scale: Callable[[Tensor], tuple[Tensor, Scale]]) -> Tensor:
    """Divide by the norm, prepare, run the engine, scale back in float32 at least if the function has a scale."""
    assert plan.engine is not None
    assert plan.iteration is not None
    target = plan.target
    X, first, divisor = prepared(
        target, A, plan.preparation, plan.precision, plan.wide, plan.products, plan.thin, scale
    )
    # Pass ownership, so that the engine can free the first iterate and the first M early.
    held: list[Any] = [first, X]
    del X, first
    result = plan.engine.run(target, held.pop(), plan.iteration, plan.products, key, held.pop())
    return (
        result
        if target.homogeneity == 0
        else divisor.undo(result.to(torch.promote_types(A.dtype, torch.float32)), target.homogeneity)
    )


def bears_gram(plan: RunPlan) -> bool:
    """Whether the plan's polar factor can be computed from the Gram matrix alone: a schedule that needs no restart."""
    schedule = plan.iteration
    if plan.target is not POLAR or not isinstance(schedule, Schedule) or schedule.rational or plan.on_range:
        return False
    wide = torch.promote_types(plan.dtype, torch.float32)
    return gram_error(schedule, (), wide) <= TOLERATED


def symmetric_factor(plan: RunPlan) -> bool:
    """Whether the Q of `factor_of_gram` is symmetric: without deflation, if rounding errors may be spread over it."""
    assert isinstance(plan.iteration, Schedule)
    wide = torch.promote_types(plan.dtype, torch.float32)
    return not plan.preparation.deflation and symmetric_error(plan.iteration, wide) <= TOLERATED


def factor_of_gram(plan: RunPlan, M: Tensor) -> Tensor:
    """Return Q (n, n) with Q X the polar factor of a wide X, from M = X X^T (n, n) of trace 1, or zero.

    For a tall X with M = X^T X the polar factor is X Q^T. The iteration runs in the dtype of M, float32 or float64,
    because M in half precision has lost the small singular values. The plan must pass `bears_gram`.
    """
    assert isinstance(plan.iteration, Schedule)
    M, D, factor = M[None], None, None
    if int(plan.preparation.deflation * M.shape[-1]):
        M, D = deflated_gram(M, plan.preparation.deflation, plan.wide)
    if plan.preparation.norm != "frobenius":
        M, factor = tightened(M, plan.target.p)
    Q = Gram.factor(plan.target, M, plan.iteration, plan.wide)
    Q = Q if factor is None else Q * factor
    Q = (Q if D is None else plan.wide.mm(Q, D))[0]
    return (Q + Q.mT) / 2 if symmetric_factor(plan) else Q


def evaluated_sum(target: Target, A: Tensor, method: Method | None, eps: float) -> Tensor | None:
    """Compute the function of A + ridge I, (..., n, n) in float64, if the method is `Summed`; None if not.

    `eps` is the machine epsilon of the dtype that A had before the ridge was added. The default method is `Exact()`.
    """
    method = Exact() if method is None else check_method(method, target.verb)
    if not isinstance(method, Summed) or A.numel() == 0:
        return None
    return method.evaluate_sum(target, A.reshape(-1, *A.shape[-2:]), eps).reshape(A.shape)


def accurate(target: Target, A: Tensor, method: Method | None, key: int | Tensor = 0) -> Tensor:
    """Compute as `execute`, for verbs that may wait for the device: the method may look at A, the spectrum is checked.

    A (..., m, n) is finite, float32 or float64, and symmetric for a root; the default method is `Exact()`.

    Raises:
        ValueError: If the method deflates, which costs digits.
        SpectrumError: For a root of an indefinite matrix, or an inverse root of a singular one, whatever the method.
    """
    method = _fitted(target, A, method)
    if isinstance(method, Scheduled):
        try:
            method.schedule(target.p)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None
    plan = resolve(target, method, (A.shape[-2], A.shape[-1]), A.dtype, A.device, purpose=Purpose.DIGITS)
    iterates = plan.iteration is not None
    if not isinstance(plan.method, Exact) and target.domain is Domain.SPD and A.numel():  # `Exact` tests it, too
        check_definite(A, str(target), target.homogeneity < 0)
    result = execute(plan, A, key)
    if iterates and not bool(torch.isfinite(result).all()):
        scaled = prescale(A.reshape(-1, *A.shape[-2:]))[0]
        finite = torch.isfinite(result if target.homogeneity == 0 else execute(plan, scaled, key)).all(-1).all(-1)
        if not bool(finite.all()):  # else the numbers of the result are too large, which the verb refuses
            first = scaled[int((~finite.reshape(-1)).nonzero()[0])]
            raise SpectrumError(
                f"{target} by {plan.method!r} diverged for {which(~finite)}: {_cause(target, first)}; method=Exact() "
                "takes every matrix for which the function is defined"
            )
    return result


def _cause(target: Target, A: Tensor) -> str:
    """Name the likely cause of the divergence for one matrix A (m, n)."""
    wider = "" if A.dtype == torch.float64 else ", or pass float64"
    if target.domain is Domain.SPD:
        return f"it is too ill-conditioned for an iteration in {A.dtype}: add ridge=...{wider}"
    if target.name == "inv":
        return f"the steps see the square of its condition number, too large for {A.dtype}: add ridge=...{wider}"
    if target.name == "sign" and bool((A.mT == A).all()):
        return f"it is too ill-conditioned for an iteration in {A.dtype}" + wider.replace(", or", ":")
    if target.name == "sign":
        return "an iteration needs a real spectrum off zero"
    return "the steps do not fit the singular values: take a smaller lower bound" + wider


def polar_factor(A: Tensor, factor: str, method: Method | None, key: int | Tensor = 0) -> Tensor:
    """Compute the polar factor on the range, or completed: see `matfn.polar`."""
    if factor == "complete" and A.numel() > 0 and (method is None or isinstance(method, Exact)):
        return Exact().complete_polar(A.reshape(-1, *A.shape[-2:])).to(A.dtype).reshape(A.shape)
    U = accurate(POLAR, A, method, key)
    if A.numel() == 0:
        return U
    scaled, _ = prescale(A.reshape(-1, *A.shape[-2:]))
    flat = U.reshape(scaled.shape)
    if factor == "complete":
        flat = completed(flat, scaled)
    elif method is not None and not isinstance(method, Evaluation):  # a decomposition has already removed small values
        flat = on_the_range_if_deficient(flat, scaled)
    return flat.reshape(A.shape)


def _fitted(target: Target, A: Tensor, method: Method | None) -> Method | None:
    """Let the method look at the matrices (..., m, n) if it is `Fitted`; may wait for the device."""
    method = None if method is None else check_method(method, target.verb)
    if not isinstance(method, Fitted) or A.numel() == 0:
        return method
    return method.fitted(target, prescale(A.reshape(-1, *A.shape[-2:]))[0])
