"""The eager products against plain float64 arithmetic, in every dtype, with numbers and tensors as weights."""

import pytest
import torch

import matfn
from matfn.kernels import EAGER, Eager
from matrices import gaussian

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def symmetric(*shape, seed):
    A = gaussian(*shape, seed=seed)
    return (A + A.mT) / 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", ["numbers", "tensors", "mixed"])
def test_products(dtype, weights):
    """Each entry is a sum of n = 7 products and one addition: (n + 3) eps times the sum of magnitudes."""
    b, n, m = 3, 7, 9
    X, A, C = (gaussian(b, *s, seed=i).to(dtype) for i, s in enumerate([(n, m), (n, n), (n, m)]))
    S, T = (symmetric(b, n, n, seed=i).to(dtype) for i in (5, 6))
    alpha, beta = 0.75, -1.5
    a = torch.full((b, 1, 1), alpha, dtype=dtype) if weights != "numbers" else alpha
    e = torch.full((b, 1, 1), beta, dtype=dtype) if weights == "tensors" else beta
    d = lambda Z: Z.double()  # noqa: E731
    checks = {
        "syrk": (EAGER.syrk(X), d(X) @ d(X).mT, d(X).abs() @ d(X).mT.abs()),
        "sym_mm": (EAGER.sym_mm(S, T), d(S) @ d(T), d(S).abs() @ d(T).abs()),
        "mm": (EAGER.mm(A, X), d(A) @ d(X), d(A).abs() @ d(X).abs()),
        "addmm": (
            EAGER.addmm(C, A, X, alpha=a, beta=e),
            alpha * d(A) @ d(X) + beta * d(C),
            2 * (d(A).abs() @ d(X).abs() + d(C).abs()),
        ),
        "sym_addmm": (
            EAGER.sym_addmm(S, S, T, alpha=a, beta=e),
            alpha * d(S) @ d(T) + beta * d(S),
            2 * (d(S).abs() @ d(T).abs() + d(S).abs()),
        ),
    }
    for name, (got, want, size) in checks.items():
        assert got.dtype == dtype, name
        assert got.shape == want.shape, name
        assert ((got.double() - want).abs() <= (m + 3) * torch.finfo(dtype).eps * size).all(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_number_for_each_matrix_is_rounded_once(dtype):
    """A B + beta C with beta in float32: the product is rounded, then the sum, and nothing else."""
    C, A, B = (gaussian(3, 5, 5, seed=i).to(dtype) for i in range(3))
    beta = torch.tensor([0.1, -2.0, 3.3], dtype=torch.promote_types(dtype, torch.float32))[:, None, None]
    P = EAGER.mm(A, B)
    want = P.double() + beta * C.double()
    fine = torch.finfo(beta.dtype).eps * (P.abs() + (beta * C).abs())  # of the numbers that are added
    for given in (C, C.clone().requires_grad_()):  # with derivatives the sum is another call
        got = EAGER.addmm(given, A, B, alpha=1.0, beta=beta)
        assert got.dtype == dtype
        assert ((got.double() - want).abs() <= torch.finfo(dtype).eps / 2 * want.abs() + 2 * fine).all()
    got.sum().backward()
    assert torch.allclose(given.grad, beta.to(dtype).expand_as(C))


def test_orthogonalize_takes_products():
    """Those it is given are those it uses; what is none is refused."""
    X, called = gaussian(3, 4, seed=1), []

    class Watched(Eager):
        def syrk(self, X):
            called.append(X.shape)
            return super().syrk(X)

    U = matfn.orthogonalize(X, products=Watched())
    assert called == [(1, 3, 4)] * 5
    assert torch.equal(U, matfn.orthogonalize(X, products=EAGER))
    for wrong in ("eager", Eager):
        with pytest.raises(TypeError, match="products must be a value"):
            matfn.orthogonalize(X, products=wrong)
    with pytest.raises(ValueError, match="has no use for"):
        matfn.orthogonalize(X, method=matfn.Exact(), products=EAGER)


def test_nothing_is_written_in_place():
    C, A, B = (gaussian(2, 4, 4, seed=i) for i in range(3))
    before = [Z.clone() for Z in (C, A, B)]
    for result in (
        EAGER.addmm(C, A, B, alpha=1.0, beta=1.0),
        EAGER.sym_addmm(C, A, B, alpha=1.0, beta=1.0),
        EAGER.mm(A, B),
        EAGER.sym_mm(A, B),
        EAGER.syrk(A),
    ):
        result.fill_(7.0)
    assert all(torch.equal(Z, z) for Z, z in zip((C, A, B), before, strict=True))
