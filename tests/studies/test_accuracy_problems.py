"""Problems of the accuracy benchmark: the exact answers against mpmath, at 40 digits, of the very rounded matrix."""

import mpmath as mp
import numpy as np
import pytest
import torch

from studies.accuracy.fixed_point import composed, from_float, orthonormal, to_float
from studies.accuracy.problems import FUNCTIONS, problem, spectrum_names
from studies.spectra import SPECTRA

SIZE = 6


def by_mpmath(function, A):
    """The function of A from a decomposition at 40 digits, as (m, n) in float64."""
    with mp.workdps(40):
        M = mp.matrix(A.double().tolist())
        if function in ("polar", "inv"):
            U, s, Vh = mp.svd_r(M)
            B = U * Vh if function == "polar" else Vh.T * mp.diag([1 / x for x in s]) * U.T
        else:
            values, V = mp.eigsy(M)
            power = {"sqrt": mp.mpf(1) / 2, "inv_sqrt": -mp.mpf(1) / 2, "inv_root4": -mp.mpf(1) / 4}
            f = [mp.sign(x) if function == "sign" else x ** power[function] for x in values]
            B = V * mp.diag(f) * V.T
        return torch.tensor([[float(x) for x in row] for row in B.tolist()], dtype=torch.float64)


def distance(A, B):
    return (torch.linalg.matrix_norm(A - B) / torch.linalg.matrix_norm(B)).item()


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["gaussian", "log-uniform 1e-3", "log-uniform 1e-6", "i^-2", "clustered"])
def test_answers_in_float64(function, spectrum):
    """Right to the last digits of float64, far below (condition x eps): the second order is all that is missing."""
    case = problem(function, spectrum, torch.float64, SIZE)
    allowed = 4 * 1.2e-16 + (10 * case.condition * 1.2e-16) ** 2
    assert distance(case.answer, by_mpmath(function, case.A)) < allowed


@pytest.mark.parametrize("function", FUNCTIONS)
def test_answers_in_float32(function):
    case = problem(function, "log-uniform 1e-3", torch.float32, SIZE)
    assert case.A.dtype == torch.float32
    assert distance(case.answer, by_mpmath(function, case.A)) < 1e-11


def test_the_tall_polar_factor():
    case = problem("polar", "gaussian tall", torch.float64, SIZE)
    assert case.A.shape == (4 * SIZE, SIZE)
    assert distance(case.answer, by_mpmath("polar", case.A)) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_polar_factor_on_the_range(dtype):
    """The singular vectors of the values that rounding did not make."""
    case = problem("polar", "rank-deficient", dtype, 8)
    U, s, Vh = torch.linalg.svd(case.A.double())
    assert case.rank == 6
    assert s[6] < 10 * torch.finfo(dtype).eps
    assert distance(case.answer, U[:, :6] @ Vh[:6]) < 1e-14


def test_no_answer_where_rounding_decided_it():
    for function, spectrum in (("inv", "rank-deficient"), ("inv_sqrt", "rank-deficient"), ("sign", "htmp 0.1")):
        assert problem(function, spectrum, torch.float32, 16).answer is None
    assert problem("sqrt", "rank-deficient", torch.float32, 8).answer is not None


def test_what_counts_as_zero_in_float32():
    """1e-6 is beyond 16 eps for the polar factor on the range, and well above eps for roots."""
    assert problem("polar", "log-uniform 1e-6", torch.float32, 16).answer is None
    case = problem("inv_root4", "log-uniform 1e-6", torch.float32, 16)
    assert distance(case.answer, by_mpmath("inv_root4", case.A)) < 1e-8


def test_symmetric_to_the_last_bit():
    for dtype in (torch.float64, torch.float32):
        A = problem("sign", "gaussian", dtype, 8).A
        assert torch.equal(A, A.mT)
        assert (torch.linalg.eigvalsh(A) < 0).sum() == 4


def test_every_spectrum_is_measured():
    assert set(spectrum_names("polar")) == {*SPECTRA, "gaussian tall"}
    assert spectrum_names("sqrt") == list(SPECTRA)


def test_fixed_point_is_exact():
    values = np.array([1.0, -0.1, 2.0**-90, 3e-30])
    assert (to_float(from_float(values)) == values).all()
    Q = orthonormal(7, 4, seed=0)
    gram = composed(Q.T, np.ones(7), Q.T)
    assert np.abs((gram - from_float(np.eye(4))).astype(object)).max() < 2**200 // 10**57
