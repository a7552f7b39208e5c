"""oneDNN's float32 products against float64, where they are chosen, and what an iteration makes of them."""

import pytest
import torch

import matfn
from matfn import Coupled, Direct, Gram, PolarExpress
from matfn.iteration.target import INV_ROOT
from matfn.kernels import EAGER, ONEDNN, Blocked, onednn
from matfn.linalg.norms import prescale
from matrices import gaussian, orthogonal

needs_onednn = pytest.mark.skipif(not onednn.onednn_runs(), reason="this build of torch has no oneDNN")
U32 = torch.finfo(torch.float32).eps / 2


def close(got, *factors, extra=0.0):
    """Rounding of a sum of k products: at most (k + 2) u |A| |B|, entry by entry."""
    A, B = (x.double() for x in factors)
    bound = (A.shape[-1] + 4) * U32 * (A.abs() @ B.abs() + extra)
    return bool(((got.double() - (A @ B)).abs() <= bound).all()), bound


LAYOUTS = {
    "rows": lambda X: X,
    "columns": lambda X: X.mT.contiguous().mT,
    "a slice of columns": lambda X: torch.cat([X, X], -1)[..., : X.shape[-1]],
    "every second row": lambda X: X.repeat_interleave(2, -2)[..., ::2, :],
    "expanded": lambda X: X[:1].expand(len(X), -1, -1),
}


@needs_onednn
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (2, 40, 70), (1, 70, 40)], ids=str)
def test_the_products_are_those_of_float64(shape, layout):
    X = layout(gaussian(*shape, seed=1).float())
    M = layout(gaussian(shape[0], shape[1], shape[1], seed=2).float())
    assert close(ONEDNN.syrk(X), X, X.mT)[0]
    assert close(ONEDNN.mm(M, X), M, X)[0]
    assert close(ONEDNN.mm(X.mT, M), X.mT, M)[0]
    alpha = torch.linspace(0.3, 2.0, shape[0]).double()[:, None, None]
    want = alpha * (M.double() @ X.double()) - 0.5 * X.double()
    got = ONEDNN.addmm(X, M, X, alpha=alpha, beta=-0.5).double()
    assert bool(((got - want).abs() <= (shape[1] + 4) * U32 * (alpha * (M.abs() @ X.abs()) + X.abs())).all())
    for rows in (1, 16, 64):
        assert close(Blocked(rows, ONEDNN).syrk(X), X, X.mT)[0]
        assert close(Blocked(rows, ONEDNN).mm(M, X), M, X)[0]


@needs_onednn
def test_arguments_are_left_alone():
    C, A = gaussian(2, 9, 9, seed=3).float(), gaussian(2, 9, 9, seed=4).float()
    kept = C.clone(), A.clone()
    ONEDNN.addmm(C, A, A, alpha=0.5, beta=2.0)
    ONEDNN.sym_addmm(C, A, C, alpha=0.5, beta=2.0)
    assert torch.equal(C, kept[0])
    assert torch.equal(A, kept[1])


@needs_onednn
@pytest.mark.parametrize("engine", [Direct(), Gram((2,))], ids=str)
def test_the_polar_factor_is_as_accurate(engine):
    U, V = orthogonal(200, seed=4), orthogonal(260, seed=5)[:200]
    s = torch.logspace(0, -2, 200, dtype=torch.float64)
    A = ((U * s) @ V).float()
    errors = []
    for products in (EAGER, ONEDNN, Blocked(64, ONEDNN)):
        result = matfn.orthogonalize(A, method=PolarExpress(steps=8, lower=1e-3), engine=engine, products=products)
        errors.append(torch.linalg.matrix_norm(result.double() - U @ V, 2).item())
    # A direction of singular value sigma is rounded by about u sigma_1 / sigma for each of the steps that lift it, and
    # another order of summation rounds otherwise, not more.
    assert max(errors) <= 8 * 8 * 1e2 * 2 * U32 + 8 * 8 * U32 * 200**0.5
    assert max(errors[1:]) <= 4 * errors[0]


@needs_onednn
def test_roots_take_full_products():
    Q, d = orthogonal(200, seed=8), torch.logspace(0, -3, 200, dtype=torch.float64)
    A, scale = prescale(((Q * d) @ Q.mT).float()[None])
    want = (Q * d**-0.5) @ Q.mT
    method = PolarExpress(steps=10, lower=1e-3).schedule(2)
    errors = []
    for products in (EAGER, ONEDNN):
        R = scale.undo(Coupled().run(INV_ROOT.with_exponent(2), A, method, products), -0.5)[0]
        errors.append((torch.linalg.matrix_norm(R - want) / torch.linalg.matrix_norm(want)).item())
    assert errors[1] <= 4 * errors[0] <= 4 * 1e3 * 8 * U32
