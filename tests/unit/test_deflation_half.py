"""Deflation with thin products in float16: its k x k parts, its accuracy on every kind of spectrum, and its scale."""

import math

import pytest
import torch

from matfn import PolarExpress
from matfn.iteration.target import ORTHOGONALIZE
from matfn.kernels import EAGER
from matfn.linalg.norms import prescale
from matfn.run.plan import DEFLATED
from matfn.run.preparation import (
    CONSTANT,
    LEAST,
    POLES,
    deflated,
    deflated_gram,
    inverse_factor_in_blocks,
    prepared,
    shrinking,
    whitening,
)
from matrices import generator, orthogonal

F16, F32, F64 = torch.float16, torch.float32, torch.float64
U16 = torch.finfo(F16).eps / 2
STEPS = DEFLATED.schedule(2)


def laws(n):
    i = torch.arange(1, n + 1, dtype=F64)
    return {
        "flat": i**0,
        **{f"i^-{power}": i**-power for power in (0.5, 0.75, 1.0, 2.0)},
        "three decades": torch.logspace(0, -3, n, dtype=F64),
        "six decades": torch.logspace(0, -6, n, dtype=F64),
        "one outlier": torch.cat([i[:1] * 100, i[1:] ** 0]),
        "rank one": (i == 1).double(),
        "low rank": (i <= 1 + n // 20).double(),
        "half zero": (i <= n // 2).double(),
        "noise floor": (i**-3 + 1e-6).sqrt(),
    }


def of(values, shape, seed=0):
    n = len(values)
    left, right = (orthogonal(side, seed=seed + j)[:, :n] for j, side in enumerate(shape))
    return ((left * (values / values.norm())) @ right.mT)[None]


def exact(X, share):
    """The deflated X with P from an SVD of X X^T S and a root by eigenvalues, in float64, (n, m) with n <= m."""
    n, k = X.shape[0], int(share * X.shape[0])
    length = n // k
    S = torch.zeros(n, k, dtype=F64)
    for i in range(k * length):
        S[i, i // length] = math.cos((i % length + 1) ** 2)
    P = torch.linalg.svd(X @ X.mT @ S, full_matrices=False)[0]
    values, V = torch.linalg.eigh(P.mT @ X @ X.mT @ P)
    values = values.clamp_min(0)
    rest = (1 - values.sum()).clamp_min(1e-6)
    f = (1 + values * k / rest).rsqrt()
    return X - P @ (V * (1 - f)) @ V.mT @ P.mT @ X


def figures(DX, X):
    """Share of the nuclear norm that the polar factor keeps, and the greatest singular value after three steps."""
    W, s, V = torch.linalg.svd(DX.double(), full_matrices=False)
    after = STEPS(s / (s**4).sum() ** 0.25)
    return (((W @ V) * X).sum() / torch.linalg.svdvals(X).sum()).item(), after.max().item()


@pytest.mark.parametrize("shape", [(96, 96), (64, 256), (256, 64)], ids=str)
@pytest.mark.parametrize("thin", [F16, F32], ids=str)
def test_it_keeps_what_the_exact_deflation_keeps(shape, thin):
    """The polar factor loses half the square of the angle by which rounding turns the leading vectors.

    Rounding P and R turns the largest one by at most 2 u sigma / c, and c is at least 8 u: half of (2 / 8)^2 is 3 %.
    """
    for name, values in laws(min(shape)).items():
        X = of(values, shape)
        wide = X[0] if shape[0] <= shape[1] else X[0].mT
        half = F16 if thin is F16 else None
        found = deflated(X.float(), 1 / 16, F16 if half else F32, EAGER, half, 2.0**7 if half else 1.0)
        kept, top = figures(found[0], X[0])
        assert kept >= figures(exact(wide, 1 / 16), wide)[0] - (1 / 32 if half else 1e-3), name
        assert top <= STEPS.images()[-1][1] + 1e-6, name


@pytest.mark.parametrize("decades", [0, 1, 2, 4, 8, None])
def test_whitening_makes_columns_orthonormal_or_shorter(decades):
    Y = orthogonal(80, seed=1)[:, :24]
    Y = Y * (0.0 if decades is None else torch.logspace(0, -decades, 24, dtype=F64)) @ orthogonal(24, seed=2)
    for dtype in (F32, F64):
        G = (Y.mT @ Y)[None].to(dtype)
        A = whitening(G, F64)
        Q = Y @ A[0]
        assert torch.isfinite(A).all()
        # The entries of G err by eps of the trace, which the ridge of 16 eps exceeds.
        assert torch.linalg.matrix_norm(Q, 2) <= 1 + 1e-12
        if decades in (0, 1):
            ridge = 16 * torch.finfo(dtype).eps * Y.square().sum()
            shortest = (1 + ridge / torch.linalg.svdvals(Y)[-1] ** 2).rsqrt()
            assert torch.linalg.svdvals(Q)[-1] >= shortest - 1e-3


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("below", [20, 100])
def test_whitening_bears_sums_that_err_by_more_than_its_ridge(dtype, below):
    """In float32 4096 equal numbers add up with an error of 47 eps, so that G has eigenvalues below -16 eps tr G."""
    eps, V = torch.finfo(dtype).eps, orthogonal(8, seed=4)
    values = torch.tensor([1.0, 1e-3, 0, 0, 0, 0, 0, -below * eps], dtype=F64)
    sound = (V * values.clamp_min(0)) @ V.mT
    G = torch.stack([(V * values) @ V.mT, sound, torch.full_like(V, math.nan)]).to(dtype)
    A = whitening(G, dtype)
    assert torch.equal(A[1:2], whitening(G[1:2], dtype))
    assert torch.isnan(A[2]).any()
    assert torch.linalg.matrix_norm(A[0].double(), 2) <= (eps**0.5 - 2 * below * eps) ** -0.5
    assert torch.linalg.matrix_norm(A[0].double().mT @ sound @ A[0].double(), 2) <= 1 + 4 * below * eps**0.5


def test_the_root_is_within_its_band():
    """.9865 to 1 times y^(-1/2), up to the largest y that LEAST allows."""
    y = torch.logspace(0, math.log10(1 + LEAST**-2), 20001, dtype=F64)
    ratio = y.sqrt() * (CONSTANT + sum(weight / (y + shift) for shift, weight in POLES))
    assert ratio.max() <= 1
    assert ratio.min() >= 0.9865


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("k", [1, 8, 48])
def test_f_is_the_root_of_the_eigenvalues(k, dtype):
    """Each term is an inverse, with an error of eps times its condition, at most 1 + 1 / LEAST^2."""
    for values in (torch.ones(k), torch.logspace(0, -8, k), torch.eye(k)[0], torch.zeros(k)):
        values = values.double() / values.sum().clamp_min(1)
        V = orthogonal(k, seed=k)
        K = ((V * values) @ V.mT)[None] * 4.0
        c2 = ((1 - values.sum()) / k).clamp_min(LEAST**2)
        y = 1 + values / c2
        root = CONSTANT + sum(weight / (y + shift) for shift, weight in POLES)
        expected = (V * (root - 1)) @ V.mT
        found = shrinking(K.to(dtype), 4.0, dtype)[0].double()
        assert torch.linalg.matrix_norm(found - expected, 2) <= torch.finfo(dtype).eps * (1 + LEAST**-2)
        assert -1 < torch.linalg.eigvalsh(found)[0] <= torch.linalg.eigvalsh(found)[-1] < 0


@pytest.mark.parametrize("family", list(laws(8)))
def test_d_is_positive_definite(family):
    """Its eigenvalues lie in (0, 1], also where directions are lost in the ridge."""
    X = of(laws(64)[family], (64, 96)).float()
    _, D = deflated_gram(X @ X.mT, 1 / 4, EAGER)
    values = torch.linalg.eigvalsh(D.double())
    assert values[0, 0] > 0
    kept = torch.linalg.svdvals(deflated(X, 1 / 4, F32, EAGER)[0])
    assert kept[0] <= torch.linalg.svdvals(X)[0, 0] * (1 + 1e-5)


@pytest.mark.parametrize("entries", ["equal", "one row", "one column", "one entry", "signs"])
def test_rounding_in_one_direction_does_not_turn_a_vector(entries):
    """All entries of one singular vector may round alike, by u in each of the four thin factors; c is at least 8 u.

    So do the entries of X, so ||X||^2 - tr K is up to 6 u where it should be 0; its k-th part is c^2.
    """
    A = torch.zeros(128, 192)
    draw = generator(3)
    match entries:
        case "equal":
            A += 1.0
        case "one row":
            A[5] = torch.randn(192, generator=draw)
        case "one column":
            A[:, 7] = torch.randn(128, generator=draw)
        case "one entry":
            A[9, 9] = 1.0
        case "signs":
            A += torch.randn(128, 1, generator=draw).sign() * torch.randn(1, 192, generator=draw).sign()
    for scale in (1.0, 1.0 + 2.0**-11, 1.3, 1.7):  # shifts the roundings
        X = prescale(A[None] * scale)[0]
        left, _, right = torch.linalg.svd(X[0].double(), full_matrices=False)
        kept = left[:, 0] @ deflated(X, 1 / 16, F16, EAGER, F16, 2.0**7)[0].double() @ right[0] / 2.0**7
        assert 4 * U16 * (1 - 8 * U16) <= kept <= (6 * U16 / 8) ** 0.5 + 4 * U16


def test_zero_and_nan_stay_in_their_matrices():
    X = torch.stack([of(laws(32)["i^-1.0"], (32, 48), seed=i)[0].float() for i in range(3)])
    X[1, 3, 4], X[2] = math.nan, 0
    found = deflated(X, 1 / 4, F16, EAGER, F16, 2.0**7)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).any()
    assert (found[2] == 0).all()


@pytest.mark.parametrize("shape", [(64, 96), (96, 64)], ids=str)
def test_prepared_deflates_with_the_norm_of_the_lifted_matrix(shape):
    """A plan takes the same D as `deflated`, which divides K by the squared norm."""
    X = of(laws(64)["i^-0.75"], shape).float()
    H = prepared(ORTHOGONALIZE, X, STEPS.preparation, F16, EAGER, EAGER, F16)[0]
    assert torch.equal(H, deflated(prescale(X)[0], STEPS.preparation.deflation, F16, EAGER, F16, 2.0**7))


def test_large_matrices_keep_their_gram_matrix_in_float16():
    """The entries of M beside the diagonal are about 2e-6 for 4096 x 11008, of which float16 keeps one digit.

    With the lift they round by u. One block row of M stands for all.
    """
    X = torch.randn(1, 4096, 11008, generator=generator(4)) / (4096 * 11008) ** 0.5
    M = X[:, :32].double() @ X[0].mT.double()
    errors = []
    for lift in (1.0, 2.0**7):
        H = (X * lift).half()
        rounded = (H[:, :32].float() @ H[0].float().mT).half().double() / lift**2
        beside = torch.ones(32, 4096, dtype=torch.bool).fill_diagonal_(False)
        errors.append((rounded - M)[0, beside].norm() / M[0, beside].norm())
    # Roundings of X are as many independent errors of M, each of u / 3^(1/2) at most: 2^(1/2) of them, and one of M.
    assert errors[1] <= 3 * U16
    assert errors[0] > 5 * errors[1]


def test_the_lift_is_there_and_does_not_change_the_result():
    X = of(laws(64)["i^-0.75"], (64, 160)).float()
    for preparation in (STEPS.preparation, PolarExpress(norm="schatten4").schedule(2).preparation):
        H, first, _ = prepared(ORTHOGONALIZE, X, preparation, F16, EAGER, EAGER, F16)
        assert 2.0**7 * 0.1 <= H.double().norm() <= 2.0**7 * (1 + U16)
        assert first is not None
        M, factor = first
        assert M.double().norm() == pytest.approx(1, rel=8 * U16)
        scaled = H.double() * factor.double()
        assert torch.linalg.matrix_norm(scaled @ scaled.mT - M.double()) <= 8 * U16
    plain, first, _ = prepared(ORTHOGONALIZE, X, PolarExpress().schedule(2).preparation, F16, EAGER, EAGER, F16)
    assert first is None
    assert torch.equal(plain, prescale(X)[0].half())  # the interval of its steps is relative to the Frobenius norm


@pytest.mark.parametrize("k", [128, 200, 301])
def test_a_large_factor_is_made_of_small_ones(k):
    sizes = []

    def small(S):
        sizes.append(S.shape[-1])
        eye = torch.eye(S.shape[-1], dtype=torch.float64).expand(S.shape)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(S.double()), eye, upper=False).mT.to(S.dtype)

    S = torch.randn(2, k, k // 2, generator=torch.Generator().manual_seed(k))
    S = S @ S.mT
    S = S / S.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] + 2.0**-16 * torch.eye(k)  # half of it is the ridge
    A = inverse_factor_in_blocks(S, small).double()
    assert max(sizes) <= 128
    assert A.tril(-1).abs().max() == 0
    # The complement is rounded to float32, 2^-24 of S: 2^-8 of its least eigenvalue.
    assert torch.linalg.matrix_norm(A.mT @ S.double() @ A - torch.eye(k), ord=2).max() <= 2.0**-8
