"""Claims C8, C9, C11, C21 (figures, overshoot, outliers) and what each degree costs. All on scalars."""

import numpy as np
import pytest

from matfn import NewtonSchulz, PolarExpress, Schedule, Tuned
from matfn.minimax import Request
from matfn.minimax.composition import compose
from studies.polar_express.degrees import mixed
from studies.polar_express.maps import SYNTHETIC, first_steps, outlier, spectral, told


@pytest.fixture(scope="module")
def figure3():
    """Spectral error after each step for singular values 1e-6 .. 1, log-spaced (Figure 3, left)."""
    return lambda method: spectral(method.schedule(), SYNTHETIC)


def test_c08_newton_schulz_idles_and_jordan_plateaus(figure3):
    jordan = figure3(Tuned("jordan", steps=20))
    assert jordan[9] > 0.7
    assert jordan[10:] == pytest.approx([0.318] * 10, abs=2e-3)
    assert figure3(NewtonSchulz(steps=17))[-1] == pytest.approx(0.956, abs=5e-3)


def test_c08_polar_express_told_the_bound(figure3):
    errors = figure3(told(1e-6, steps=12))
    assert errors[10] <= 1.2e-4
    assert errors[11] <= 1e-11


@pytest.mark.parametrize(("lower", "first"), [(1e-8, 13), (1e-4, 14)])
def test_c08_a_bound_off_by_100_delays_the_lead(figure3, lower, first):
    # Counted from step 11, where Jordan's has reached its plateau.
    jordan = figure3(Tuned("jordan", steps=20))
    errors = figure3(told(lower, steps=20))
    assert next(t for t in range(11, 21) if errors[t - 1] < jordan[t - 1]) == first
    assert errors[-1] <= 1e-14, "a wrong bound costs steps, never convergence"


def test_c09_cushioning_lifts_the_small_gains():
    raw, cushioned, _ = first_steps().values()
    a, b, c = raw.coefficients
    assert a + 3 * b + 5 * c == pytest.approx(25.46, abs=0.01)
    x = np.linspace(0.005, 1, 100001)
    assert raw(x**2).min() == pytest.approx(0.0505, abs=5e-5)
    assert cushioned(x**2).min() == pytest.approx(0.2377, abs=5e-5)


def test_c09_the_stabilised_first_step():
    schedule = PolarExpress(lower=0.005).schedule()
    row = schedule.rows[0]
    a, b, c = row.coefficients
    local_minimum = np.sqrt(np.roots([5 * c, 3 * b, a]).max())
    assert row(local_minimum**2) == pytest.approx(0.2358, abs=5e-4)
    x = np.linspace(0.005, 1.01, 100001)
    assert row(x**2).min() == pytest.approx(0.2353, abs=5e-5)
    assert (x * row(x**2)).max() <= schedule.intervals[1][1] + 1e-13


@pytest.mark.parametrize(
    ("safety", "threshold", "tolerance"),
    [(1.0, 1.0000041, 1e-6), (1.01, 1.01092, 1e-4), (1.02, 1.02184, 1e-4), (1.05, 1.05468, 1e-4)],
)
def test_c11_the_largest_start_that_converges(safety, threshold, tolerance):
    schedule = PolarExpress(steps=40, safety=safety).schedule()

    def converges(x):
        with np.errstate(over="ignore", invalid="ignore"):
            return abs(schedule(np.float64(x)) - 1) <= 1e-9

    low, high = 1.0, 1.2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if converges(middle) else (low, middle)
    assert low == pytest.approx(threshold, abs=tolerance)


def test_c21_a_cubic_in_front_removes_an_outlier():
    # sigma_j = j^-5 scaled to ||.||_F = 1, as the claim's 32 x 32 matrix; z is what a power method finds.
    sigma = np.arange(1, 33) ** -5.0
    sigma /= np.linalg.norm(sigma)
    z = sigma[0]
    assert z == pytest.approx(0.999503, abs=1e-6)
    w = np.sqrt(1 - z**2)
    cubic = outlier(z)
    first = Schedule((cubic,), 2, 1e-3, "outlier cubic")
    assert first(z) == pytest.approx(1, abs=1e-13)
    assert first(w) == pytest.approx(1, abs=1e-13)
    assert first(sigma[1]) / sigma[1] == pytest.approx(31.7252, abs=5e-4)
    assert 1 / w == pytest.approx(31.7247, abs=5e-3)
    assert (first(sigma)[1:] / sigma[1:]).min() >= 1 / w
    assert first(sigma).max() <= 1 + 1e-13
    assert first(1.0) == pytest.approx(0.96991, abs=5e-5)
    express = PolarExpress(lower=1e-4).schedule()
    both = Schedule((cubic, *express.rows[:4]), 2, 1e-4, "outlier cubic, then four steps")
    small = sigma[1:8]
    assert np.abs(1 - both(small)).mean() < np.abs(1 - express(small)).mean()


# A symmetric product costs half: 3, 4 and 5 half-products for degree 3, 5 and 9 on a square matrix.
COST = {3: 3, 5: 4, 9: 5}


@pytest.mark.parametrize(("budget", "expected"), [(16, 0.546), (20, 0.113), (24, 9.2e-4)])
def test_cost_of_quintics_only(budget, expected):
    got = PolarExpress(steps=budget // COST[5], cushion=0, safety=1).schedule().error()
    assert got == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("degrees", "cost", "expected"),
    [((9, 9, 9), 15, 0.450), ((9, 9, 9, 9), 20, 0.0099), ((9, 9, 9, 9, 5), 24, 5.96e-7)],
)
def test_cost_of_mixed_degrees(degrees, cost, expected):
    assert sum(COST[d] for d in degrees) == cost
    assert PolarExpress(degree=degrees, cushion=0, safety=1).schedule().error() == pytest.approx(expected, rel=6e-3)


@pytest.mark.parametrize(
    ("budget", "expected", "degrees"),
    [(16, 0.450, (9, 9, 9)), (20, 0.0099, (9, 9, 9, 9)), (24, 3.189e-7, (5, 9, 9, 9, 9))],
)
def test_best_mix_of_a_budget(budget, expected, degrees):
    # The order matters: a quintic first and four of degree 9 err half as much as the same with the quintic last.
    error, found = mixed(budget / 2)
    assert found == degrees
    assert error == pytest.approx(expected, rel=6e-3)


def test_high_degrees_are_for_high_precision():
    # In bfloat16 (unit roundoff 2^-8) the first step of degree 9 is noise; in float32 it is fine.
    row = compose(Request(2, (9,), 1e-3, 0.0, 1.0))[0].coefficients
    amplified = sum(abs(c) for c in row)
    assert amplified == pytest.approx(1567, abs=1)
    assert amplified * 2**-8 > 1
    assert amplified * 2**-24 < 1e-3
