"""What a function of a matrix must not depend on: transposition, basis, scale, batch, memory layout."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import matfn
from loops import named
from matfn.iteration.target import POLAR, Domain
from matrices import gaussian, orthogonal

from . import cases
from .oracle import schedule_on
from .problems import allowance, problem, verb

SCALES = (1e-30, 1e-15, 3e-5, 7.0, 1e15, 1e30)


def close(a, b, allowed):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    error = (a - b).double().norm().item()
    assert error <= allowed, f"{error:.2e} > {allowed:.2e}"


def members(target, count=3):
    """Different problems of one shape."""
    return [problem(target, condition=c)[0] for c in (3.0, 20.0, 60.0)[:count]]


@cases.every_orthogonalization
def test_transpose(method, engine):
    for shape in [(5, 8), (8, 5), (6, 6)]:
        A = gaussian(*shape, seed=11)
        with named(shape):
            U, transposed = (matfn.orthogonalize(X, method=method, engine=engine) for X in (A, A.mT))
            close(transposed.mT, U, 2 * allowance(POLAR, method, engine, A))


@cases.every_function_of_the_spectrum
def test_basis(method, target):
    """f(P A Q) = P f(A) Q for orthogonal P, Q; Q = P^T for functions of a symmetric matrix, inv turns them round."""
    A = problem(target)[0]
    P = orthogonal(7, seed=21)
    Q = orthogonal(7, seed=22) if target.name in ("polar", "inv") else P.mT
    B = P @ A @ Q
    B = (B + B.mT) / 2 if target.domain is Domain.SPD or target.name == "sign" else B
    got, want = verb(target, B, method), verb(target, A, method)
    want = Q.mT @ want @ P.mT if target.name == "inv" else P @ want @ Q
    close(got, want, 2 * allowance(target, method, None, A))


@cases.every_function
def test_scale(method, target):
    """f(cA) = c^h f(A) from 1e-30 to 1e30; the rounding of cA itself is part of the allowance."""
    for dtype in (torch.float32, torch.float64):
        A = problem(target)[0].to(dtype)
        A = (A + A.mT) / 2 if target.domain is Domain.SPD else A
        want, allowed = verb(target, A, method).double(), 2 * allowance(target, method, None, A)
        for scale in SCALES:
            with named(dtype, scale):
                got = verb(target, A * scale, method)
                assert torch.isfinite(got).all()
                close(got.double() / scale**target.homogeneity, want, allowed)


@cases.every_iterated_orthogonalization
def test_powers_of_two_change_no_bit(method, engine):
    """A decomposition may scale its argument as it likes."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        A = gaussian(3, 5, 8, seed=4, dtype=dtype)
        U = matfn.orthogonalize(A, method=method, engine=engine)
        exponents = {torch.float16: (-3, 1, 8), torch.float64: (-900, -100, 100, 900)}
        for exponent in exponents.get(dtype, (-100, -30, 1, 30, 100)):
            scaled = A * 2.0**exponent
            with named(dtype, exponent):
                assert torch.equal(scaled / 2.0**exponent, A), "the test itself lost bits, to subnormals or infinity"
                assert torch.equal(matfn.orthogonalize(scaled, method=method, engine=engine), U)


@cases.every_function
def test_batch_is_loop(method, target):
    """Each member as if it were alone, whatever its companions; leading dimensions are kept."""
    alone = members(target)
    batch = torch.stack([*alone, *(1e6 * A for A in alone)])
    together = verb(target, batch, method)
    shaped = verb(target, batch.reshape(2, 3, *batch.shape[1:]), method)
    assert shaped.shape == (2, 3, *batch.shape[1:])
    assert torch.equal(shaped.reshape(together.shape), together)
    for A, result in zip(batch, together, strict=True):
        close(result, verb(target, A, method), 2 * allowance(target, method, None, A))


@cases.every_function
def test_memory_layout(method, target):
    """Strided, expanded, transposed and offset views; the result is contiguous."""
    A = problem(target)[0]
    want, allowed = verb(target, A, method), 2 * allowance(target, method, None, A)
    n = A.shape[-1]
    strided = torch.full((2 * n, 3 * n), 7.0, dtype=A.dtype)[::2, 1::3]
    strided.copy_(A)
    views = {"strided": strided, "transposed": A.mT.contiguous().mT, "offset": torch.cat([A, A])[n:]}
    for name, view in views.items():
        assert torch.equal(view, A), name
        result = verb(target, view, method)
        assert result.is_contiguous(), name
        close(result, want, allowed)
    expanded = A.expand(2, 3, n, n)
    result = verb(target, expanded, method)
    assert result.is_contiguous()
    for one in result.reshape(-1, n, n):
        close(one, want, allowed)
    permuted = torch.stack([A, 2 * A], -1).permute(2, 0, 1)
    close(verb(target, permuted, method)[0], want, allowed)


@given(
    m=st.integers(1, 8),
    n=st.integers(1, 8),
    exponent=st.integers(-30, 30),
    seed=st.integers(0, 1000),
    name=st.sampled_from(list(cases.METHOD)),
)
def test_any_matrix(m, n, exponent, seed, name):
    """orthogonalize(A) = U f(sigma/c) V^T by torch's own SVD, for random shapes and scales."""
    method = cases.METHOD[name]
    assume(not cases.sketches(method))
    A = gaussian(m, n, seed=seed)
    U, sigma, Vh = torch.linalg.svd(A, full_matrices=False)
    c = torch.linalg.matrix_norm(A).item()
    schedule = schedule_on(method, POLAR, sigma, c)
    want = U @ Vh if schedule is None else (U * schedule(sigma / c)) @ Vh
    close(matfn.orthogonalize(A * 10.0**exponent, method=method), want, 2 * allowance(POLAR, method, None, A, sigma))
