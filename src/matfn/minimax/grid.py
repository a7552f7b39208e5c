"""Grid: the minimax polynomial for every ratio lower/upper at once, tabulated between vanishing and one."""

from .remez import CONTEXT, best_odd
from .request import GridRequest, Row

__all__ = ["tabulate"]


def tabulate(request: GridRequest) -> tuple[Row, ...]:
    """The best odd polynomials on [ratio, 1], ascending in the ratio.

    The points are equispaced in log(ratio / (1 - ratio)): geometric in the ratio where it is small and in its distance
    from 1 where that is small. The last row is the first to be Taylor's polynomial to double precision.
    """
    ctx, rows = CONTEXT, []
    for i in range(request.limit):
        ratio = 1 / (1 + ctx.exp(-(ctx.mpf(request.start) + i * ctx.mpf(request.spacing))))
        best = best_odd(request.p, request.k, ratio, 1)
        rows.append(Row(tuple(float(c) for c in best.coefficients), (float(ratio), 1.0), best.converged))
        if best.converged:
            return tuple(rows)
    raise ArithmeticError(f"no converged row among the first {request.limit} of {request}")
