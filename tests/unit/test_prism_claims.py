"""Claims C3-C11 of the specification of PRISM: how many steps it takes, and where it stays; on spectra, in seconds."""

import numpy as np
import pytest
import torch

from matfn import NewtonSchulz, Prism
from matfn.iteration.residual import Residual
from matfn.methods.prism.family import family
from studies.prism.claims import (
    alpha,
    counterexample,
    divergence,
    residual,
    sketch_counts,
    sketch_law,
    theorem1,
    tightness,
)
from studies.prism.counts import EXACT5, polar_row, singular_values
from studies.prism.published import POLAR, POLAR_HEADS
from studies.prism.spectral import count, fitted, follow
from studies.spectra import SPECTRA

CONVERGENT = [name for name in POLAR if name != "htmp 0.1"]


def m_of(name):
    """Squares of the singular values of one draw, after division by the Frobenius norm."""
    sigma = singular_values(name)
    return (sigma / np.linalg.norm(sigma)) ** 2


@pytest.fixture(scope="module")
def counts():
    return {name: dict(zip(POLAR_HEADS, polar_row(singular_values(name)), strict=True)) for name in CONVERGENT}


def test_c03_fewer_steps_than_newton_schulz(counts):
    for name in ("gaussian 512x512", "gaussian 1024x256", "log-uniform 1e-3", "i^-2"):
        assert counts[name]["PR5"] <= 0.80 * counts[name]["NS5"], name


def test_c04_the_cubic_takes_as_many_steps_as_the_newton_schulz_quintic(counts):
    for name in CONVERGENT:
        assert abs(counts[name]["PR3"] - counts[name]["NS5"]) <= 2, name


def test_c05_no_worse_than_published_polar_express(counts):
    for name in CONVERGENT:
        assert counts[name]["PR5 s8"] <= counts[name]["PE"], name
    for name in ("log-uniform 1e-6", "i^-2"):
        assert counts[name]["PR5 s8"] <= counts[name]["PE"] - 3, name


def test_c06_does_not_beat_polar_express_that_is_told_the_interval(counts):
    for name in CONVERGENT:
        assert counts[name]["PE told"] <= counts[name]["PR5"] - 1, name


def test_c07_a_sketch_of_few_columns_costs_nothing():
    """Within 0.3 of a step for 8 columns and 0.5 for 1, over eight draws: one exact count is an integer by rounding."""
    found = sketch_counts()
    assert max(widest for _, widest in found.values()) <= 1
    assert abs(found[8][0]) <= 0.3
    assert found[1][0] <= 0.5


def test_c08_a_dense_sketch_is_a_random_weight_of_each_eigenvalue():
    """Two samples of 300 coefficients, at the 6th iterate of a Gaussian matrix, are of one law."""
    pvalue, (_, deviation), _ = sketch_law()
    assert pvalue > 0.01
    assert deviation > 0.01


@pytest.mark.parametrize(("d", "least_residual", "greatest"), [(1, -0.1852, 1.0887), (2, -0.3281, 1.1525)])
@pytest.mark.parametrize("choice", ["fitted", "at random"])
def test_c09_the_residual_stays_in_its_range(d, least_residual, greatest, choice):
    rng = np.random.default_rng(d)
    sigma = rng.random((1000, 12)) ** rng.uniform(0.2, 8, (1000, 1))
    m = torch.from_numpy(np.clip(sigma, 1e-12, 1) ** 2)
    low, high = family(2, d).interval
    for _ in range(15):
        fit = alpha(m, Prism(degree=2 * d + 1, sketch="exact"))
        a = fit if choice == "fitted" else torch.from_numpy(rng.uniform(low, high, 1000))
        assert low <= fit.min() <= fit.max() <= high
        m = 1 - residual(1 - m, a[:, None], d)
        assert (1 - m).min() >= least_residual - 1e-9
        assert (1 - m).max() <= 1
        assert m.sqrt().max() <= greatest


def test_c10_the_upper_end_is_tight():
    assert abs(tightness() - 1.4722) <= 1e-3
    assert divergence() == {"i^-2": (14, None), "log-uniform 1e-6": (17, None)}


@pytest.mark.parametrize("sketch", ["exact", 1, 8])
def test_c11_counterexample_of_theorem_1(sketch):
    """A^2 = -I is symmetric, but not positive: the residual grows, as the documentation of `Prism` says."""
    assert counterexample(sketch) == pytest.approx([2, 5, 50, 33125], rel=1e-12)
    assert "positive semidefinite" in (Prism.__doc__ or "")


def test_c11_theorem_1_on_positive_spectra():
    """1000 spectra of up to 6 values with multiplicities 1e-6 to 1e6: even the exponent 2^k holds."""
    _, violations = theorem1()
    assert violations == 0


def test_traces_of_the_coefficient():
    """6.2: nearly all steps at the upper end, then the Taylor value; on i^-2, where nothing is drawn at random."""
    trace = fitted(m_of("i^-2"), 2, EXACT5)
    seen = [round(next(trace)[1].item(), 3) for _ in range(14)]
    assert seen[:11] == [1.45] * 11
    assert seen[11:] == pytest.approx([0.744, 0.386, 0.375], abs=2e-3)


def test_a_fixed_sketch_and_warm_steps_cost_at_most_a_step():
    m = m_of("i^-2")
    warm = count(fitted(m, 2, Prism(degree=5, warm=3), 10), 1e-6, 40)
    assert np.mean(warm) <= 15
    # Three warm steps and nothing else: the fixed quintic 2.95 x - 3.4 x^3 + 1.45 x^5 of the paper's GPT run.
    step = Prism(steps=3, warm=3).step(0, Residual(torch.eye(2)[None], 2))
    x = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(x * step(x**2), 2.95 * x - 3.4 * x**3 + 1.45 * x**5, atol=1e-15)


def test_newton_schulz_is_followed_as_published():
    assert count(follow(m_of("i^-1"), NewtonSchulz(5, 1).schedule()), 1e-6, 40) == [13]
    assert SPECTRA["i^-1"](4, 4, 0).tolist() == [1, 1 / 2, 1 / 3, 1 / 4]
