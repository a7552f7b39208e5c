"""Root method: the minimax composition with the fewest products for inverse roots of a spectrum of known bound."""

from collections.abc import Iterator
from functools import lru_cache
from math import floor, log10

from ..engines.cost import coupled_products
from ..iteration.target import INV_ROOT
from ..methods import PolarExpress

__all__ = ["ERROR", "few_products"]

# Worst error of an eigenvalue of the root, relative. Rounding in float32 changes it by up to 1e-2 at a ridge of 1e-6.
ERROR = 1e-4
_MOST = 12  # steps; more than any bound above 1e-16 needs


def few_products(p: int, lower: float) -> PolarExpress:
    """The composition within `ERROR` that takes the fewest products in `Coupled`.

    A step costs 1 + t(p - 1) + 1 products beside its polynomial (`products_of`), so degree 9 (two products) beats
    degree 5 (one product): for p = 4 and a ridge of 1e-6 it takes 23 products instead of 31. In float32 both were
    equally accurate, for conditions up to 1e8 (tests/optim/test_root_accuracy_float32.py). A last step of degree 3 has
    no product of its own.

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
    # A step of degree 9 amplifies the rounding of M by up to 1400, to 1e-4 of M = s^p in float32.
    candidates = (PolarExpress(degrees, lower=lower, cushion=0.0, safety=1.0003) for degrees in _by_products(p))
    return next(method for method in candidates if method.schedule(p).error() < ERROR)


def _by_products(p: int) -> Iterator[tuple[int, ...]]:
    """Falling degrees 9, 5 and 3 (the last step alone), by the number of products; among equals the fewest steps."""
    found = [
        (9,) * nines + (5,) * fives + (3,) * threes
        for nines in range(_MOST + 1)
        for fives in range(_MOST + 1 - nines)
        for threes in range(2)
        if nines + fives + threes
    ]
    target = INV_ROOT.with_exponent(p)

    def products(degrees: tuple[int, ...]) -> int:
        return len(tuple(coupled_products([(degree - 1) // 2 for degree in degrees], 1, target)))

    yield from sorted(found, key=lambda degrees: (products(degrees), len(degrees)))
