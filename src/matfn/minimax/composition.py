"""Composition: minimax steps, each on the image of the step before, with cushion, recentring, safety; and tables."""

from functools import lru_cache
from typing import Any

from .remez import CONTEXT, Minimax, best_odd, value_of
from .request import GridRequest, Request, Row

__all__ = ["compose", "cushion", "tabulate"]


def compose(request: Request) -> tuple[Row, ...]:
    """Compute the greedy composition, optimal for these degrees if cushion = 0 and safety = 1.

    Each step is the minimax polynomial on the image [l, u] of the step before. If l << u, this polynomial sends some
    large values below smaller ones, which loses precision. The cushion shortens the design interval from the left.
    Recentring then makes the images of the true ends symmetric about 1 again.

    References:
        Amsel et al., "The Polar Express", arXiv 2505.16932, Theorem 3.1.
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
        image = value_of(p, coefficients, low)
        low, high = min(image, 2 - image), max(image, 2 - image)
    return tuple(rows)


@lru_cache(maxsize=64)
def cushion(p: int, k: int) -> Any:
    """Solve (1 - E)/(1 + E) = 1/10 for the ratio lower/upper: the image of this interval has the ratio 1/10.

    For p = 2, k = 2 the ratio is 0.0240732742418..., the constant of the published table.
    """
    ctx = CONTEXT
    target = ctx.mpf(9) / 11
    # E is smooth in log(ratio), and the root lies between 0.001 and 0.09 for p up to 32 and k up to 7. When the secant
    # method stops at a change of 1e-20, the error is far smaller.
    root = ctx.findroot(
        lambda log_ratio: best_odd(p, k, ctx.exp(log_ratio), 1).error - target,
        (ctx.log(ctx.mpf("0.03")), ctx.log(ctx.mpf("0.02"))),
        solver="secant",
        tol=ctx.mpf(10) ** -20,
    )
    return ctx.exp(root)


def _recentred(p: int, best: Minimax, low: Any) -> tuple[Any, ...]:
    """Scale so that the image of the true left end and the largest value are symmetric about 1."""
    if best.converged:
        return best.coefficients
    gain = 2 / (value_of(p, best.coefficients, low) + 1 + best.error)
    return tuple(gain * c for c in best.coefficients)


def _stretched(p: int, coefficients: tuple[Any, ...], factor: Any) -> tuple[Any, ...]:
    """Return the coefficients of f(s / factor)."""
    return tuple(c / factor ** (1 + j * p) for j, c in enumerate(coefficients))


def tabulate(request: GridRequest) -> tuple[Row, ...]:
    """Compute the best odd polynomials on [ratio, 1], in the order of rising ratios.

    The points are equispaced in log(ratio / (1 - ratio)): geometric in the ratio near 0, geometric in 1 - ratio near 1.
    The last row is the first row that equals Taylor's polynomial to double precision.
    """
    ctx, rows = CONTEXT, []
    for i in range(request.limit):
        ratio = 1 / (1 + ctx.exp(-(ctx.mpf(request.start) + i * ctx.mpf(request.spacing))))
        best = best_odd(request.p, request.k, ratio, 1)
        rows.append(Row(tuple(float(c) for c in best.coefficients), (float(ratio), 1.0), best.converged))
        if best.converged:
            return tuple(rows)
    raise ArithmeticError(f"no converged row among the first {request.limit} of {request}")
