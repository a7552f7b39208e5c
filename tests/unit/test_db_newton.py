"""DB Newton: the claimed step counts (specification 2.5), accuracy beside a decomposition, arguments."""

import pytest
import torch

import matfn
from matfn.engines import Coupled
from matfn.iteration.target import SQRT
from matfn.kernels import EAGER
from matfn.methods import DBNewton
from matrices import of_eigenvalues
from studies.prism.counts import eigenvalues, first


class Watched:
    """Writes down rms(I - M) before each step."""

    steps = 10

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def step(self, k, residual):
        self.seen.append(float(residual.norm()) / residual.M.shape[-1] ** 0.5)
        return self.inner.step(k, residual)


@pytest.mark.parametrize("sketch", ["exact", 8])
@pytest.mark.parametrize(
    ("name", "classical", "fitted"), [("wishart 1/2", 7, 5), ("log-uniform 1e-3", 9, 5), ("log-uniform 1e-6", 14, 6)]
)
def test_half_the_steps_of_the_classical_iteration(name, classical, fitted, sketch):
    values = torch.from_numpy(eigenvalues(name).copy())
    A, _ = of_eigenvalues(values / values.norm())
    watched = Watched(DBNewton(sketch=sketch))
    R = Coupled().run(SQRT, A[None], watched, EAGER)[0]
    assert abs(first(watched.seen, 1e-6) - fitted) <= 1
    m, steps = values / values.norm(), 0
    while (1 - m).square().mean().sqrt() > 1e-6:
        m, steps = m * (0.5 + 0.5 / m) ** 2, steps + 1
    assert abs(steps - classical) <= 1
    assert (R @ R - A).norm() <= 1e-11 * A.norm()


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_inverse_roots(p):
    values = torch.logspace(0, -4, 24, dtype=torch.float64)
    A, V = of_eigenvalues(values)
    want = (V * values ** (-1 / p)) @ V.mT
    error = (matfn.inv_rootm(A, p, method=DBNewton(steps=10)) - want).norm() / want.norm()
    assert error <= 1e-11  # condition 1e4 times some hundred roundings


@pytest.mark.parametrize("keywords", [{"steps": 0}, {"sketch": 0}, {"sketch": "all"}, {"sketch": True}], ids=str)
def test_arguments(keywords):
    with pytest.raises(ValueError, match="must be"):
        DBNewton(**keywords)


@pytest.mark.parametrize("p", [2, 4, 8])
@pytest.mark.parametrize("condition", [1e6, 1e8, 1e10])
def test_one_small_eigenvalue_is_not_lost(p, condition):
    """The best weight is then about condition^(1/p - 1), far below the spacing of any grid of weights."""
    values = torch.ones(16, dtype=torch.float64)
    values[-1] = 1 / condition
    Q = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    A = (Q * values) @ Q.mT
    A = (A + A.mT) / 2
    expected = matfn.inv_rootm(A, p)
    found = matfn.inv_rootm(A, p, method=matfn.DBNewton(steps=15))
    # The inverse of M loses condition * eps, and each of the steps a little of it.
    allowed = 15 * 16 * condition * 2**-52
    assert torch.linalg.matrix_norm(found - expected) <= allowed * torch.linalg.matrix_norm(expected)
