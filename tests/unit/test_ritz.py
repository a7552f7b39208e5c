"""Ritz: quadrature exact to its degree, values inside the spectrum; and the norm that is never below the spectrum."""

import mpmath
import pytest
import torch

from loops import looped
from matfn.iteration.residual import Residual
from matfn.linalg.bounds import greatest_eigenvalue
from matfn.linalg.lanczos import lanczos
from matfn.methods.ritz_minimax.density import density
from matrices import gaussian, generator, of_eigenvalues, orthogonal

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = looped("dtype", DTYPES)


def psd(n, condition=100.0, seed=0):
    return of_eigenvalues(torch.logspace(0, -torch.tensor(condition).log10().item(), n, dtype=torch.float64), seed)[0]


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_moments(steps):
    """s^T M^j s: Gauss to degree 2K - 1, Gauss-Radau, with its node at 0, to 2K, and neither one degree further."""
    M, S = psd(20)[None], gaussian(20, 3, seed=1)
    T = lanczos(lambda V: M @ V, S[None], steps)
    for rule, degree in ((T[..., :steps, :steps], 2 * steps - 1), (T, 2 * steps)):
        values, vectors = torch.linalg.eigh(rule)
        for j in range(degree + 2):
            want = (S * (torch.linalg.matrix_power(M[0], j) @ S)).sum(0) / S.square().sum(0)
            got = (vectors[..., 0, :] ** 2 * values**j).sum(-1)[0]
            error = ((got - want) / want).abs().max()
            assert error <= 1e-12 if j <= degree else error >= 1e-10, (j, degree)
    assert torch.linalg.eigvalsh(T)[..., 0].abs().max() <= 1e-15


def test_the_two_rules_err_to_opposite_sides():
    """Of the square root, whose derivatives keep their signs; the mean of both is what a density weighs."""
    M, S = psd(40, 1e6)[None], gaussian(40, 1, seed=2)
    values, V = torch.linalg.eigh(M[0])
    want = ((V.mT @ S).squeeze() ** 2 * values.clamp(min=0).sqrt()).sum() / S.square().sum()
    T = lanczos(lambda W: M @ W, S[None], 6)
    forms = []
    for rule in (T[..., :6, :6], T):
        nodes, vectors = torch.linalg.eigh(rule)
        forms.append((vectors[..., 0, :] ** 2 * nodes.clamp(min=0).sqrt()).sum().item())
    assert forms[1] < want.item() < forms[0]
    assert abs(sum(forms) / 2 - want) < min(abs(form - want) for form in forms)


@every_dtype
@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 40])
def test_the_density(n, dtype):
    """Weights of sum 1, no negative node, Ritz values inside the spectrum; also where the space is exhausted."""
    M = psd(n)[None].to(dtype)
    seen = density(Residual(M, 2), 2, 6, 0)
    values = torch.linalg.eigvalsh(M[0].double())
    slack = 100 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    assert seen.nodes.shape == seen.weights.shape == (1, 2 * (6 + 6))
    assert seen.nodes.dtype == torch.float64
    assert (seen.weights >= 0).all()
    assert abs(seen.weights.sum() - 1) <= 1e-12
    assert seen.nodes.min() >= 0
    assert seen.nodes[seen.weights > 1e-12].max() <= values[-1] + slack
    assert max(values[0].item(), 0) - slack <= seen.least <= seen.greatest <= values[-1] + slack
    if n <= 6:  # all eigenvalues are found, with LAPACK as a witness
        assert abs(seen.least - max(values[0].item(), 0)) <= slack
        assert abs(seen.greatest - values[-1]) <= slack


def test_trace_of_the_identity_multiple():
    seen = density(Residual(0.3 * torch.eye(9, dtype=torch.float64)[None], 2), 2, 6, 0)
    assert seen.least == pytest.approx(0.3, rel=1e-14)
    assert seen.greatest == pytest.approx(0.3, rel=1e-14)
    assert (seen.weights * (seen.nodes - 0.3).abs()).sum() <= 1e-14


def test_zero():
    seen = density(Residual(torch.zeros(2, 5, 5), 2), 2, 6, 0)
    assert not seen.greatest.any()
    assert not seen.least.any()
    assert (seen.weights * seen.nodes).sum() <= 1e-100
    assert seen.weights.isfinite().all()


@every_dtype
def test_each_member_as_if_alone_and_nan_is_its_own(dtype):
    M = torch.stack([psd(12, c, seed=i) for i, c in enumerate((2.0, 1e3, 1e9))]).to(dtype)
    spoilt = torch.cat([M, M[:1]])
    spoilt[3, 0, 0] = torch.nan
    seen = density(Residual(spoilt, 2), 2, 6, 3)
    for i in range(3):
        alone = density(Residual(M[i : i + 1], 2), 2, 6, 3)
        for name in ("nodes", "weights", "least", "greatest"):
            got, want = getattr(seen, name)[i], getattr(alone, name)[0]
            # Products of a batch may add up in another order; a node of no weight may then lie elsewhere.
            held = 1.0 if name in ("least", "greatest") else alone.weights[0] > 1e-9
            assert (
                (got - want).abs() * held <= 1e-4 if dtype != torch.float64 else (got - want).abs() * held <= 1e-9
            ).all()
    assert seen.greatest[3] == 0  # nothing is known


# -- the greatest eigenvalue --


def products(X, dtype):
    """M = X X^T and M^2 as the iteration has them, in dtype, with the true M of the rounded X."""
    X = (X / torch.linalg.matrix_norm(X).clamp(min=1e-300)).to(dtype)
    M = (X @ X.mT)[None]
    return M, M @ M, X.double() @ X.double().mT


def cases():
    n = 48
    Q = orthogonal(n, seed=1)
    yield "Gaussian", gaussian(n, n, seed=2)
    yield "wide", gaussian(n, 5 * n, seed=3)
    yield "flat", Q
    yield "the identity", torch.eye(n, dtype=torch.float64)
    yield "a multiple of ones", torch.ones(n, n, dtype=torch.float64)
    yield "rank one", gaussian(n, 1, seed=4) @ gaussian(1, n, seed=5)
    yield "steep", Q * torch.logspace(0, -12, n, dtype=torch.float64)
    yield "one above", Q * torch.cat([torch.tensor([30.0]), torch.ones(n - 1)]).double()
    yield "low rank and noise", gaussian(n, 3, seed=6) @ gaussian(3, n, seed=7) + 1e-3 * gaussian(n, n, seed=8)
    yield "zero", torch.zeros(n, n, dtype=torch.float64)
    yield "one number", torch.ones(1, 1, dtype=torch.float64)


CASES = dict(cases())


@every_dtype
@pytest.mark.parametrize("name", CASES)
def test_never_below_the_greatest_eigenvalue(name, dtype):
    M, square, exact = products(CASES[name], dtype)
    true = max(torch.linalg.eigvalsh(M[0].double())[-1].item(), torch.linalg.eigvalsh(exact)[-1].item())
    for bound in (greatest_eigenvalue(M), greatest_eigenvalue(M, square)):
        assert bound.dtype == torch.promote_types(dtype, torch.float32)
        assert bound.item() >= true * (1 - 2.0**-52)
        assert bound.item() <= torch.linalg.matrix_norm(exact).item() * (1 + 0.1) + 1e-30  # no worse than the norm
    if dtype != torch.float16:
        assert greatest_eigenvalue(M, square) <= greatest_eigenvalue(M) * (1 + 1e-6)


@every_dtype
def test_never_below_for_spectra_at_random(dtype):
    draw = generator(5)
    for _ in range(60):
        n = int(torch.randint(2, 40, (), generator=draw))
        decades = torch.rand((), generator=draw).item() * 8
        s = 10 ** (-decades * torch.rand(n, generator=draw, dtype=torch.float64) ** 3)
        M, square, exact = products(orthogonal(n, seed=n) * s, dtype)
        true = torch.linalg.eigvalsh(exact)[-1].item()
        assert min(greatest_eigenvalue(M).item(), greatest_eigenvalue(M, square).item()) >= true * (1 - 2.0**-52)


@every_dtype
def test_sharp_for_a_multiple_of_the_identity(dtype):
    """And for one value above others that are all alike, where the second moment says all."""
    n, u = 64, torch.finfo(dtype).eps / 2
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    M = torch.eye(n, dtype=dtype)[None] / n
    bound = greatest_eigenvalue(M, M @ M if dtype != torch.float16 else None).item()
    # sqrt(8 eps n) is what the difference of squares loses; u n^(1/2) the rounding of M. The square does better.
    assert 1 <= bound * n <= 1 + 1.01 * ((8 * wide * n) ** 0.5 + u * n**0.5 + n**0.5 * n * wide)
    if dtype == torch.float64:
        assert bound * n <= 1 + 1e-6
        m = torch.full((n,), 0.1, dtype=dtype)
        m[3] = 2.0
        assert greatest_eigenvalue(torch.diag(m)[None]).item() == pytest.approx(2.0, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_not_below_for_large_matrices(dtype):
    """4096 x 4096 multiples of a projection, whose rounding errors all have one sign, and of the identity."""
    n = 4096
    for M in (torch.full((1, n, n), 1 / n / 3).to(dtype), (torch.eye(n)[None] / n / 3).to(dtype)):
        true = M[0, 0, 0].double().item() * (n if M[0, 0, 1] else 1)
        assert greatest_eigenvalue(M).item() >= true
        assert greatest_eigenvalue(M).item() <= true * (1.1 if M[0, 0, 1] else 1.5)


def test_a_matrix_that_is_not_symmetric():
    """Of the sign: real eigenvalues, eigenvectors far from orthogonal. Norms bound them all the same."""
    n = 12
    V = torch.eye(n, dtype=torch.float64) + 0.5 * gaussian(n, n, seed=1)
    values = torch.linspace(0.1, 1, n, dtype=torch.float64)
    M = (V * values) @ torch.linalg.inv(V)
    M = M[None] / torch.linalg.matrix_norm(M)
    true = torch.linalg.eigvals(M).real.max().item()
    assert greatest_eigenvalue(M).item() >= true
    assert greatest_eigenvalue(M, M @ M).item() >= true


def test_samuelson_in_exact_numbers():
    """mean + sqrt((n - 1)/n sum (x - mean)^2): no value exceeds it, and one above equals meets it, in 50 digits."""
    with mpmath.workdps(50):
        x = [mpmath.mpf(1)] * 6 + [mpmath.mpf(9)]
        mean = sum(x) / 7
        limit = mean + mpmath.sqrt(mpmath.mpf(6) / 7 * sum((t - mean) ** 2 for t in x))
        assert abs(limit - 9) < mpmath.mpf(10) ** -45
    got = greatest_eigenvalue(torch.diag(torch.tensor([float(t) for t in x], dtype=torch.float64))[None]).item()
    assert got == pytest.approx(9, rel=1e-7)
