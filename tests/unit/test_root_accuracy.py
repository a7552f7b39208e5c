"""Inverse roots of ill-conditioned matrices: no worse than the best public solver, in float32 and in float64."""

import pytest
import torch

import matfn
from loops import looped
from matrices import of_eigenvalues, spectrum

N = 128
# Relative errors of the best public solver (a coupled Newton iteration) on 128 x 128 matrices in float32, p = 2.
BEST_PUBLIC = {1e2: 1.5e-6, 1e4: 5.9e-5, 1e6: 3.6e-3}


def told(A, p, condition, **options):
    """Polar Express with the true bound: the p-th root of the least eigenvalue over the norm."""
    bound = (1 / (condition * torch.linalg.matrix_norm(A.double()).item())) ** (1 / p)
    return matfn.PolarExpress(lower=0.98 * bound, **options)


SOLVERS = {
    "exact": lambda A, p, condition: matfn.Exact(),
    "polar express": lambda A, p, condition: told(A, p, condition, steps=14),
    "polar express, degree 7": lambda A, p, condition: told(A, p, condition, steps=12, degree=7),
    # Degree 5, and QDWH, come to about the same as the public solver; these two have room to spare.
    "prism, degree 7": lambda A, p, condition: matfn.Prism(degree=7, steps=16),
    "zolo-pd": lambda A, p, condition: matfn.ZoloPD(),
}
ROOTS = [(name, p) for name in SOLVERS for p in (2, 4) if p == 2 or name != "zolo-pd"]
every_root = pytest.mark.parametrize(("solver", "p"), ROOTS, ids=[f"{name}, p = {p}" for name, p in ROOTS])


def error(B, A, p):
    """Relative Frobenius error against the root of that very A, by eigh in float64."""
    values, V = torch.linalg.eigh(A.double())
    root = (V * values ** (-1 / p)) @ V.mT
    return (torch.linalg.matrix_norm(B.double() - root) / torch.linalg.matrix_norm(root)).item()


def float32_problem(condition, seed):
    A = of_eigenvalues(spectrum(N, condition), seed=seed)[0].float()
    return (A + A.mT) / 2


@every_root
@looped("condition", BEST_PUBLIC)
def test_float32(solver, p, condition):
    for seed in (0, 1, 2):
        A = float32_problem(condition, seed)
        B = matfn.inv_rootm(A, p, method=SOLVERS[solver](A, p, condition))
        assert error(B, A, p) <= BEST_PUBLIC[condition]


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@looped("condition", BEST_PUBLIC)
def test_the_default_is_exact_to_the_dtype(p, condition):
    """It decomposes in float64, so what is left is the rounding of the result to float32, 2^-24 an entry."""
    A = float32_problem(condition, seed=3)
    assert error(matfn.inv_rootm(A, p), A, p) <= 2**-24


@every_root
def test_float64_at_condition_2e5(solver, p):
    """Against the known eigenvalues. Unit roundoff times the condition is 2e-11."""
    values = spectrum(N, 2e5)
    A, V = of_eigenvalues(values, seed=1)
    root = (V * values ** (-1 / p)) @ V.mT
    B = matfn.inv_rootm(A, p, method=SOLVERS[solver](A, p, 2e5))
    assert torch.linalg.matrix_norm(B - root) <= 1e-9 * torch.linalg.matrix_norm(root)


@pytest.mark.parametrize("method", [None, matfn.NewtonSchulz(steps=20)], ids=["exact", "newton-schulz"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 2)])
def test_an_indefinite_matrix_is_refused_by_name(method, shape):
    """A single matrix, which has no batch axis, as well as one of a batch."""
    A = torch.diag(torch.tensor([1.0, 0.5, -0.25])).expand(*shape, 3, 3)
    with pytest.raises(matfn.SpectrumError, match=r"the smallest eigenvalue.*-0\.25 of the largest"):
        matfn.inv_rootm(A, 4, method=method)
