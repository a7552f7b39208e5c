"""Zolotarev's best rational functions: type (2r+1, 2r), their partial fractions, and compositions of them.

On [lower, 1] the odd function

    f(s) = s prod_j (m + c_2j) / (m + c_(2j-1)),   m = s^2,   c_i = lower^2 sc^2(i K / (2r + 1), k), i = 1 .. 2r,

with sc = sn/cn, modulus k = (1 - lower^2)^(1/2) and K its complete integral, approximates a constant best among all of
its type: f(s)/f(1) runs between its least value f(lower)/f(1) and 1. Composed with itself (for the image interval)
it is again a Zolotarev function, of degree (2r+1)^2: two do what one of much higher degree does. r = 1 is the
dynamically weighted Halley step.

Everything goes by the complementary modulus, which is `lower` itself: k is 1 to any working precision when `lower` is
1e-16, and a detour over arccos(lower) loses all that `lower` says.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .remez import CONTEXT

__all__ = ["MOST_TERMS", "Fraction", "compositions", "least_terms", "zolotarev"]

MOST_TERMS = 8  # the largest r that was shown to keep two compositions backward stable, and enough for 1e-16
_STEPS = 40  # lower grows by the power 1/(2r + 1) a step at least; the cap only turns a defect into an error


@dataclass(frozen=True)
class Fraction:
    """q(m) = constant + sum_j weights_j / (m + shifts_j) with s q(s^2) = f(s)/f(1), in double precision.

    All weights and shifts are positive, so evaluating the sum cancels nothing.

    Attributes:
        constant: 1/f(1) > 0.
        weights: r numbers.
        shifts: r numbers, the c_(2j-1), ascending.
        interval: [lower, 1], for which it was made.
        image: The least value on it, which is taken at `lower`; the greatest is 1.
        error: 1 - image, which `image` cannot hold where it is small.
    """

    constant: float
    weights: tuple[float, ...]
    shifts: tuple[float, ...]
    interval: tuple[float, float]
    image: float
    error: float


def zolotarev(r: int, lower: Any) -> tuple[Fraction, Any]:
    """The best function of type (2r+1, 2r) on [lower, 1], and the lower end of its image in extended precision.

    Args:
        r: Number of terms, at least 1.
        lower: In (0, 1).

    Raises:
        ValueError: If r is no positive integer, or not 0 < lower < 1.

    References:
        Nakatsukasa, Freund, "Computing fundamental matrix decompositions accurately via the matrix sign function in two
        iterations", SIAM Review 58 (2016): equations 3.3-3.5. N. I. Achieser, Theory of Approximation, appendix E.
    """
    ctx = CONTEXT
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        raise ValueError(f"r must be a positive integer, got {r!r}: it is the number of partial fractions")
    lower = ctx.mpf(lower)
    if not 0 < lower < 1:
        raise ValueError(f"lower must lie in (0, 1), got {ctx.nstr(lower)}")
    means = _means(lower)
    c = [lower**2 * _sc2(ctx.mpf(i) / (2 * r + 1), means) for i in range(1, 2 * r + 1)]
    zeros, poles = c[1::2], c[0::2]

    def f(s: Any) -> Any:
        return s * ctx.fprod((s**2 + z) / (s**2 + t) for z, t in zip(zeros, poles, strict=True))

    top = f(ctx.mpf(1))
    weights = [ctx.fprod(z - t for z in zeros) / ctx.fprod(u - t for u in poles if u is not t) / top for t in poles]
    image = f(lower) / top
    fraction = Fraction(
        float(1 / top),
        tuple(float(w) for w in weights),
        tuple(float(t) for t in poles),
        (float(lower), 1.0),
        float(image),
        float(1 - image),
    )
    return fraction, image


@lru_cache(maxsize=256)
def compositions(r: int, lower: float, tolerance: float) -> tuple[Fraction, ...]:
    """Functions of type (2r+1, 2r), each best on the image of the one before, until that is [1 - tolerance, 1].

    Args:
        r: Terms of each.
        lower: Where to begin, in (0, 1).
        tolerance: When to stop, in (0, 1).
    """
    steps, low = [], CONTEXT.mpf(lower)
    for _ in range(_STEPS):
        fraction, low = zolotarev(r, low)
        steps.append(fraction)
        if fraction.error <= tolerance:
            return tuple(steps)
    raise ArithmeticError(f"no convergence to {tolerance:g} in {_STEPS} steps from lower = {lower:g} (r = {r})")


@lru_cache(maxsize=256)
def least_terms(lower: float, tolerance: float, steps: int = 2) -> int:
    """The least r with which `steps` compositions reach `tolerance` from `lower`; `MOST_TERMS` if none does."""
    for r in range(1, MOST_TERMS):
        if len(compositions(r, lower, tolerance)) <= steps:
            return r
    return MOST_TERMS


def _means(lower: Any) -> list[tuple[Any, Any]]:
    """The arithmetic-geometric mean from (1, lower): pairs (a_n, c_n) with c_n = (a_(n-1) - b_(n-1)) / 2."""
    a, b, pairs = CONTEXT.mpf(1), lower, []
    pairs.append((a, CONTEXT.zero))  # c_0 = k is never used
    while abs(a - b) > CONTEXT.eps * 2**10 * a:
        a, b, c = (a + b) / 2, CONTEXT.sqrt(a * b), (a - b) / 2
        pairs.append((a, c))
    return pairs


def _sc2(fraction: Any, means: list[tuple[Any, Any]]) -> Any:
    """sn^2/cn^2 at `fraction` K, by Landen's transformation: phi_N = 2^N a_N u with K = pi / (2 a_N)."""
    ctx = CONTEXT
    phi = ctx.ldexp(fraction * ctx.pi / 2, len(means) - 1)
    for a, c in reversed(means[1:]):
        phi = (phi + ctx.asin(c / a * ctx.sin(phi))) / 2
    return ctx.tan(phi) ** 2
