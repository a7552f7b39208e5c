"""`studies.prism`: singular values of bidiagonal matrices, the paper's sizes, float32 floors, and the verdicts."""

import numpy as np
import pytest

from studies.prism import claims, verdicts
from studies.prism.bidiagonal import ensemble, singular_values
from studies.prism.counts import first
from studies.prism.plots import convergence
from studies.prism.report import made, ordered
from studies.prism.sizes import Curve, Size, assembled, curves, dense, floored, paper_sizes
from studies.spectra import laguerre
from studies.verdict import FALSE, NOT_SEEN, Verdict


def quiet(line):
    """Tells nobody."""


@pytest.mark.parametrize("beta", [1.0, 0.5 / 64, 0.1 / 64])
def test_singular_values_agree_with_a_dense_decomposition(beta):
    """To high relative accuracy, also where the least is 1e-50 of the greatest."""
    assert np.allclose(ensemble(128, 64, beta, 3), laguerre(128, 64, beta, 3), rtol=1e-12, atol=0)


def test_a_wrong_length_is_refused():
    with pytest.raises(ValueError, match="3 diagonal entries want one less above, got 3"):
        singular_values(np.ones(3), np.ones(3))


def test_the_shapes_of_the_paper_have_the_counts_of_the_specification():
    """6.6 for 100000 x 2000, steps to 1e-2: Newton-Schulz 8, Polar Express 7, PRISM 5."""
    [*found] = curves(Size(100000, 2000, None, 1).spectrum(0), "", "exact arithmetic", 0)
    assert [first(curve.errors, 1e-2) for curve in found] == [8, 7, 5, 5]


def test_the_floor_is_the_least_singular_value_of_noise():
    """Dense noise of that norm added to a matrix of rank n - 1."""
    m, n = 256, 128
    sigma = np.ones(n)
    sigma[-1] = 0
    sigma /= np.linalg.norm(sigma)
    noise = np.random.default_rng(0).standard_normal((m, n))
    noise *= 1e-3 / np.linalg.norm(noise)
    least = np.linalg.svd(noise, compute_uv=False)[-1]
    assert floored(sigma, m, 1e-3 / 3.5e-8)[-1] == pytest.approx(least, rel=0.1)


def test_dense_matrices_follow_exact_arithmetic_until_the_floor():
    found = list(dense(quiet, (128, 64), {None: 10, 0.1: 24}))
    by_kind = {(c.condition, c.method, c.kind): c for c in found}
    exact, single = (by_kind["Gaussian 128x64", "PRISM", kind] for kind in ("exact arithmetic", "dense float32"))
    assert single.errors[:5] == pytest.approx(exact.errors[:5], rel=1e-2)
    heavy, lifted = (by_kind["HTMP 0.1 128x64", "PRISM", kind] for kind in ("exact arithmetic", "dense float32"))
    assert min(lifted.errors) < 1e-4 < heavy.errors[23]
    A = assembled(Size(128, 64, None, 1).spectrum(0), 128)
    assert float(A.norm()) == pytest.approx(1, abs=1e-5)


def test_theorems_are_false_as_printed():
    found = {verdict.claim: verdict for verdict in verdicts.theorems()}
    assert found["Theorem 1"].verdict == found["Theorem 2"].verdict == FALSE
    assert found["C11"].measured.startswith("2, 5, 50, 33125; 0 ")
    assert "p = 1522" in found["Theorem 2"].measured
    assert "p = 1990 > n" in found["Theorem 2"].why


def test_identities_of_a_moment():
    assert claims.quartic() <= 1e-12
    assert claims.taylor() <= 1e-14
    assert claims.rank_deficient()[0] == 0
    raw, apart = claims.normalised()
    assert raw == 0
    assert apart <= 1e-5


def curve(condition, method, errors, kind="exact arithmetic"):
    return Curve(condition, method, kind, 0, 1e-3, tuple(errors))


def after(steps):
    """Errors that reach 1e-2 at that iteration."""
    return [1.0] * steps + [1e-3]


def test_verdicts_of_the_figures_follow_the_numbers(monkeypatch):
    monkeypatch.setattr(verdicts, "floors", dict)
    sizes = {"Gaussian 100x10": (5, 7, 8), "Gaussian 20x20": (10, 12, 20)}
    methods = ("PRISM", "Polar Express", "NS5")
    made_up = [curve(size, m, after(k)) for size, counts in sizes.items() for m, k in zip(methods, counts, strict=True)]
    by_claim = {v.claim: v for v in verdicts.from_curves(made_up)}
    assert by_claim["Gaussian 1"].verdict == "confirmed"
    assert by_claim["Gaussian 2"].verdict == NOT_SEEN  # 10/5 against 12/7
    slower = [curve("Gaussian 100x10", m, after(k)) for m, k in zip(methods, (8, 7, 9), strict=True)]
    assert next(verdicts.from_curves(slower)).verdict == NOT_SEEN
    heavy = [curve("HTMP 0.1 8x4", m, [1.0] * 60) for m in methods]
    [found] = [v for v in verdicts.from_curves(heavy) if v.claim == "HTMP 0.1"]
    assert found.verdict == FALSE
    assert found.measured.startswith("PRISM more than 60")


def test_figures_and_tables_hold_every_condition():
    found = list(paper_sizes(quiet, [Size(64, 16, None, 2), Size(64, 16, 0.5, 1)]))
    assert {c.kind for c in found} == {"exact arithmetic", "with a float32 floor"}
    assert [ax.get_title(loc="left") for ax in convergence(found).axes] == ["Gaussian 64x16", "HTMP 0.5 64x16"]


def test_the_order_of_claims():
    names = [Verdict(claim, "", "", "", "") for claim in ("Theorem 1", "C10", "C2")]
    assert [v.claim for v in ordered(names)] == ["C2", "C10", "Theorem 1"]
    assert callable(made)
