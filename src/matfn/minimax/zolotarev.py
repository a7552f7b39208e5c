"""Zolotarev: the best rational functions of type (2r+1, 2r), as partial fractions, and their compositions.

On [lower, 1] the odd function

    f(s) = s prod_j (m + c_2j) / (m + c_(2j-1)),   m = s^2,   c_i = lower^2 sc^2(i K / (2r + 1), k), i = 1 .. 2r,

with sc = sn/cn, modulus k = (1 - lower^2)^(1/2) and complete elliptic integral K, is the best approximation of a
constant by a function of this type: f(s)/f(1) lies between f(lower)/f(1) and 1. The composition of two such functions
(the second for the image interval) is a Zolotarev function of degree (2r+1)^2. r = 1 is the dynamically weighted Halley
step.

The code uses the complementary modulus, which is `lower` itself: for lower = 1e-16, k rounds to 1 in double precision
and arccos(lower) loses all digits of `lower`.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .remez import CONTEXT

__all__ = ["MOST_TERMS", "Fraction", "compositions", "least_terms", "zolotarev"]

MOST_TERMS = 8  # the largest r for which two compositions are known to be backward stable; reaches 1e-16
_STEPS = 40  # each step raises `lower` to the power 1/(2r + 1) or higher; the limit turns a bug into an error


@dataclass(frozen=True)
class Fraction:
    """q(m) = constant + sum_j weights_j / (m + shifts_j) with s q(s^2) = f(s)/f(1), in double precision.

    The constant is 1/f(1). The shifts, c_(2j-1), ascend. All weights and shifts are positive, so the sum does not
    cancel.

    Attributes:
        interval: Design interval [lower, 1].
        image: The least value on the interval, at `lower`; the greatest is 1.
        error: 1 - image, computed before rounding, so that small errors keep their digits.
    """

    constant: float
    weights: tuple[float, ...]
    shifts: tuple[float, ...]
    interval: tuple[float, float]
    image: float
    error: float


def zolotarev(r: int, lower: Any) -> tuple[Fraction, Any]:
    """Compute the best function of type (2r+1, 2r) on [lower, 1], and the lower end of its image in extended precision.

    Args:
        r: Number of terms, at least 1.
        lower: In (0, 1).

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
    """Compute functions of type (2r+1, 2r), each best on the image of the function before, the first one on [lower, 1].

    The last image is in [1 - tolerance, 1]; `lower` and `tolerance` lie in (0, 1).
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
    """Return the least r for which `steps` functions reach `tolerance` from `lower`, at most `MOST_TERMS`."""
    for r in range(1, MOST_TERMS):
        if len(compositions(r, lower, tolerance)) <= steps:
            return r
    return MOST_TERMS


def _means(lower: Any) -> list[tuple[Any, Any]]:
    """Run the arithmetic-geometric mean from (1, lower): pairs (a_n, c_n) with c_n = (a_(n-1) - b_(n-1)) / 2."""
    a, b, pairs = CONTEXT.mpf(1), lower, []
    pairs.append((a, CONTEXT.zero))  # c_0 = k is never used
    while abs(a - b) > CONTEXT.eps * 2**10 * a:
        a, b, c = (a + b) / 2, CONTEXT.sqrt(a * b), (a - b) / 2
        pairs.append((a, c))
    return pairs


def _sc2(fraction: Any, means: list[tuple[Any, Any]]) -> Any:
    """Compute sn^2/cn^2 at `fraction` K by Landen's transformation: phi_N = 2^N a_N u with K = pi / (2 a_N)."""
    ctx = CONTEXT
    phi = ctx.ldexp(fraction * ctx.pi / 2, len(means) - 1)
    for a, c in reversed(means[1:]):
        phi = (phi + ctx.asin(c / a * ctx.sin(phi))) / 2
    return ctx.tan(phi) ** 2
