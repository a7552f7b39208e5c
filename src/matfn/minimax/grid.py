"""Grid: a table of minimax polynomials for ratios lower/upper between 0 and 1."""

from .remez import CONTEXT, best_odd
from .request import GridRequest, Row

__all__ = ["tabulate"]


def tabulate(request: GridRequest) -> tuple[Row, ...]:
    """Compute the best odd polynomials on [ratio, 1], in the order of rising ratios.

    The points are equispaced in log(ratio / (1 - ratio)): geometric in the ratio near 0, geometric in 1 - ratio near 1.
    The last row is the first row that equals Taylor's polynomial to double precision.

    Raises:
        ArithmeticError: If no row among the first `request.limit` equals Taylor's polynomial.
    """
    ctx, rows = CONTEXT, []
    for i in range(request.limit):
        ratio = 1 / (1 + ctx.exp(-(ctx.mpf(request.start) + i * ctx.mpf(request.spacing))))
        best = best_odd(request.p, request.k, ratio, 1)
        rows.append(Row(tuple(float(c) for c in best.coefficients), (float(ratio), 1.0), best.converged))
        if best.converged:
            return tuple(rows)
    raise ArithmeticError(f"no converged row among the first {request.limit} of {request}")
