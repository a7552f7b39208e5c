"""What is singular, and what is made of it: the same for every method, whatever shape, dtype and scale."""

import pytest
import torch

import matfn
from loops import looped
from matfn import METHODS, QDWH, Exact, NewtonSchulz, PolarExpress, SpectrumError, ZoloPD
from matfn.iteration.protocols import Scheduled
from matfn.linalg.bounds import least_singular_value
from matfn.linalg.rank import completed
from matrices import gaussian, of_eigenvalues, of_singular_values, orthogonal, spectrum

CONVERGED = {
    "exact": Exact(),
    "qdwh": QDWH(),
    "zolo-pd": ZoloPD(),
    "qdwh, told": QDWH(lower=1e-16),
    "polar express": PolarExpress(steps=40, lower=1e-9, safety=1.0),
    "newton-schulz": NewtonSchulz(steps=60),
}
every_method = pytest.mark.parametrize("method", CONVERGED.values(), ids=CONVERGED)
every_shape = looped("shape", [(8, 20), (20, 8), (12, 12)])
every_dtype = looped("dtype", [torch.float32, torch.float64])


def deficient(shape, rank, dtype, scale=1.0):
    """A, rounded to dtype so that its zeros are rounding noise, and U V^T of its range."""
    A, U, V = of_singular_values(spectrum(rank, 100.0), *shape, seed=1)
    return (A * scale).to(dtype), U @ V.mT


@every_dtype
@every_shape
@every_method
def test_the_factor_on_the_range(method, shape, dtype):
    """||U||_F^2 is the rank. The factor moves by eps times the condition number on the range, 100, times the size."""
    eps = torch.finfo(dtype).eps
    for scale in (1.0, 1e-30, 1e30):
        A, want = deficient(shape, 5, dtype, scale)
        U, H = matfn.polar(A, method=method)
        assert abs(U.double().square().sum().item() - 5) <= 500 * eps
        assert (U.double() - want).norm() <= 2000 * eps
        assert ((U @ H).double() - A.double()).norm() <= 100 * eps * A.double().norm()


@every_dtype
@every_shape
@pytest.mark.parametrize("method", [Exact(), QDWH(), ZoloPD()], ids=str)
def test_orthogonalize_means_the_same(method, shape, dtype):
    A, want = deficient(shape, 5, dtype)
    U = matfn.orthogonalize(A, method=method)
    assert (U.double() - want).norm() <= 2000 * torch.finfo(dtype).eps
    full = gaussian(*shape, seed=3, dtype=dtype)
    assert (matfn.orthogonalize(full, method=method) - matfn.polar(full).U).norm() <= 1e4 * torch.finfo(dtype).eps


@every_dtype
@every_shape
@every_method
def test_complete(method, shape, dtype):
    """Orthonormal rows or columns, still a polar factor: A = U H with the same H, also for a zero matrix."""
    eps = torch.finfo(dtype).eps
    A, _ = deficient(shape, 5, dtype)
    batch = torch.stack([A, gaussian(*shape, seed=4, dtype=dtype), torch.zeros_like(A)])
    U, H = matfn.polar(batch, factor="complete", method=method)
    G = U @ U.mT if shape[0] <= shape[1] else U.mT @ U
    assert (G - torch.eye(min(shape), dtype=dtype)).norm(dim=(-2, -1)).max() <= 100 * eps
    assert (U @ H - batch).norm() <= 200 * eps * batch.norm()
    assert torch.linalg.eigvalsh(H).min() >= -100 * eps * batch.norm()


@looped("seed", range(4))
@pytest.mark.parametrize("method", [Exact(), QDWH(), ZoloPD()], ids=str)
def test_complete_between_zero_and_the_tolerance(method, seed):
    """Singular values of rounding's size, some above and some below the tolerance: still orthonormal, still A = U H.

    An iteration is completed only if it is further from orthonormal than sqrt(eps).
    """
    allowed = 1e-13 if isinstance(method, Exact) else torch.finfo(torch.float64).eps ** 0.5
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(40, 30, generator=generator, dtype=torch.float64)
    nearly = of_singular_values(spectrum(5, 10.0), 40, 30, seed=seed)[0]
    square = [of_singular_values(spectrum(n, c), n, n, seed=seed)[0] for n in (20, 64) for c in (1e14, 1e15)]
    for A in (nearly + 1e-15 * nearly.norm() * noise / noise.norm(), *square):
        U, H = matfn.polar(A, factor="complete", method=method)
        assert (U.mT @ U - torch.eye(A.shape[1], dtype=A.dtype)).norm() <= allowed
        assert (U @ H - A).norm() <= allowed * A.norm()
        assert torch.linalg.eigvalsh(H).min() >= -1e-14 * A.norm()


@every_method
def test_the_tolerance_is_max_m_n_eps_sigma(method):
    """A singular value ten times above it stays, one ten times below goes."""
    tolerance = 20 * torch.finfo(torch.float64).eps
    for least, rank in ((10 * tolerance, 4), (tolerance / 10, 3)):
        sigma = torch.tensor([1.0, 0.5, 0.2, least], dtype=torch.float64)
        A = torch.zeros(20, 4, dtype=torch.float64)
        A[3:7] = torch.diag(sigma)
        if least > tolerance and isinstance(method, NewtonSchulz | PolarExpress):
            continue  # they form A^T A, which knows nothing of singular values below sqrt(eps)
        assert matfn.polar(A, method=method).U.square().sum().item() == pytest.approx(rank, abs=1e-6)
    if not isinstance(method, NewtonSchulz | PolarExpress):  # both at once: the small one stays beside the zero
        sigma = torch.tensor([1.0, 0.5, 0.2, 10 * tolerance, tolerance / 10], dtype=torch.float64)
        A = torch.zeros(20, 5, dtype=torch.float64)
        A[3:8] = torch.diag(sigma)
        assert matfn.polar(A, method=method).U.square().sum().item() == pytest.approx(4, abs=1e-6)


@every_method
def test_a_sparse_embedding(method):
    """100 of 4096 rows: the rest stays exactly zero in either factor, and nothing leaks into it."""
    A = torch.zeros(4096, 32, dtype=torch.float64)
    rows = torch.arange(100) * 40
    A[rows] = gaussian(100, 32, seed=5)
    for U in (matfn.polar(A, method=method).U, matfn.orthogonalize(A, method=method)):
        rest = U.clone()
        rest[rows] = 0
        assert not rest.any()
        assert (U.mT @ U - torch.eye(32)).norm() <= 1e-12


def test_full_rank_changes_no_bit():
    from matfn.linalg.rank import on_the_range, on_the_range_if_deficient

    A = gaussian(3, 9, 5, seed=6)
    A = A / torch.linalg.matrix_norm(A, keepdim=True)
    U = matfn.polar(A).U
    assert torch.equal(on_the_range(U, A), U)
    assert torch.equal(on_the_range_if_deficient(U, A), U)
    A[1] = float("nan")
    got = on_the_range(torch.where(A.isnan(), A, U), A)
    assert torch.equal(got[[0, 2]], U[[0, 2]])
    assert got[1].isnan().all()


def test_a_batch_of_mixed_rank():
    A = torch.stack([deficient((12, 8), r, torch.float64)[0] for r in (1, 5, 8)] + [torch.zeros(12, 8)])
    for method in (Exact(), QDWH(), ZoloPD()):
        U = matfn.polar(A, method=method).U
        assert U.square().sum((-2, -1)).tolist() == pytest.approx([1, 5, 8, 0], abs=1e-12)


@pytest.mark.parametrize("factor", ["full", True, None])
def test_factor_is_a_word(factor):
    with pytest.raises(ValueError, match='factor must be "range" or "complete", got'):
        matfn.polar(torch.eye(3), factor=factor)


ROOTS = {
    "sqrtm": matfn.sqrtm,
    "inv_sqrtm": matfn.inv_sqrtm,
    "rootm 4": lambda A, **k: matfn.rootm(A, 4, **k),
    "inv_rootm 4": lambda A, **k: matfn.inv_rootm(A, 4, **k),
    "inv_rootm 1": lambda A, **k: matfn.inv_rootm(A, 1, **k),
}
every_root = looped("name", ROOTS)
every_member = pytest.mark.parametrize("method", [kind() for kind in METHODS.values()], ids=list(METHODS))


def takes(method, name):
    """Whether the method has a schedule for the exponent; a method for p = 2 alone raises."""
    if not isinstance(method, Scheduled):
        return True
    try:
        method.schedule(2 if "sqrt" in name else int(name.split()[1]))
    except ValueError:
        return False
    return True


@looped("scale", [1.0, 1e-30, 1e30])
@every_root
@every_member
def test_indefinite_matrices_are_refused(method, name, scale):
    """By every method, naming the smallest eigenvalue and what to do; in a batch too."""
    if not takes(method, name):
        return
    good = torch.eye(4, dtype=torch.float64)
    bad, _ = of_eigenvalues(torch.tensor([2.0, 1.0, 0.5, -0.25], dtype=torch.float64), seed=2)
    with pytest.raises(SpectrumError, match=r"eigenvalue of matrix 1 of 2 is -0\.125 of the largest.*ridge="):
        ROOTS[name](torch.stack([good, bad]) * scale, method=method)
    ROOTS[name](torch.stack([good, bad]), method=method, ridge=1.0)


@every_root
@every_member
def test_singular_matrices_have_roots_but_no_inverse_ones(method, name):
    if not takes(method, name):
        return
    A, _ = of_eigenvalues(torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64), seed=2)
    if name.startswith("inv"):
        with pytest.raises(SpectrumError, match=r"zero or negative to working precision: add ridge="):
            ROOTS[name](A, method=method)
        return
    assert torch.isfinite(ROOTS[name](A, method=method)).all()


@every_root
@every_member
def test_definite_matrices_are_never_refused(method, name):
    """At condition 1e14 in float64, 1e6 in float32, where the Cholesky factorization alone could not tell."""
    if not takes(method, name):
        return
    for dtype, condition in ((torch.float64, 1e14), (torch.float32, 1e6)):
        A, _ = of_eigenvalues(spectrum(12, condition), seed=3)
        A = A.to(dtype)
        ROOTS[name]((A + A.mT) / 2, method=method)


@every_dtype
@looped("condition", [1.0, 1e3, 1e6, 1e10, 1e14])
@every_shape
def test_the_measured_bound_is_one(shape, condition, dtype):
    """Never above sigma_n/||A||_F of the rounded matrix, and below it by no more than 2 sqrt(n), or zero."""
    A = of_singular_values(spectrum(min(shape), condition), *shape, seed=7)[0].to(dtype)
    sigma = torch.linalg.svdvals(A.double())
    true = (sigma[-1] / sigma.norm()).item()
    lower = least_singular_value(A[None])
    assert lower <= true
    if true > 8 * min(shape) ** 0.5 * max(shape) * torch.finfo(dtype).eps:
        assert lower >= true / (2.1 * min(shape) ** 0.5)


def test_the_measured_bound_of_a_batch_is_the_least():
    A = [of_singular_values(spectrum(5, c), 7, 5)[0] for c in (10.0, 1e5, 100.0)]
    bounds = [least_singular_value(a[None]) for a in A]
    assert least_singular_value(torch.stack(A)) == min(bounds)
    assert least_singular_value(torch.stack([*A, torch.zeros(7, 5)])) == min(bounds)
    assert least_singular_value(torch.stack([*A, orthogonal(7, 3) @ orthogonal(5, 3, seed=1).mT])) == 0


def test_rounding_below_zero_is_zero_to_a_decomposition_and_an_error_to_an_iteration():
    """A rank-deficient Gram matrix has eigenvalues of about -n eps, which an iteration would drive to -inf."""
    B = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    A64, A32 = B.double() @ B.double().mT, B @ B.mT
    R = matfn.sqrtm(A64)
    assert torch.linalg.matrix_norm(R @ R - A64) <= 64 * 2**-52 * torch.linalg.matrix_norm(A64)
    assert torch.isfinite(matfn.sqrtm(A32)).all()
    with pytest.raises(matfn.SpectrumError, match=r"smallest eigenvalue is -\d.*ridge="):
        matfn.sqrtm(A32, method=matfn.PolarExpress(steps=30, lower=1e-6))


@looped("dtype", [torch.float32, torch.float64])
@looped("scale", [1e-20, 1.0, 1e20])
def test_the_pseudo_inverse_root_on_request(dtype, scale):
    eps = torch.finfo(dtype).eps
    V = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q[:, :5]
    values = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    A = ((V * values) @ V.mT).to(dtype) * scale
    method = matfn.Exact(singular="pseudo-inverse")
    for p in (1, 2, 4):
        B = matfn.inv_rootm(A, p, method=method).double()
        expected = (V * (scale * values) ** (-1 / p)) @ V.mT
        # Rounding A moves eigenvalues by 9 eps of the largest, eight times the least.
        assert torch.linalg.matrix_norm(B - expected) <= 8 * 9 * eps * torch.linalg.matrix_norm(expected)
    assert torch.allclose(
        matfn.inv(A, method=method).double(), torch.linalg.pinv(A.double(), rtol=1e-5), rtol=100 * eps
    )
    assert not matfn.inv_sqrtm(torch.zeros(3, 3, dtype=dtype), method=method).any()
    with pytest.raises(matfn.SpectrumError, match="-1 of the largest"):
        matfn.inv_sqrtm(-A, method=method)
    with pytest.raises(ValueError, match="singular must be"):
        matfn.Exact(singular="pseudo")


@pytest.mark.parametrize("method", [matfn.PolarExpress(), matfn.NewtonSchulz(steps=2)])
def test_completion_touches_the_null_space_alone(method):
    """What has not converged is not made to look as if it had."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(16, 8, generator=generator, dtype=torch.float64)
    assert torch.allclose(
        matfn.polar(X, method=method).U, matfn.polar(X, factor="complete", method=method).U, atol=1e-14
    )
    X[:, 6:] = X[:, :2]
    reached = torch.linalg.svdvals(matfn.polar(X, method=method).U)
    completed = torch.linalg.svdvals(matfn.polar(X, factor="complete", method=method).U)
    expected = torch.cat([reached[:6], torch.ones(2, dtype=torch.float64)]).sort(descending=True).values
    assert torch.allclose(completed, expected, atol=1e-13)


def test_completion_moves_what_is_within_the_root_of_eps_of_zero_or_one():
    """A factor whose null space is known up to rounding becomes orthonormal to eps; what has not converged stays."""
    left, right = orthogonal(9, seed=5)[:, :6], orthogonal(6, seed=6)
    values = torch.tensor([1.0, 1 - 1e-9, 1 + 1e-9, 0.5, 1e-10, 0.0], dtype=torch.float64)
    U, A = (left * values) @ right.mT, left @ right.mT / 6**0.5
    whole = torch.where((values < 1e-8) | (values > 0.9), 1.0, values)
    found = torch.linalg.svdvals(completed(U[None], A[None])[0])
    assert (found - whole.sort(descending=True).values).abs().max() <= 1e-14


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_completion_by_decomposition_refuses_what_is_not_finite(value):
    A = gaussian(6, 4, seed=1)
    A[2, 1] = value
    with pytest.raises(ValueError, match=r"by Exact\(\) needs finite matrices"):
        Exact().complete_polar(A[None])
