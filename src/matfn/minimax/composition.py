"""The composition of minimax steps: the interval recursion with cushion, recentring and safety."""

from functools import lru_cache
from typing import Any

from .remez import CONTEXT, Minimax, best_odd
from .request import Request, Row

__all__ = ["compose", "cushion"]


def compose(request: Request) -> tuple[Row, ...]:
    """The greedy composition, which is optimal among all compositions of these degrees when cushion = 0, safety = 1.

    Each step is the minimax polynomial on the image [l, u] of the step before. Where l << u that polynomial would lift
    tiny values far less than large ones, which loses precision; the cushion shortens the design interval from the left,
    and recentring rescales so that the images of the true ends are again symmetric about 1.

    References:
        Polar Express, Theorem 3.1, Sections 2.3-2.4 of the specification (post-hoc safety; recentring).
    """
    ctx, p = CONTEXT, request.p
    low, high = ctx.mpf(request.lower), ctx.mpf(1)
    rows = []
    for t, degree in enumerate(request.degrees):
        k = (degree - 1) // 2
        kappa = cushion(p, k) if request.cushion is None else ctx.mpf(request.cushion)
        best = best_odd(p, k, max(low, kappa * high), high)
        coefficients = _recentred(p, best, low)
        if t < len(request.degrees) - 1:
            coefficients = _stretched(p, coefficients, ctx.mpf(request.inner_safety))
        final = coefficients if best.converged else _stretched(p, coefficients, ctx.mpf(request.safety))
        rows.append(Row(tuple(float(c) for c in final), (float(low), float(high)), best.converged))
        image = _value(p, coefficients, low)
        low, high = min(image, 2 - image), max(image, 2 - image)
    return tuple(rows)


@lru_cache(maxsize=64)
def cushion(p: int, k: int) -> Any:
    """The ratio lower/upper whose minimax image has ratio exactly one tenth: (1 - E)/(1 + E) = 1/10.

    For p = 2, k = 2 it is 0.0240732742418..., the constant behind the published table.
    """
    ctx = CONTEXT
    target = ctx.mpf(9) / 11
    # E is smooth in log(ratio); the root lies between 0.001 and 0.09 for p from 1 to 32 and k from 1 to 7. The secant
    # method stops at a change of 1e-20, which leaves an error far below that.
    root = ctx.findroot(
        lambda log_ratio: best_odd(p, k, ctx.exp(log_ratio), 1).error - target,
        (ctx.log(ctx.mpf("0.03")), ctx.log(ctx.mpf("0.02"))),
        solver="secant",
        tol=ctx.mpf(10) ** -20,
    )
    return ctx.exp(root)


def _recentred(p: int, best: Minimax, low: Any) -> tuple[Any, ...]:
    """Scale so that the image of the true left end and the largest value lie symmetrically about 1."""
    if best.converged:
        return best.coefficients
    gain = 2 / (_value(p, best.coefficients, low) + 1 + best.error)
    return tuple(gain * c for c in best.coefficients)


def _stretched(p: int, coefficients: tuple[Any, ...], factor: Any) -> tuple[Any, ...]:
    """f(s) -> f(s / factor)."""
    return tuple(c / factor ** (1 + j * p) for j, c in enumerate(coefficients))


def _value(p: int, coefficients: tuple[Any, ...], s: Any) -> Any:
    return s * CONTEXT.polyval(list(reversed(coefficients)), s**p)
