"""Blocked products against full ones, where they are chosen, and why roots do without them."""

import pytest
import torch

import matfn
from matfn import Coupled, Direct, Gram, PolarExpress
from matfn.engines import gram_error
from matfn.engines.restarts import restarts_for
from matfn.iteration.target import INV_ROOT, POLAR
from matfn.kernels import EAGER, Blocked
from matfn.linalg.norms import prescale
from matrices import gaussian, orthogonal

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
# Rows of 1, fewer rows than a block, multiples of nothing, and of 16.
SIZES = [(1, 1), (5, 8), (33, 4), (50, 16), (64, 16), (96, 32), (70, 64)]


def symmetric(n, dtype, seed=0):
    A = gaussian(2, n, n, seed=seed)
    return ((A + A.mT) / n).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "rows"), SIZES)
def test_the_products_are_those_of_torch(n, rows, dtype):
    """Up to the order of sums: n roundings in float32 at least, and one in the dtype, of numbers of about 1."""
    blocked, eps = Blocked(rows), torch.finfo(dtype).eps
    X, M = gaussian(2, n, 7, seed=1).to(dtype), symmetric(n, dtype)
    P = torch.linalg.matrix_power(M.double(), 2).to(dtype)  # commutes with M up to rounding
    C = symmetric(n, dtype, seed=2)
    weights = [(0.3, -2.0), (torch.tensor([0.3, 0.4])[:, None, None], torch.tensor([[[2.0]]]))]
    pairs = [(blocked.syrk(X), EAGER.syrk(X)), (blocked.sym_mm(M, P), EAGER.sym_mm(M, P))]
    pairs += [(blocked.mm(M, X), EAGER.mm(M, X))]
    for alpha, beta in weights:
        pairs.append((blocked.sym_addmm(C, M, P, alpha=alpha, beta=beta), (alpha * (M @ P) + beta * C).to(dtype)))
        pairs.append((blocked.addmm(X, M, X, alpha=alpha, beta=beta), (alpha * (M @ X) + beta * X).to(dtype)))
    for got, want in pairs:
        assert got.dtype == dtype
        assert (got - want).abs().max() <= 8 * eps * max(1.0, want.abs().max().item())


@pytest.mark.parametrize(("n", "rows"), SIZES)
def test_what_is_mirrored_is_the_same_to_the_last_bit(n, rows):
    """All but the diagonal blocks."""
    blocked, M = Blocked(rows), symmetric(n, torch.float32)
    for result in (blocked.syrk(M), blocked.sym_mm(M, M), blocked.sym_addmm(M, M, M, alpha=0.5, beta=-1.0)):
        different = (result != result.mT).any(0).nonzero()
        assert ((different[:, 0] - different[:, 1]).abs() < 2 * max(rows, 16)).all()
        assert torch.equal(Blocked(1).syrk(M), Blocked(1).syrk(M).mT)
        assert result.is_contiguous()


def test_a_tall_matrix_is_read_where_it_lies():
    X = gaussian(2, 40, 24, seed=3).float()
    assert torch.allclose(Blocked(8).syrk(X.mT), X.mT @ X, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("engine", [Direct(), Gram()], ids=str)
def test_the_polar_factor_is_as_accurate(engine, dtype):
    """On condition 1e3, against the SVD, both products leave the schedule's error plus rounding."""
    U, V = orthogonal(48, seed=4), orthogonal(96, seed=5)[:48]
    s = torch.logspace(0, -3, 48, dtype=torch.float64)
    A, _ = prescale(((U * s) @ V)[None])
    method = PolarExpress(steps=12).schedule(2)
    errors = []
    for products in (EAGER, Blocked(16)):
        result = engine.run(POLAR, A.to(dtype), method, products)
        errors.append(torch.linalg.matrix_norm(result[0].double() - U @ V, 2).item())
    # A direction of singular value sigma is rounded by u sigma_1 / sigma at most, once a step that lifts it; the Gram
    # engine adds the rounding of Q, amplified as its choice of restarts allows.
    eps = torch.finfo(dtype).eps
    gram = gram_error(method, restarts_for(method, dtype), dtype) if engine == Gram() else 0.0
    allowed = 12 * eps * 1e3 + gram
    assert errors[1] <= allowed or dtype == torch.bfloat16
    assert errors[1] <= max(2 * errors[0], allowed)


def test_a_batch_is_what_each_matrix_is_alone():
    X = gaussian(3, 200, 220, seed=6).float()
    method = PolarExpress()
    together = matfn.orthogonalize(X, method=method)
    for one, U in zip(X, together, strict=True):
        assert torch.equal(matfn.orthogonalize(one, method=method), U)


def test_derivatives_take_the_plain_products():
    X = gaussian(200, 200, seed=7).float().requires_grad_()
    matfn.orthogonalize(X, method=PolarExpress(steps=2)).sum().backward()
    assert X.grad is not None
    assert bool(X.grad.isfinite().all())


def test_roots_do_not_bear_a_mirrored_product():
    """Why a run plan asks: at condition 1e6 the coupled iteration loses all digits, and keeps ten without."""
    Q, d = orthogonal(48, seed=8), torch.logspace(0, -6, 48, dtype=torch.float64)
    A, scale = prescale(((Q * d) @ Q.mT)[None])
    want = (Q * d**-0.5) @ Q.mT
    method = PolarExpress(steps=14, lower=1e-4).schedule(2)
    errors = []
    for products in (EAGER, Blocked(16)):
        R = scale.undo(Coupled().run(INV_ROOT.with_exponent(2), A, method, products), -0.5)[0]
        errors.append((torch.linalg.matrix_norm(R - want) / torch.linalg.matrix_norm(want)).item())
    assert errors[0] <= 1e-9
    assert errors[1] > 1e3 * errors[0] or errors[1] != errors[1]
