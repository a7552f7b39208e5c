"""Root method: the minimax composition with the fewest products for inverse roots of a spectrum of known bound."""

from functools import lru_cache
from math import floor, log10

from ..engines.cost import coupled_products
from ..iteration.target import INV_ROOT
from ..methods import PolarExpress

__all__ = ["ERROR", "few_products"]

ERROR = 1e-4  # worst error of an eigenvalue of the root, relative
_MOST = 16  # steps; more than any bound above 1e-16 needs


def few_products(p: int, lower: float) -> PolarExpress:
    """The composition within `ERROR` that takes the fewest products in `Coupled`, in degrees that float32 bears.

    A step costs 1 + t(p - 1) + 1 products beside its polynomial (`products_of`), so degree 9 (two products) is cheaper
    than degree 5 (one product): (9, 9, 9, 9) takes 23 products for p = 4 and a ridge of 1e-6. But a high degree
    amplifies the rounding of the first steps, where M is far from I: the balanced residual became 1.7 in float32, that
    of quintics is .02. In the last steps it does no harm. So the steps are quintics, then at most one of degree 9, then
    at most one of degree 3, which has no product of its own: (5, 5, 5, 5, 9) takes 26 products, quintics 31.

    Args:
        p: The order of the inverse p-th root.
        lower: Lower bound of s = m^(1/p), in (0, 1). It is rounded down to two digits, so that factors of many sizes
            share one schedule.

    Raises:
        ValueError: If the bound is not in (0, 1), as without a ridge.
    """
    if not 0 < lower < 1:
        raise ValueError(f"lower must be in (0, 1), got {lower}: a ridge gives it")
    unit = 10.0 ** (floor(log10(lower)) - 1)
    return _few_products(p, max(1.0, floor(lower / unit)) * unit)


@lru_cache(maxsize=64)
def _few_products(p: int, lower: float) -> PolarExpress:
    # Products in float32 overshoot by about 1e-6, so a safety of 1e-4 is enough. 1e-2 would cost accuracy.
    candidates = (PolarExpress(degrees, lower=lower, cushion=0.0, safety=1.0001) for degrees in _by_products(p))
    return next(method for method in candidates if method.schedule(p).error() < ERROR)


def _by_products(p: int) -> list[tuple[int, ...]]:
    """The degrees of all candidates, by the number of products; among equals the fewest steps first."""
    target = INV_ROOT.with_exponent(p)
    found = [
        (5,) * fives + (9,) * nines + (3,) * threes
        for fives in range(1, _MOST + 1)
        for nines in range(2)
        for threes in range(2)
    ]

    def products(degrees: tuple[int, ...]) -> int:
        return len(tuple(coupled_products([(degree - 1) // 2 for degree in degrees], 1, target)))

    return sorted(found, key=lambda degrees: (products(degrees), len(degrees)))
