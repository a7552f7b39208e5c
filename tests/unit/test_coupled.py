"""Coupled: it stays at the fixed point, both results belong together, and p = 1 leaves Y alone."""

import pytest
import torch

import matfn
from matfn import Coupled, NewtonSchulz, PolarExpress
from matfn.iteration.target import INV_ROOT, ROOT
from matfn.kernels import EAGER
from matfn.kernels.products import shifted
from matrices import of_eigenvalues, spectrum

EPS = torch.finfo(torch.float64).eps
EXPONENTS = [1, 2, 3, 4, 8]


@pytest.mark.parametrize("condition", [10.0, 1e4])
@pytest.mark.parametrize("p", EXPONENTS)
def test_twenty_more_steps_do_not_blow_up(p, condition):
    """An unstable iteration multiplies its rounding errors by a constant above 1 at each step, 1e6 in twenty."""
    A = of_eigenvalues(spectrum(8, condition), seed=1)[0]
    errors = []
    for steps in (40, 60):
        method = NewtonSchulz(degree=5, steps=steps)
        B, R = matfn.inv_rootm(A, p, method=method), matfn.rootm(A, p, method=method)
        product = torch.linalg.matrix_power(B, p) @ A
        errors.append((product - torch.eye(8, dtype=A.dtype)).norm().item())
        errors.append((torch.linalg.matrix_power(R, p) - A).norm().item())
    assert errors[0] <= 1000 * p * EPS * condition
    assert errors[2] <= 10 * errors[0] + 100 * EPS
    assert errors[1] <= 1000 * p * EPS * condition
    assert errors[3] <= 10 * errors[1] + 100 * EPS


def test_the_other_order_of_factors_is_unstable():
    """What the docstring warns of, so that nobody tidies it away: Z q(M) in place of q(M) Z loses the root."""
    A = of_eigenvalues(spectrum(8, 1e4), seed=1)[0][None]
    A = A / torch.linalg.matrix_norm(A)
    row = NewtonSchulz(degree=5, steps=1).schedule(2).rows[0]

    def run(right, steps=80):
        Y, Z = A, torch.eye(8, dtype=A.dtype)[None]
        for _ in range(steps):
            q = shifted(*row.split(Z @ Y, EAGER))
            Y, Z = Y @ q, (Z @ q if right else q @ Z)
        return (Y @ Y - A).norm().item()

    assert run(right=False) <= 1e-10
    assert not run(right=True) <= 1e-6


@pytest.mark.parametrize("p", EXPONENTS)
def test_root_and_inverse_root_belong_together(p):
    A = of_eigenvalues(3 * spectrum(7, 100.0), seed=2)[0]
    method = PolarExpress(steps=16, lower=(1 / 300) ** (1 / p))
    R, B = matfn.rootm(A, p, method=method), matfn.inv_rootm(A, p, method=method)
    assert (R @ B - torch.eye(7, dtype=A.dtype)).norm() <= 1e4 * EPS * 100 ** (1 / p)
    assert (R - matfn.rootm(A, p)).norm() <= 1e5 * EPS
    assert (B - matfn.inv_rootm(A, p)).norm() <= 1e5 * EPS * 100
    if p == 2:
        assert torch.equal(matfn.sqrtm(A, method=method), R)
        assert torch.equal(matfn.inv_sqrtm(A, method=method), B)


def test_the_first_root_is_the_matrix():
    """p = 1: Y q(M)^0 = Y."""
    A = of_eigenvalues(spectrum(5, 10.0))[0]
    assert (matfn.rootm(A, 1, method=PolarExpress()) - A).abs().max() <= 4 * EPS


@pytest.mark.parametrize("p", EXPONENTS)
def test_products_spent(p):
    """M, q(M) (one for a quintic), Y q^(p-1) by squaring, Z; the first step has M = A and Z = q."""

    class Counting:
        count = 0

        def __getattr__(self, name):
            def product(*args, **kwargs):
                self.count += 1
                return getattr(EAGER, name)(*args, **kwargs)

            return product

    def power(e):  # floor(log2 e) + popcount(e)
        return 0 if e == 0 else e.bit_length() - 1 + e.bit_count()

    A = of_eigenvalues(spectrum(5, 10.0))[0][None]
    for target in (ROOT, INV_ROOT):
        products = Counting()
        Coupled().run(target.with_exponent(p), A, NewtonSchulz(steps=4).schedule(p), products)
        assert products.count <= 4 * (1 + 1 + power(p - 1) + 1) - 2
