"""Rational steps: each way to evaluate them against the scalar map, and how much each loses."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from matfn import PartialFraction, ZoloPD
from matfn.iteration.residual import Form, Residual
from matfn.kernels import EAGER
from matrices import gaussian, of_eigenvalues, of_singular_values, orthogonal, spectrum

EPS = torch.finfo(torch.float64).eps
STEEP = ZoloPD(3, 1e-10).schedule().rows[0]  # shifts down to 1e-20: by QR
GENTLE = PartialFraction(0.4, (0.7, 0.2), (0.25, 2.0))  # by Cholesky
every_step = pytest.mark.parametrize("step", [STEEP, GENTLE], ids=["steep", "gentle"])


def residual(M, form):
    """M as a function that may or may not be called; the list says whether it was."""
    calls = []

    def build():
        calls.append(1)
        return M()

    return Residual(build, 2, 0, form), calls


@every_step
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)], ids=str)
def test_of_a_gram_matrix(step, shape):
    """U f(sigma) V^T, backward stable: the error is eps divided by the least singular value, not by its square."""
    for condition in (10.0, 1e6):
        sigma = spectrum(min(shape), condition)
        A, U, V = of_singular_values(sigma, *shape, seed=1)
        seen, calls = residual(lambda A=A: A @ A.mT, Form.GRAM)
        got = step.apply(A[None], seen, EAGER)[0]
        assert (got - (U * sigma * step(sigma**2)) @ V.mT).norm() <= 30 * EPS * condition
        assert not calls, "M is not needed"


@every_step
def test_of_a_square(step):
    """V (d q(d^2)) V^-1 for real d of both signs; the condition of X counts once."""
    for condition in (10.0, 1e6):
        values = spectrum(6, condition) * torch.tensor([1, -1, 1, 1, -1, -1])
        S = (orthogonal(6, seed=2) * torch.linspace(1, 2, 6, dtype=torch.float64)) @ orthogonal(6, seed=3)
        X = S @ torch.diag(values) @ torch.linalg.inv(S)
        seen, calls = residual(lambda X=X: X @ X, Form.SQUARE)
        got = step.apply(X[None], seen, EAGER)[0]
        want = S @ torch.diag(values * step(values**2)) @ torch.linalg.inv(S)
        assert (got - want).norm() <= 100 * EPS * condition
        assert not calls, "M is not needed"


@every_step
def test_split_and_a_product(step):
    values = spectrum(6, 20.0)
    M, V = of_eigenvalues(values, seed=4)
    want = (V * step(values)) @ V.mT
    c, B = step.split(M[None], EAGER)
    assert (B[0] + c * torch.eye(6, dtype=B.dtype) - want).norm() <= 1000 * EPS
    X = gaussian(6, 6, seed=5)
    seen, calls = residual(lambda: M[None], Form.PRODUCT)
    assert (step.apply(X[None], seen, EAGER)[0] - want @ X).norm() <= 1e4 * EPS
    assert calls


@pytest.mark.parametrize("form", [Form.GRAM, Form.SQUARE, Form.PRODUCT])
def test_every_matrix_may_have_its_own_coefficients(form):
    a = PartialFraction(0.4, (0.7, 0.2), (0.25, 2.0))
    b = PartialFraction(0.1, (0.3, 0.9), (0.05, 1.0))

    def column(x, y):
        return torch.tensor([x, y], dtype=torch.float64)[:, None, None]

    both = PartialFraction(
        column(a.constant, b.constant),
        tuple(column(x, y) for x, y in zip(a.weights, b.weights, strict=True)),
        tuple(column(x, y) for x, y in zip(a.shifts, b.shifts, strict=True)),
    )
    X = gaussian(2, 5, 5, seed=6) / 10
    M = X @ X.mT if form is Form.GRAM else X @ X
    got = both.apply(X, Residual(M, 2, 0, form), EAGER)
    for i, step in enumerate((a, b)):
        alone = step.apply(X[i : i + 1], Residual(M[i : i + 1], 2, 0, form), EAGER)[0]
        assert (got[i] - alone).abs().max() <= 100 * EPS


@pytest.mark.parametrize("form", [Form.GRAM, Form.SQUARE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_float32_rounded(dtype, form):
    X = (gaussian(2, 5, 5, seed=7) / 10).to(dtype)
    seen, _ = residual(lambda: X @ X.mT, form)
    for step in (STEEP, GENTLE):
        assert torch.equal(step.apply(X, seen, EAGER), step.apply(X.float(), seen, EAGER).to(dtype))
        assert step.precision(dtype) == torch.float32
        assert step.precision(torch.float64) == torch.float64


@every_step
def test_critical_points(step):
    """Between them the map is monotone, on three intervals and for three exponents."""
    for p in (1, 2, 4):
        for low in (1e-12, 1e-3, 0.3):
            inside = step.critical(p, low, 1.0)
            ends = np.concatenate([[low], np.sort(inside), [1.0]])
            assert np.all((inside > low) & (inside < 1))
            for left, right in pairwise(ends):
                s = np.geomspace(left, right, 300)
                slope = np.diff(s * step(s**p))
                rounding = 1e-14 * np.abs(s * step(s**p)).max()
                assert np.all(slope >= -rounding) or np.all(slope <= rounding)


def test_scalars_arrays_and_tensors():
    m = np.linspace(0, 1, 7)
    array, tensor = GENTLE(m), GENTLE(torch.from_numpy(m))
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, tensor.numpy())
    assert GENTLE(0.5) == pytest.approx(0.4 + 0.7 / 0.75 + 0.2 / 2.5, rel=1e-15)


@pytest.mark.parametrize(("weights", "shifts"), [((), ()), ((1.0,), ()), ((1.0, 2.0), (1.0,))])
def test_as_many_shifts_as_weights(weights, shifts):
    with pytest.raises(ValueError, match="as many shifts as weights"):
        PartialFraction(1.0, weights, shifts)
