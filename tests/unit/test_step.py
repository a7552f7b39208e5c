"""Polynomial: q(M) by few products equals Horner's rule on the spectrum, and spends what it says."""

from dataclasses import dataclass, field

import pytest
import torch

from matfn import Polynomial
from matfn.kernels import EAGER
from matrices import of_eigenvalues

EPS = torch.finfo(torch.float64).eps


@dataclass
class Counting:
    """Eager products that are counted."""

    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name):
        def product(*args, **kwargs):
            self.calls.append(name)
            return getattr(EAGER, name)(*args, **kwargs)

        return product


@pytest.mark.parametrize("k", range(1, 13))
def test_split_is_horner_on_the_spectrum(k):
    coefficients = tuple((-1.0) ** j * (j + 1.5) / 2**j for j in range(k + 1))
    values = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)
    M, V = of_eigenvalues(values)
    q, products = Polynomial(coefficients), Counting()
    c, B = q.split(M[None], products)
    want = (V * q(values)) @ V.mT
    # Each of at most k products rounds to n eps; all norms are at most 1.
    allowed = 6 * k * EPS * sum(abs(x) for x in coefficients)
    assert (c * torch.eye(6, dtype=M.dtype) + B[0] - want).norm() <= allowed
    assert len(products.calls) == q.products
    assert set(products.calls) <= {"sym_mm", "sym_addmm"}
    by_powers = sum(x * values**j for j, x in enumerate(coefficients))
    assert (q(values) - by_powers).abs().max() <= allowed


def test_products_as_promised():
    """0, 1, 2, 2, 3, 3, 4 for k = 1 .. 7: about 2 sqrt(k), never more than Horner's k - 1."""
    counts = [Polynomial((1.0,) * (k + 1)).products for k in range(1, 17)]
    assert counts[:7] == [0, 1, 2, 2, 3, 3, 4]
    assert all(count <= max(k - 1, 0) for k, count in enumerate(counts, 1))
    assert counts == sorted(counts)


@pytest.mark.parametrize("k", range(1, 8))
def test_every_matrix_may_have_its_own_coefficients(k):
    values = torch.linspace(0.1, 1.0, 5, dtype=torch.float64)
    M = torch.stack([of_eigenvalues(values, seed=s)[0] for s in range(3)])
    rows = torch.linspace(-1, 2, 3 * (k + 1), dtype=torch.float64).reshape(3, k + 1)
    c, B = Polynomial(tuple(rows[:, j, None, None] for j in range(k + 1))).split(M, EAGER)
    for i in range(3):
        c_i, B_i = Polynomial(tuple(rows[i].tolist())).split(M[i : i + 1], EAGER)
        difference = (c * torch.eye(5, dtype=M.dtype) + B)[i] - (c_i * torch.eye(5, dtype=M.dtype) + B_i[0])
        assert difference.abs().max() <= 100 * EPS


@pytest.mark.parametrize("k", range(1, 8))
def test_split_returns_a_fresh_matrix(k):
    """An engine writes c into its diagonal: M must not change with it."""
    M = torch.eye(3, dtype=torch.float64)[None]
    _, B = Polynomial((1.0,) * (k + 1)).split(M, EAGER)
    B.fill_(7.0)
    assert torch.equal(M[0], torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("coefficients", [(), (1.0,)])
def test_a_constant_is_no_step(coefficients):
    with pytest.raises(ValueError, match="c_0 and c_1"):
        Polynomial(coefficients)
