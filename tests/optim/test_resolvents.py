"""Resolvents: the poles are the best ones, the matrices are the scalar function of theirs, and Shampoo takes them."""

import math

import numpy as np
import pytest
import torch

from matfn import Exact, certify
from matfn.certify import balanced_residual
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT
from matfn.methods.resolvents import inverse_factor
from matfn.minimax.resolvents import best_poles, fewest_poles
from matfn.optim import Resolvents, Shampoo, minimax, resolvents
from matfn.optim.rules.roots import inverse_roots, ridged, root_plan
from matfn.run.plan import lower_bound

EPS32 = torch.finfo(torch.float32).eps
RIDGE = 1e-6
SPECTRA = {
    "i^-1.5": lambda n: np.arange(1.0, n + 1) ** -1.5,
    "i^-4": lambda n: np.arange(1.0, n + 1) ** -4.0,
    "log-uniform": lambda n: np.geomspace(1.0, 1e-6, n),
    "rank n/4": lambda n: np.where(np.arange(n) < max(1, n // 4), 1.0, 0.0),
    "rank 1": lambda n: np.where(np.arange(n) < 1, 1.0, 0.0),
    "flat": np.ones,
}


def matrix(spectrum, n, seed=0):
    """Of norm 1 with a ridge, in float64."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    A = (Q * torch.from_numpy(np.asarray(SPECTRA[spectrum](n), dtype=np.float64))) @ Q.mT
    return ridged(A[None], RIDGE)[0]


def applied(function, A):
    """A function of a symmetric matrix (1, n, n) in float64, by its eigenvectors."""
    values, Q = torch.linalg.eigh(A.double())
    return (Q * torch.from_numpy(np.asarray(function(values.numpy()))).unsqueeze(-2)) @ Q.mT


@pytest.mark.parametrize("lower", [1e-10, 1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("p", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("error", [1e-2, 1e-3])
def test_no_other_poles_are_better(p, lower, error):
    # De la Vallee Poussin: 2 N + 3 alternating defects of at least e are a lower bound e for every sum of N poles.
    found = fewest_poles(p, lower, error)
    x = np.geomspace(lower, 1.0, 20011)
    defect = 1 - x ** (1 / p) * found(x)
    assert np.abs(defect).max() <= error * 1.001
    assert found.error <= error
    pieces = np.split(defect, np.flatnonzero(np.diff(np.sign(defect))) + 1)
    sizes = np.array([np.abs(piece).max() for piece in pieces])
    assert len(sizes) == 2 * len(found.shifts) + 3
    assert sizes.min() >= 0.98 * sizes.max()
    assert min(found.weights) > 0
    assert min(found.shifts) > 0
    assert found.constant + found.slope > 0
    if len(found.shifts) > 1:
        assert best_poles(p, lower, len(found.shifts) - 1).error > error


def test_of_an_inverse_there_is_one_pole():
    assert fewest_poles(1, 1e-6, 1e-2)(np.array([0.1])) == pytest.approx(10)


@pytest.mark.parametrize("arguments", [(0, 1e-6, 1e-2), (4, 0.0, 1e-2), (4, 1.0, 1e-2), (4, 1e-6, 1e-4), (4, 1e-6, 1)])
def test_what_has_no_poles_is_refused(arguments):
    with pytest.raises(ValueError, match="poles need p >= 1"):
        fewest_poles(*arguments)


@pytest.mark.parametrize("n", [1, 2, 7, 33, 64, 65, 100])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_in_float64_the_matrix_is_the_scalar_function(spectrum, p, n):
    A = matrix(spectrum, n) * 37.0
    method = Resolvents(p, lower_bound(p, RIDGE, n))
    terms = method.terms()
    norm = torch.linalg.matrix_norm(A).item()
    expected = applied(lambda x: terms(x / norm) * norm ** (-1 / p), A)
    found = method.evaluate(INV_ROOT.with_exponent(p), A)
    # Rounding: eps times the condition number of A + t I, 1e6 at most, and n for the sums.
    assert torch.linalg.matrix_norm(found - expected) <= 2.3e-16 * 1e6 * 4 * n * torch.linalg.matrix_norm(expected)
    assert torch.equal(found, found.mT) or (found - found.mT).abs().max() <= 1e-13 * found.abs().max()


def test_large_triangles_stay_cut(monkeypatch):
    monkeypatch.setattr(inverse_factor, "_DENSE", 16)
    A = torch.cat([matrix("log-uniform", 150, seed) for seed in range(3)])
    method = Resolvents(4, lower_bound(4, RIDGE, 150))
    terms, norm = method.terms(), torch.linalg.matrix_norm(A)
    found = method.evaluate(INV_ROOT.with_exponent(4), A)
    for U, X, scale in zip(found, A, norm.tolist(), strict=True):
        expected = applied(lambda x, scale=scale: terms(x / scale) * scale**-0.25, X)
        assert torch.linalg.matrix_norm(U - expected) <= 1e-7 * torch.linalg.matrix_norm(expected)


@pytest.mark.parametrize("n", [64, 200, 400])
@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_in_float32_the_error_is_that_of_the_poles_and_of_rounding(spectrum, p, n):
    A = matrix(spectrum, n).float()
    method = resolvents(p, lower_bound(p, RIDGE, n))
    found = method.evaluate(INV_ROOT.with_exponent(p), A).double()
    exact = applied(lambda x: x ** (-1 / p), A)
    error = (torch.linalg.matrix_norm(found - exact) / torch.linalg.matrix_norm(exact)).item()
    # Rounding moves the eigenvalues by some eps of the largest, so those at the ridge by eps / RIDGE / p in the root.
    assert error <= method.terms().error + EPS32 / RIDGE / p


@pytest.mark.parametrize("n", [20, 80])
def test_a_matrix_that_is_not_definite_gives_nan_and_leaves_the_others_alone(n):
    A = torch.cat([matrix("flat", n), matrix("i^-1.5", n), -matrix("flat", n)]).float()
    method = resolvents(4, lower_bound(4, RIDGE, n))
    found = method.evaluate(INV_ROOT.with_exponent(4), A)
    assert found[2].isnan().any()
    alone = method.evaluate(INV_ROOT.with_exponent(4), A[1:2])
    # Another batch is multiplied in another order.
    assert torch.allclose(found[1], alone[0], rtol=0, atol=1e-3 * alone.abs().max().item())


@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_scale_of_a_matrix_does_not_matter(p):
    A, target = matrix("i^-1.5", 48).float(), INV_ROOT.with_exponent(p)
    method = resolvents(p, lower_bound(p, RIDGE, 48))
    once = method.evaluate(target, A)
    for k in (-96, 96):  # squares of 2^96 overflow
        found = method.evaluate(target, A * 2.0**k) * 2.0 ** (k // p)
        # The matrices are the same after the division, bit for bit; two powers and two products are rounded.
        assert (found - once).abs().max() <= 4 * EPS32 * once.abs().max()


def test_a_zero_matrix_has_no_root_and_leaves_the_others_alone():
    A = matrix("i^-1.5", 48).float()
    method = resolvents(4, lower_bound(4, RIDGE, 48))
    found = method.evaluate(INV_ROOT.with_exponent(4), torch.cat([torch.zeros_like(A), A]))
    assert found[0].diagonal().isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("target", [INV, INV_SQRT, INV_ROOT.with_exponent(3)])
def test_another_function_is_refused(target):
    with pytest.raises(ValueError, match=r"computes A\^\(-1/4\) alone"):
        resolvents(4, 0.1).evaluate(target, torch.eye(3)[None])


def test_roots_are_certified_and_those_that_fail_repeated():
    A = torch.cat([matrix(spectrum, 70) for spectrum in ("i^-1.5", "log-uniform", "rank 1")]).float()
    assert inverse_roots(A, 4, RIDGE, resolvents, 0.05).repeated == ()
    found = inverse_roots(A, 4, RIDGE, Resolvents(4, 0.5), 0.05)  # a bound that does not hold
    assert [index for index, _ in found.repeated] == [0, 1, 2]
    exact = inverse_roots(A, 4, RIDGE, Exact(), 0.05).values
    assert torch.equal(found.values, exact)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_the_residual_without_checks_is_the_certified_one(p):
    A = torch.cat([matrix(spectrum, 40) for spectrum in SPECTRA])
    U = torch.cat([applied(lambda x: 1.1 * x ** (-1 / p), X[None]) for X in A])
    certified = certify(A, U, of="inv_root", p=p, only="balanced").residual
    ratio = balanced_residual(A, U, p) / certified  # 16 random columns: a standard deviation of 0.18 at most
    assert ((ratio > 0.5) & (ratio < 2)).all()
    assert certified.min() > 0.08


def test_the_plan_of_a_root_says_why():
    cpu, f32 = torch.device("cpu"), torch.float32
    chosen = root_plan(256, 4, 1e-6, f32, cpu)
    bound = lower_bound(4, 1e-6, 256)
    assert (chosen.method.p, chosen.method.lower) == (4, resolvents(4, bound).lower)
    assert "4 resolvents" in dict(chosen.reasons)["method"]
    for arguments, why in (
        ((8, 4, 1e-6, f32, cpu), "8 rows are below"),
        ((256, 4, 0.0, f32, cpu), "ridge of 0"),
        ((256, 4, 1e-6, torch.float64, cpu), "float64"),
    ):
        choice = root_plan(*arguments)
        assert choice.method == Exact()
        assert why in dict(choice.reasons)["method"]


def test_shampoo_takes_the_choice_and_shows_it():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(100, 40, generator=generator)
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    default, exact = (
        Shampoo([param], lr=1.0, graft="none", root_every=1, method=method)
        for param, method in zip(params, (None, Exact()), strict=True)
    )
    shown = default.root_choices()
    assert {key[:2]: type(choice.method) for key, choice in shown.items()} == {(100, 4): Resolvents, (40, 4): Exact}
    assert exact.root_choices() == {}
    gradient = torch.randn(100, 40, generator=generator)
    for param, optimizer in zip(params, (default, exact), strict=True):
        param.grad = gradient.clone()
        optimizer.step()
    a, b = (start - param.detach() for param in params)
    # One root of the two is off by `error` at most in every direction, and by rounding: rank 40 of 100 at the ridge.
    assert not torch.equal(a, b)
    assert torch.linalg.matrix_norm(a - b) <= (1e-2 + EPS32 / RIDGE / 4) * torch.linalg.matrix_norm(b)


def test_without_a_bound_there_are_no_resolvents():
    for build in (resolvents, minimax):
        with pytest.raises(ValueError, match="lower"):
            build(4, 0.0)
    assert math.isclose(lower_bound(4, 1e-6, 1), (1e-6 / (1 + 1e-6)) ** 0.25)
