"""Zolotarev functions against mpmath's elliptic functions, against alternation, and against each other."""

import math

import mpmath
import numpy as np
import pytest

from loops import looped
from matfn import QDWH, PolarExpress, ZoloPD
from matfn.iteration.partial_fraction import PartialFraction
from matfn.minimax.zolotarev import compositions, least_terms, zolotarev

LOWERS = (1e-18, 1e-16, 1e-14, 1e-8, 1e-3, 0.1, 0.5, 0.9, 0.999)
every_lower = looped("lower", LOWERS)


def step(fraction):
    return PartialFraction(fraction.constant, fraction.weights, fraction.shifts)


def mapped(fraction, s):
    return s * step(fraction)(s**2)


@every_lower
@pytest.mark.parametrize("r", [1, 2, 5, 8])
def test_shifts_are_those_of_elliptic_functions(r, lower):
    """c_i = l^2 sn^2/cn^2 in 100 digits: to double rounding even where the modulus is 1 - 1e-36.

    The reference implementation goes by arccos(lower) in double precision, and is 1.3 % off at 1e-16.
    """
    fraction, _ = zolotarev(r, lower)
    ctx = mpmath.MPContext()
    ctx.dps = 100
    m = 1 - ctx.mpf(lower) ** 2
    K = ctx.ellipk(m)
    for j, t in enumerate(fraction.shifts):
        u = (2 * j + 1) * K / (2 * r + 1)
        want = ctx.mpf(lower) ** 2 * (ctx.ellipfun("sn", u, m=m) / ctx.ellipfun("cn", u, m=m)) ** 2
        assert abs(t / want - 1) <= 2.3e-16


@every_lower
@pytest.mark.parametrize("r", [1, 2, 3, 6, 8])
def test_the_error_alternates(r, lower):
    """2r + 2 extremes of equal size on [lower, 1], which is what makes the function the best of its type."""
    fraction, image = zolotarev(r, lower)
    middle, deviation = (1 + image) / 2, (1 - image) / 2
    assert fraction.image == float(image)
    if fraction.error < 1e-10:
        return  # rounding of the double-precision map is larger than its error
    s = np.concatenate([[lower], step(fraction).critical(2, lower, 1.0), [1.0]])
    assert len(s) == 2 * r + 2
    signs = (-1.0) ** np.arange(1, 2 * r + 3)
    assert np.abs((mapped(fraction, s) - float(middle)) - signs * float(deviation)).max() <= 1e-13
    grid = np.geomspace(lower, 1, 20_001)
    assert np.abs(mapped(fraction, grid) - float(middle)).max() <= float(deviation) + 1e-13


@every_lower
def test_weights_and_shifts_are_positive(lower):
    """Nothing cancels in the sum of partial fractions, nor under- or overflows in float32."""
    tiny, huge = 1.2e-38, 3.4e38
    for r in range(1, 9):
        fraction, _ = zolotarev(r, lower)
        assert fraction.constant > 0
        assert min(fraction.weights) > 0
        assert tiny < fraction.shifts[0]
        assert list(fraction.shifts) == sorted(fraction.shifts)
        assert fraction.weights[0] / fraction.shifts[0] < huge


@pytest.mark.parametrize("lower", [1e-16, 1e-6, 1e-2, 0.3])
def test_one_term_is_the_halley_step_of_qdwh(lower):
    """a, b, c in closed form, in 60 digits."""
    fraction, image = zolotarev(1, lower)
    ctx = mpmath.MPContext()
    ctx.dps = 60
    low = ctx.mpf(lower)
    d = ctx.cbrt(4 * (1 - low**2) / low**4)
    a = ctx.sqrt(1 + d) + ctx.sqrt(2 - d + 2 * (2 - low**2) / (low**2 * ctx.sqrt(1 + d)))
    b = (a - 1) ** 2 / 4
    c = a + b - 1
    assert abs(fraction.constant / (b / c) - 1) <= 2.3e-16
    assert abs(fraction.weights[0] / ((a - b / c) / c) - 1) <= 2.3e-16
    assert abs(fraction.shifts[0] * c - 1) <= 2.3e-16
    assert abs(image / (low * (a + b * low**2) / (1 + c * low**2)) - 1) <= 1e-40


@pytest.mark.parametrize(("r", "t"), [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)])
def test_a_composition_is_the_function_of_the_product_degree(r, t):
    """Type (2r+1, 2r) after type (2t+1, 2t) is type ((2r+1)(2t+1), ...): the reason that two steps suffice."""
    lower = 1e-5
    first, image = zolotarev(t, lower)
    second, end = zolotarev(r, image)
    whole, once = zolotarev(((2 * r + 1) * (2 * t + 1) - 1) // 2, lower)
    assert abs(end / once - 1) <= 1e-40
    s = np.geomspace(lower / 10, 1, 200)
    assert np.abs(mapped(second, mapped(first, s)) / mapped(whole, s) - 1).max() <= 1e-12


@pytest.mark.parametrize(
    ("condition", "r"), [(6.4, 2), (179, 3), (1.4e4, 4), (1.9e6, 5), (0.9e9, 6), (2.9e12, 7), (1e16, 8)]
)
def test_terms_by_condition_number(condition, r):
    """The published table, at its ends, is what the functions themselves say for 5 eps."""
    assert least_terms(1 / condition, 1.11e-15) == r
    assert len(compositions(r, 1 / condition, 1.11e-15)) == 2


def test_the_steps_of_qdwh():
    """Six steps at most from 1e-16, fewer from a known bound (the table of the specification)."""
    assert QDWH().schedule().steps == 6
    assert {lower: QDWH(lower).schedule().steps for lower in (1e-2, 1e-4, 1e-8)} == {1e-2: 4, 1e-4: 4, 1e-8: 5}
    images = [low for low, _ in QDWH(2.0**-52).schedule().images()]
    assert images == pytest.approx([1.5e-5, 0.0624, 0.796, 0.99982, 1, 1], rel=0.05)
    assert all(high == pytest.approx(1, abs=1e-15) for _, high in QDWH().schedule().images())


@pytest.mark.parametrize("lower", [1e-16, 1e-10, 1e-4, 0.1, 0.9])
def test_two_steps_of_zolo(lower):
    method = ZoloPD(lower=lower)
    schedule = method.schedule()
    assert schedule.steps <= 2
    assert schedule.error() <= 1.5e-15
    assert ZoloPD(r=1, lower=lower).schedule().rows == QDWH(lower=lower).schedule().rows


def test_images_of_a_schedule_are_those_of_its_map():
    for method in (QDWH(1e-7), ZoloPD(3, 1e-7)):
        schedule = method.schedule()
        grid = np.geomspace(1e-7, 1, 50_001)
        for s, (low, high), (interval, top) in zip(
            schedule.trace(grid), schedule.images(), [*schedule.intervals[1:], (None, None)], strict=True
        ):
            assert s.min() == pytest.approx(low, rel=1e-6)
            assert s.max() == pytest.approx(high, rel=1e-6)
            assert interval is None or (interval == pytest.approx(low, rel=1e-12) and top == 1)


def test_a_schedule_of_fractions_has_no_coefficients():
    with pytest.raises(TypeError, match=r"QDWH\(.*steps without coefficients: look at its rows"):
        _ = QDWH().schedule().coefficients


@looped("r", [0, -1, 1.5, True, "2"])
def test_r_is_a_positive_integer(r):
    with pytest.raises(ValueError, match="r must be a positive integer, got"):
        zolotarev(r, 0.1)


@looped("r", [0, 9, 1.5, True, "2"])
def test_r_of_the_method(r):
    with pytest.raises(ValueError, match="r must be None or an integer from 1 to 8, got"):
        ZoloPD(r)


@looped("lower", [0, 1, -1e-3, 1e-20, math.nan, math.inf, True, "1e-3"])
@pytest.mark.parametrize("method", [QDWH, ZoloPD])
def test_lower_is_a_bound(method, lower):
    with pytest.raises(ValueError, match="lower must be a number in"):
        method(lower=lower)


@looped("tolerance", [0, 1, -1, math.nan, True, None])
@pytest.mark.parametrize("method", [QDWH, ZoloPD])
def test_tolerance_is_a_bound(method, tolerance):
    with pytest.raises(ValueError, match="tolerance must be a number in"):
        method(tolerance=tolerance)


def test_an_interval_needs_two_ends():
    for lower in (0, 1, 2, -0.1):
        with pytest.raises(ValueError, match="lower must lie in"):
            zolotarev(2, lower)


def test_only_square_roots():
    for method in (QDWH(), ZoloPD()):
        with pytest.raises(ValueError, match=r"p = 2 alone .*p = 3"):
            method.schedule(3)
    assert PolarExpress().schedule(3).p == 3
