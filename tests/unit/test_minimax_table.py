"""The table of minimax steps: best on their intervals, looked up from below, and what rounding is allowed to do."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import matfn
from loops import looped
from matfn import RitzMinimax
from matfn.iteration.residual import Residual
from matfn.iteration.step import Magnified, Polynomial
from matfn.kernels import EAGER
from matfn.methods.ritz_minimax.table import SPACING, START, best_step, chain, lower_ends, table
from matfn.minimax.remez import best_odd
from matrices import of_singular_values

ROUNDOFFS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
every_roundoff = looped("roundoff", ROUNDOFFS.values())
every_table = pytest.mark.parametrize(("p", "k"), [(1, 2), (2, 1), (2, 2), (2, 3), (2, 4), (3, 2), (4, 2), (8, 1)])


def image(of, row, s):
    """s q(s^p) by Horner's rule, in double precision."""
    return s * np.polynomial.polynomial.polyval(s**of.p, of.coefficients[row])


@every_table
def test_rows_are_minimax(p, k):
    """Against `best_odd` at the same ratio, and against the values on a dense grid."""
    of = table(p, k)
    inside = np.log(of.ratios[:-1]) - np.log1p(-of.ratios[:-1])
    assert np.allclose(inside, START + SPACING * np.arange(len(inside)), atol=1e-6)
    for row in (0, len(of.ratios) // 2, 3 * len(of.ratios) // 4, len(of.ratios) - 1):
        best = best_odd(p, k, of.ratios[row], 1)
        assert of.coefficients[row] == pytest.approx([float(c) for c in best.coefficients], rel=1e-14)
        rounding = 4 * (k + 1) * 2.0**-53 * abs(of.coefficients[row]).sum()
        assert abs(of.errors[row] - float(best.error)) <= rounding
        s = np.concatenate([np.geomspace(of.ratios[row], 1, 2000), np.linspace(of.ratios[row], 1, 2000)])
        errors = abs(1 - image(of, row, s))
        assert errors.max() <= of.errors[row] + rounding
        assert errors.max() >= of.errors[row] * (1 - 1e-3) - rounding


@every_table
def test_the_row_is_at_or_below_the_ratio(p, k):
    of = table(p, k)
    rng = np.random.default_rng(0)
    ratios = np.concatenate([10 ** rng.uniform(-15, 0, 500), 1 - 10 ** rng.uniform(-9, -1, 500)])
    rows = of.index(ratios)
    assert (of.ratios[rows] <= ratios * (1 + 1e-8)).all()
    following = np.minimum(rows + 1, len(of.ratios) - 1)
    assert ((of.ratios[following] > ratios * (1 - 1e-8)) | (following == rows)).all()
    distinct = of.ratios < 1 - 1e-6  # beyond, a double does not hold the distance to 1 that the places are counted in
    assert (of.index(of.ratios) == np.arange(len(of.ratios)))[distinct].all()
    # What lies outside the table: its first row, and Taylor's.
    assert of.index(np.array([0.0, 1e-30, 1.0, 2.0])).tolist() == [0, 0, len(of.ratios) - 1, len(of.ratios) - 1]


@every_roundoff
@every_table
def test_what_the_device_looks_up_is_the_same(p, k, roundoff):
    of = table(p, k)
    ratios = np.concatenate([np.geomspace(1e-18, 1, 300), 1 - np.geomspace(1e-10, 0.5, 300)])
    got = best_step(p, k, roundoff, torch.from_numpy(ratios)).numpy()
    rows = of.index(ratios, roundoff)
    assert got == pytest.approx(of.coefficients[rows] / of.top(roundoff)[rows, None], rel=1e-14)


@every_roundoff
@every_table
def test_top_bounds_the_image(p, k, roundoff):
    """Of all of [0, 1], and not below 0; in exact arithmetic, so with room for rounding."""
    of, s = table(p, k), np.concatenate([[0], np.geomspace(1e-18, 1, 3000), np.linspace(0, 1, 3000)])
    for row in range(0, len(of.ratios), 7):
        values, slack = image(of, row, s), 8 * (k + 1) * 2.0**-53 * abs(of.coefficients[row]).sum()
        assert values.max() <= 1 + of.errors[row] + slack
        assert values.max() <= of.top(roundoff)[row] + slack
        assert values.min() >= -slack


@looped("roundoff", [2.0**-24, 2.0**-53])
@every_table
def test_what_a_step_leaves_beyond_the_end_does_not_grow(p, k, roundoff):
    """From 1 + 2 u, where a damping step may leave a number, a wide one comes back into [0, 1], not 37 times away."""
    of = table(p, k)
    beyond = np.longdouble(1) + 2 * np.longdouble(roundoff)
    for row in range(of.clear(roundoff), len(of.ratios), 7):
        f = beyond * sum(np.longdouble(c) * beyond ** (j * p) for j, c in enumerate(of.coefficients[row]))
        damped = of.sensitivity[row] == 0  # |f'(1)| is at most 1/2, and the table itself is rounded
        assert f <= of.top(roundoff)[row] + (roundoff + 8 * 2.0**-53 if damped else 0)


@every_roundoff
@every_table
def test_no_row_in_use_comes_near_zero(p, k, roundoff):
    """One row is taken for all smaller ratios: its least value between ratio and 1 exceeds what rounding takes off.

    The oracle of that is crude: M + E for the diagonal M with values there, entrywise errors of the size of the
    roundoff, and q(M + E) evaluated with rounded powers, in long double.
    """
    of = table(p, k)
    first = of.clear(roundoff)
    assert (of.index(np.array([0.0, 1e-17]), roundoff) == first).all()
    assert (of.lows[first:] > 1.1 * roundoff * of.noise[first:]).all()
    if first:
        assert of.lows[first - 1] <= 1.2 * roundoff * of.noise[first - 1]
    s = np.linspace(of.ratios[first], 1, 2001).astype(np.longdouble)
    assert image(of, first, s).min() == pytest.approx(of.lows[first], abs=1e-13)
    rng = np.random.default_rng(1)
    for _ in range(20):
        wrong = [1 + np.longdouble(roundoff / 3**0.5) * rng.standard_normal(s.shape) for _ in range(k + 1)]
        value = sum(
            of.coefficients[first, j] * (s**p * wrong[0]) ** j * (wrong[j] if j > 1 else 1) for j in range(k + 1)
        )
        # s^p is not near 0 and not near 1, where the ratio is: errors of one number may exceed the norm of a matrix's.
        assert (value * s > -4 * roundoff * of.noise[first]).all()


def test_rounding_costs_no_steps_in_float64():
    """The first row that is clear of rounding lies below what a spectrum in double precision can ask for."""
    for p, k in [(1, 2), (2, 1), (2, 2), (3, 2), (4, 2), (8, 2)]:
        of = table(p, k)
        assert of.ratios[of.clear(2.0**-53)] <= 1e-14
        assert of.coefficients[of.clear(2.0**-53), 0] == pytest.approx(of.coefficients[0, 0], rel=1e-6)


@every_roundoff
@pytest.mark.parametrize(
    ("p", "degrees"), [(1, (2,)), (2, (1,)), (2, (2,)), (2, (4, 2)), (2, (3,)), (4, (2,))], ids=str
)
def test_lower_ends(p, degrees, roundoff):
    """Each is what the step makes of the one before, found here by mapping a grid of [lower, 1]."""
    ends = lower_ends(p, degrees, 2 * roundoff, roundoff)
    assert ends[0] == 2 * roundoff
    assert ends[-1] >= 1 - 1e-15
    for k, (low, high) in enumerate(pairwise(ends)):
        of = table(p, degrees[min(k, len(degrees) - 1)])
        row = of.index(np.array(low), roundoff)
        s = np.concatenate([np.geomspace(low, 1, 2000), np.linspace(low, 1, 2000)])
        values = image(of, row, s) / of.top(roundoff)[row]
        assert values.min() >= high - 1e-12
        assert values.min() <= high + max(1e-3 * high, 0.13 * (1 - high))  # a row may be made for 1.13 times less


@every_roundoff
def test_a_chain_hands_its_image_on(roundoff):
    """Whatever the candidate: values in [0, 1] stay there, but for the last step, which is centred at 1."""
    steps = chain(2, (2, 1, 3, 2), roundoff, torch.device("cpu"))
    s = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    for t, coefficients in enumerate(steps):
        s = s * sum(c * s ** (2 * j) for j, c in enumerate(coefficients.unbind(-1)))
        assert s.min() >= -1e-12
        assert s.max() <= (2 if t == len(steps) - 1 else 1) + 1e-12


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
def test_float16_holds_a_first_step_that_is_far_from_its_range(degree):
    """I/4096: its square is the least number of float16, and the coefficients of a step made for it exceed the largest.

    The result is the same as of the scalar; without the zoom it is infinite, or the highest terms are missing.
    """
    M = torch.eye(8, dtype=torch.float16)[None] / 4096
    step = RitzMinimax(degree=degree, steps=1).step(0, Residual(M, 2))
    assert isinstance(step, Magnified)
    c, B = step.split(M, EAGER)
    q = (c + B.double().diagonal(dim1=-2, dim2=-1)).flatten()
    want = sum(x.double() / 4096.0**j for j, x in enumerate(step.coefficients)).item()
    amplified = sum(abs(x.item()) / 4096**j for j, x in enumerate(step.coefficients))
    assert (q - want).abs().max() <= 2 * 2.0**-11 * amplified
    assert abs(want / 64 - 1) <= 0.05  # q(M) X = U for X = U / 64, but for the margin of the upper end
    assert not torch.equal(M * M, M * M + 2.0**-24), "float16 has denormal numbers here"


def test_a_magnified_polynomial_is_the_polynomial():
    upper = torch.tensor([3e-4, 0.7], dtype=torch.float64)[:, None, None]
    inner = Polynomial(tuple(c / upper ** (j + 0.5) for j, c in enumerate((8.5, -25.3, 18.8))))
    step = Magnified(inner.coefficients, upper=upper)
    m = torch.linspace(0, 1, 9, dtype=torch.float64) * upper
    assert torch.equal(step(m), inner(m))
    M = torch.diag_embed(m[:, 0])
    for got, want in zip(step.split(M, EAGER), inner.split(M, EAGER), strict=True):
        assert torch.allclose(torch.as_tensor(got), torch.as_tensor(want), rtol=1e-13, atol=1e-13 * 8.5 / 3e-4**0.5)


@pytest.mark.parametrize("degree", [3, 5, 7, 9])
@looped("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_no_singular_vector_changes_its_sign(dtype, degree):
    """A value where a wide step comes closest to zero: with the wrong sign its part of the factor is -1 in place of 1.

    Two tiny values ask for the widest rows, which multiply what rounding makes of all the others there.
    """
    n, of, s = 32, table(2, (degree - 1) // 2), np.linspace(0.05, 1, 200001)
    sigma = torch.full((n,), s[np.argmin(image(of, 0, s))], dtype=torch.float64)
    sigma[0], sigma[1:3] = 1.0, 1e-6
    A, U, V = of_singular_values(sigma, n, n, seed=4)
    for steps in (12, 16):
        method = RitzMinimax(degree=degree, steps=steps)
        got = matfn.orthogonalize(A.float(), method=method, precision=dtype).double()
        assert (U.mT @ got @ V).diagonal()[3:].min() > 0.9


def scalar_step(method, k, m, p):
    """The eigenvalues (b, n) after one step of the method on the diagonal matrices."""
    step = method.step(k, Residual(torch.diag_embed(m), p))
    return m * sum(c[..., 0] * m**j for j, c in enumerate(step.coefficients)) ** p


@pytest.mark.parametrize(("p", "degree"), [(3, 3), (3, 7), (5, 3)])
def test_an_odd_root_stays_positive(p, degree):
    """For odd p an eigenvalue of M below zero runs to minus infinity; where it may fall is the upper end of a step.

    400 spectra of four clusters: the widest steps again and again.
    """
    decades = torch.linspace(4, 16, 400, dtype=torch.float64)[:, None]
    m = 10 ** (-decades * p * torch.tensor([0, 1, 1, 2, 2, 3, 3, 3]) / 3)
    m = m / m.sum(-1, keepdim=True)
    for k in range(40):
        m = scalar_step(RitzMinimax(degree=degree, tol=1e-9), k, m, p)
        assert m.min() >= 0
        assert m.max() <= 1 + 1e-13


@pytest.mark.parametrize(("p", "degrees"), [(3, (3, 5, 7)), (5, (3,))])
def test_the_scale_is_exact_where_p_is_no_power_of_two(p, degrees):
    """The exponents j + 1/p in double precision: the upper end goes to 1, or below it where a step damps.

    Errors of 1e-8, which 1/3 in single precision makes, grow twentyfold in each step that the sketch does not see.
    """
    m = torch.full((1, 24), 0.16, dtype=torch.float64)
    m[0, 0] = 0.62
    for degree in degrees:
        row = abs(table(p, (degree - 1) // 2).coefficients[0]).sum()
        assert scalar_step(RitzMinimax(degree=degree, steps=8), 0, m, p).max() <= 1 + 8 * p * 2.0**-53 * row
