"""The minimax solver for every p and degree: equioscillation, optimality, composition, convergence, limits."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loops import looped
from matfn import NewtonSchulz, PolarExpress
from matfn.minimax import Request
from matfn.minimax.composition import compose, cushion
from matfn.minimax.remez import best_odd, taylor

EXPONENTS = (1, 2, 3, 4, 8)
DEGREES = (3, 5, 7, 9, 11, 13)

mp = mpmath.MPContext()  # independent of the library's context, and with more digits
mp.dps = 80


def f(p, coefficients, s):
    """f(s) = sum_j c_j s^(1 + jp), term by term: not Horner's rule, which the library uses."""
    return mp.fsum(mp.mpf(c) * mp.mpf(s) ** (1 + j * p) for j, c in enumerate(coefficients))


@looped("degree", DEGREES)
@pytest.mark.parametrize("p", EXPONENTS)
def test_equioscillation(p, degree):
    k = (degree - 1) // 2
    for lower, upper in ((1e-3, 1.0), (0.05, 1.95), (0.7, 1.3)):
        best = best_odd(p, k, lower, upper)
        assert len(best.points) == k + 2
        assert best.points[0] == lower
        assert best.points[-1] == upper
        for i, x in enumerate(best.points):
            assert abs((1 - f(p, best.coefficients, x)) / ((-1) ** i * mp.mpf(best.error)) - 1) <= 1e-12
        # Nothing between the points exceeds E: 60 extended-precision samples in each gap.
        for a, b in pairwise(best.points):
            for t in range(1, 60):
                x = mp.mpf(a) + (mp.mpf(b) - mp.mpf(a)) * t / 60
                assert abs(1 - f(p, best.coefficients, x)) <= mp.mpf(best.error) * (1 + mp.mpf("1e-12"))


@looped("k", [1, 2, 3, 4])
@pytest.mark.parametrize("p", EXPONENTS)
def test_no_perturbation_is_better(p, k):
    best = best_odd(p, k, 0.05, 1)
    s = np.unique(np.concatenate([[float(x) for x in best.points], np.geomspace(0.05, 1, 200)]))
    powers = np.stack([s ** (1 + j * p) for j in range(k + 1)])
    c = np.array([float(c) for c in best.coefficients])
    generator = np.random.default_rng(p * 10 + k)
    for scale in (1e-8, 1e-4, 1e-2, 1.0):
        trial = c * (1 + scale * generator.standard_normal((1000, k + 1)))
        worst = np.abs(1 - trial @ powers).max(axis=1)
        # Rounding of the sum: eps times the sum of the absolute values of its terms.
        assert worst.min() >= float(best.error) - 4 * np.finfo(float).eps * np.abs(c).sum()


@looped("lower", ["1e-3", "1e-6", "1e-9", "1e-12", "1e-15"])
@pytest.mark.parametrize("p", EXPONENTS)
def test_extreme_lower_bounds(p, lower):
    for k in (1, 2, 4, 6):
        best = best_odd(p, k, lower, 1)
        assert 0 < 1 - best.error < 1
        assert abs((1 - f(p, best.coefficients, lower)) / mp.mpf(best.error) - 1) <= 1e-30
        # f(l) = 1 - E is about c_0 l: one step can lift l by a bounded factor only.
        assert float((1 - best.error) / mp.mpf(lower)) == pytest.approx(float(best.coefficients[0]), rel=0.05)


@pytest.mark.parametrize("lower", [1e-100, 1e-300])
def test_absurd_lower_bounds_still_compose(lower):
    rows = compose(Request(2, (5,) * 20, lower, None, 1.01))
    lows = [row.interval[0] for row in rows]
    assert lows[0] == lower
    # The cushioned row on (0, 1], then the same on (0, 2] at every step: half the gain.
    gains = [b / a for a, b in pairwise(lows)]
    assert gains == pytest.approx([8.3216937] + [8.3216937 / 2] * 18, rel=1e-7)


@looped("k", [1, 2, 4, 6])
@pytest.mark.parametrize("p", EXPONENTS)
def test_the_switch_to_taylor_is_seamless(p, k):
    last = None
    for gap in np.geomspace(1e-10, 0.5, 60)[::-1]:
        best = best_odd(p, k, *(ends := (1 - mp.mpf(gap), 1 + mp.mpf(gap))))
        if best.converged:
            break
        last = best
    assert last is not None
    # The switch asks for Taylor's error, 2^k times the minimax error of the interval one notch (1.46) wider.
    assert best.error <= 1e-17
    assert last.error * 2**k >= 0.9e-17
    assert max(abs(1 - f(p, best.coefficients, s)) for s in ends) <= 1.2e-17, "below double rounding"
    assert max(abs(1 - f(p, best.coefficients, s)) for s in ends) == pytest.approx(float(best.error), rel=0.1)
    assert [float(c) for c in best.coefficients] == [float(c) for c in taylor(p, k)], "the middle is 1: exactly Taylor"


@looped("k", [1, 2, 4])
@pytest.mark.parametrize("p", EXPONENTS)
def test_minimax_tends_to_taylor(p, k):
    distance = [
        max(abs(float(a - b)) for a, b in zip(best_odd(p, k, 1 - g, 1 + g).coefficients, taylor(p, k), strict=True))
        for g in (1e-1, 1e-2, 1e-3)
    ]
    assert distance[0] > distance[1] > distance[2]
    # Coefficients differ in second order: shifting Chebyshev's nodes about 1 changes them by O(g^2).
    assert distance[2] <= 1.5e-2 * distance[1]


@pytest.mark.parametrize("p", EXPONENTS)
@looped("degree", [3, 5, 7, 9])
def test_newton_schulz_rows_are_the_binomial_series(p, degree):
    row, *others = NewtonSchulz(degree, 3).schedule(p).coefficients
    assert all(other == row for other in others)
    binomials = [1.0]  # of (1 + z)^(-1/p)
    for j in range((degree - 1) // 2):
        binomials.append(binomials[-1] * (-1 / p - j) / (j + 1))
    for m in (0.0, 0.3, 1.0, 1.7):
        expected = sum(b * (m - 1) ** j for j, b in enumerate(binomials))
        assert sum(c * m**j for j, c in enumerate(row)) == pytest.approx(expected, rel=1e-13)


def test_taylor_steps_of_the_literature():
    assert NewtonSchulz(3).schedule().coefficients[0] == (1.5, -0.5)
    assert NewtonSchulz(5).schedule().coefficients[0] == (15 / 8, -10 / 8, 3 / 8)
    assert NewtonSchulz(7).schedule().coefficients[0] == (35 / 16, -35 / 16, 21 / 16, -5 / 16)
    assert NewtonSchulz(3).schedule(p=1).coefficients[0] == (2, -1), "Newton's iteration for the inverse"
    assert NewtonSchulz(5).schedule(p=1).coefficients[0] == (3, -3, 1), "Chebyshev's"
    assert NewtonSchulz(3).schedule(p=4).coefficients[0] == (1.25, -0.25), "coupled Newton, (p + 1 - m)/p"


@pytest.mark.parametrize("p", EXPONENTS)
@looped("degrees", [(5, 5, 5, 5), (9, 9, 5), (3, 7, 5), (3, 3, 3, 3, 3)])
def test_interval_recursion(p, degrees):
    rows = compose(Request(p, degrees, 1e-2, 0.0, 1.0))
    low, high = mp.mpf("0.01"), mp.mpf(1)
    for row, degree in zip(rows, degrees, strict=True):
        assert len(row.coefficients) == (degree + 1) // 2
        assert row.interval == pytest.approx((float(low), float(high)), rel=1e-15)
        error = best_odd(p, (degree - 1) // 2, low, high).error
        low, high = 1 - mp.mpf(error), 1 + mp.mpf(error)


@pytest.mark.parametrize("p", [1, 3, 4])
def test_greedy_is_global(p):
    rows = compose(Request(p, (5, 3), 0.03, 0.0, 1.0))
    flat = np.array([c for row in rows for c in row.coefficients])
    s = np.geomspace(0.03, 1, 401)

    def worst(c):
        y = s * (c[:, 0:1] + s**p * (c[:, 1:2] + s**p * c[:, 2:3]))
        return np.abs(1 - y * (c[:, 3:4] + y**p * c[:, 4:5])).max(axis=1)

    generator = np.random.default_rng(p)
    with np.errstate(over="ignore"):
        for scale in (1e-3, 1e-2, 1e-1):
            trial = flat * (1 + scale * generator.standard_normal((5000, 5)))
            # The grid misses the true maximum by a second-order amount, at most the width of a grid cell squared.
            assert worst(trial).min() >= worst(flat[None])[0] - 1e-4


@pytest.mark.parametrize("p", EXPONENTS)
@looped("degree", [3, 5, 7, 9])
def test_order_of_convergence(p, degree):
    k = (degree - 1) // 2
    error = mp.mpf("1e-3")
    after = mp.mpf(best_odd(p, k, 1 - error, 1 + error).error)
    # E = C e^(k+1) / 2^k (1 + O(e)) with Taylor's constant C = |binom(-1/p, k+1)| p^(k+1); Chebyshev gains 2^k.
    constant = abs(mp.binomial(-mp.mpf(1) / p, k + 1)) * p ** (k + 1)
    assert float(after / (constant * error ** (k + 1) / 2**k)) == pytest.approx(1, abs=5e-2)


# Steps from eigenvalues in [1e-6, 1], minimax / Taylor, for p = 1, 2, 3, 4, 8. The design table,
# said to be for 1e-6, holds for a worst error of s of 1e-5, but for the 19 of p = 8 (18); 1e-6 takes at most one
# step more.
STEPS = {
    (3, 1e-5): ((13, 24), (10, 21), (9, 20), (9, 19), (8, 18)),
    (3, 1e-6): ((13, 24), (11, 21), (10, 20), (9, 19), (8, 18)),
    (5, 1e-5): ((8, 15), (7, 14), (6, 13), (6, 13), (6, 12)),
    (5, 1e-6): ((9, 15), (7, 14), (7, 13), (6, 13), (6, 12)),
}


@looped(("degree", "tolerance"), STEPS)
@pytest.mark.parametrize("p", EXPONENTS)
def test_half_the_steps_of_taylor_for_every_p(p, degree, tolerance):
    lower = 1e-6 ** (1 / p)
    s = np.geomspace(lower, 1, 2001)

    def steps(method):
        return next(t for t, y in enumerate(method.schedule(p).trace(s), 1) if np.abs(1 - y).max() <= tolerance)

    express = PolarExpress(degree, steps=16, lower=lower, cushion=0, safety=1)
    assert (steps(express), steps(NewtonSchulz(degree, steps=30))) == STEPS[degree, tolerance][EXPONENTS.index(p)]


@pytest.mark.parametrize("p", EXPONENTS)
@looped("k", [1, 2, 3, 4])
def test_cushion_image_has_ratio_ten(p, k):
    error = best_odd(p, k, cushion(p, k), 1).error
    assert abs(float((1 + error) / (1 - error)) - 10) <= 1e-14


@given(
    p=st.integers(1, 16),
    k=st.integers(1, 7),
    log_ratio=st.floats(-15, -1e-8, exclude_max=True),
    upper=st.floats(1e-3, 1e3),
)
def test_the_exchange_converges_from_anywhere(p, k, log_ratio, upper):
    lower = mp.mpf(upper) * mp.mpf(10) ** mp.mpf(log_ratio)
    best = best_odd(p, k, lower, upper)
    assert best.sweeps <= 12
    ends = [1 - f(p, best.coefficients, x) for x in (lower, upper)]
    if not best.converged:
        assert abs(ends[0] / mp.mpf(best.error) - 1) <= 1e-20
        assert abs(ends[1] / ((-1) ** (k + 1) * mp.mpf(best.error)) - 1) <= 1e-20
        assert all(a < b for a, b in pairwise(best.points))


@looped("method", [PolarExpress, NewtonSchulz])
@looped("degree", [3, 5, 9, 13])
@pytest.mark.parametrize("p", EXPONENTS)
def test_images_are_the_exact_range(p, degree, method):
    schedule = method(degree=degree, steps=4).schedule(p)
    s = np.geomspace(schedule.lower, 1, 20001)
    for (low, high), y in zip(schedule.images(), schedule.trace(s), strict=True):
        # No sample lies outside; and the range is attained, but for what 20001 samples of a steep map leave out.
        assert low - 1e-9 <= y.min() <= low + 1e-3
        assert high - 1e-3 <= y.max() <= high + 1e-9
    assert schedule.error() == max(1 - low, high - 1)
