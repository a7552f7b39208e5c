"""Spectra: sizes, order, reproducible draws, and singular values that are right however small they are."""

import numpy as np
import pytest

from studies.spectra import SPECTRA, bidiagonal, laguerre


@pytest.mark.parametrize("name", SPECTRA)
def test_every_spectrum_is_sorted_scaled_and_reproducible(name):
    for m, n in [(40, 20), (20, 40), (30, 30), (1, 5), (2, 2)]:
        values = SPECTRA[name](m, n, 3)
        assert values.shape == (min(m, n),)
        assert values[0] == 1
        assert (np.diff(values) <= 0).all()
        assert (values >= 0).all()
        assert np.array_equal(values, SPECTRA[name](m, n, 3))
    assert (SPECTRA[name](40, 20, 3) == 0).sum() == (5 if name == "rank-deficient" else 0)


@pytest.mark.parametrize("kappa", [0.1, 0.5, 5.0, 100.0])
def test_small_singular_values_keep_their_digits(kappa):
    """The product of all of them is the product of the diagonal: a relative error of one would show."""
    for seed in range(5):
        diagonal, _ = bidiagonal(128, 64, kappa / 64, seed)
        values = laguerre(128, 64, kappa / 64, seed)
        log_scale = (np.log(diagonal).sum() - np.log(values).sum()) / 64
        # The scale is the norm of B: at least its largest entry, at most its Frobenius norm.
        B = np.diag(diagonal) + np.diag(bidiagonal(128, 64, kappa / 64, seed)[1], 1)
        assert abs(log_scale - np.log(np.linalg.norm(B, 2))) <= 1e-12


def test_gaussian_matrices_have_this_law():
    """Mean of the least and of the middle singular value, over 200 dense Gaussian matrices and as many draws."""
    rng = np.random.default_rng(0)
    dense = np.array([np.linalg.svd(rng.standard_normal((24, 16)), compute_uv=False) for _ in range(200)])
    dense /= dense[:, :1]
    drawn = np.array([SPECTRA["gaussian"](24, 16, seed) for seed in range(200)])
    for column in (8, 15):
        error = abs(dense[:, column].mean() - drawn[:, column].mean())
        assert error <= 4 * np.sqrt((dense[:, column].var() + drawn[:, column].var()) / 200)
