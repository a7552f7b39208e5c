"""Deflation: against the formula in dense linear algebra, and against what singular values it must leave."""

import math

import pytest
import torch

import matfn
from matfn import Direct, Gram, PolarExpress
from matfn.kernels import EAGER, Blocked
from matfn.run.preparation import CONSTANT, POLES
from matfn.run.preparation import deflated as deflated_by
from matrices import orthogonal

DEFLATING = PolarExpress((5, 5, 5), lower=1.4e-2, cushion=0.06, norm="schatten4", deflation=1 / 16)


def deflated(X, share, precision):
    """With plain products."""
    return deflated_by(X, share, precision, EAGER)


def with_values(m, n, values, seed=0):
    """A matrix (m, n) of the given singular values, divided by their norm."""
    r = min(m, n)
    s = torch.as_tensor(values, dtype=torch.float64)
    return (orthogonal(m, seed=seed)[:, :r] * (s / s.norm())) @ orthogonal(n, seed=seed + 1)[:, :r].mT


def falling(m, n, power=1.5, seed=0):
    """Singular values j^-power: those of momenta fall so."""
    return with_values(m, n, torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -power, seed)


def by_formula(X, k):
    """(I + P K P^T / c^2)^(-1/2) X with dense matrices, P from an SVD of X X^T S."""
    if X.shape[0] > X.shape[1]:
        return by_formula(X.mT, k).mT
    length = X.shape[0] // k
    S = torch.zeros(X.shape[0], k, dtype=X.dtype)
    for i in range(k * length):
        S[i, i // length] = math.cos((i % length + 1) ** 2)
    return by_dense(X, S, k)


def by_dense(X, S, k):
    P = torch.linalg.svd(X @ X.mT @ S, full_matrices=False)[0]
    K = P.mT @ X @ X.mT @ P
    c2 = (X.square().sum() - K.trace()) / k
    w, V = torch.linalg.eigh(torch.eye(X.shape[0], dtype=X.dtype) + P @ K @ P.mT / c2)
    D = (V * root(w)) @ V.mT
    rest = torch.eye(X.shape[0], dtype=X.dtype) - P @ P.mT  # where root(1) is .99 instead of 1
    return (P @ P.mT @ D @ P @ P.mT + rest) @ X


def root(y):
    """What stands for y^(-1/2), see `test_the_root_is_within_its_band`."""
    return CONSTANT + sum(weight / (y + shift) for shift, weight in POLES)


@pytest.mark.parametrize(
    ("m", "n", "share"), [(24, 24, 1 / 6), (24, 50, 0.25), (50, 24, 0.25), (23, 31, 0.2), (31, 23, 0.2)]
)
def test_it_is_the_formula(m, n, share):
    """In float64: the ridge of 16 eps is some 1e-11 of the least of the k values."""
    X = falling(m, n, seed=m)
    k = int(share * min(m, n))
    assert torch.allclose(deflated(X[None], share, X.dtype)[0], by_formula(X, k), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("m", "n"), [(48, 48), (48, 120), (120, 48)])
def test_large_singular_values_become_c_and_the_others_stay(m, n):
    """Four of 1 to .2, then a tail of 2e-3; six columns. P is off by (.002 / .2)^2 44^(1/2) 45, by the condition of S.

    Two columns are left for the tail, and shrink two of its values by (1 + 1/7)^(1/2).
    """
    head, tail = torch.logspace(0, -0.7, 4).double(), 2e-3
    s = torch.cat([head, torch.full((44,), tail)])
    X = with_values(m, n, s)
    s = s / s.norm()
    c2 = 7 * s[-1] ** 2
    expected = torch.cat([s[:4] / (1 + s[:4] ** 2 / c2).sqrt(), s[6:], s[4:6] / (8 / 7) ** 0.5])
    found = torch.linalg.svdvals(deflated(X[None], 1 / 8, X.dtype)[0])
    assert torch.allclose(found, expected.sort(descending=True).values, rtol=0.03, atol=0)
    assert found[0] / found[-1] < 2.65 * 1.07 * 1.06 < 400 < s[0] / s[-1]


def test_a_flat_spectrum_stays_as_it_is():
    """C^2 is (1/k - 1/n) there, so that D is at least .9865 (1 - k/n)^(1/2)."""
    X = orthogonal(64, seed=3) / 8
    found = torch.linalg.svdvals(deflated(X[None], 1 / 8, X.dtype)[0])
    assert found.max() <= (1 + 1e-12) / 8
    assert found.min() / found.max() >= 0.9865 * (7 / 8) ** 0.5


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 3.0])
@pytest.mark.parametrize(("m", "n"), [(96, 96), (64, 160), (160, 64)])
def test_the_polar_factor_is_nearly_the_same(m, n, power):
    X = falling(m, n, power, seed=7)
    U, _, V = torch.linalg.svd(deflated(X[None], 1 / 12, X.dtype)[0], full_matrices=False)
    assert ((U @ V) * X).sum() >= 0.99 * torch.linalg.svdvals(X).sum()


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize(("m", "n"), [(64, 64), (48, 100), (100, 48)])
def test_low_rank(m, n, rank):
    """Fewer singular values than are deflated: all come out alike, and zeros stay zeros."""
    s = torch.zeros(min(m, n), dtype=torch.float64)
    s[:rank] = torch.logspace(0, -1, max(rank, 1)).double()[:rank]
    X = with_values(m, n, s / max(1.0, float(s.norm())) if rank else s + 1) * float(rank > 0)
    U = matfn.orthogonalize(X.float(), method=DEFLATING, engine=Direct(), precision=torch.bfloat16)
    found = torch.linalg.svdvals(U)
    assert torch.isfinite(found).all()
    assert ((found[:rank] - 1).abs() <= 0.25).all()
    assert (found[rank:] <= 0.25).all()


def test_a_stack_is_each_of_its_matrices_on_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    X = torch.stack([falling(220, 300, seed=i) for i in range(4)]).float()
    together = deflated(X, 1 / 8, torch.float32)
    single = torch.cat([deflated(x[None], 1 / 8, torch.float32) for x in X])
    torch.set_num_threads(before)
    assert torch.allclose(together, single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("m", [1, 17, 64])
def test_one_large_value_and_little_else_in_float16(m):
    """Their squares would underflow, had what is left not the norm that the matrix had."""
    generator = torch.Generator().manual_seed(m)
    rows = torch.randn(m, 1, generator=generator).expand(m, 130) * 1e-3
    one = torch.cat([torch.randn(1, 130, generator=generator), torch.zeros(63, 130)])
    for X in (rows, one, rows + 1e-9 * torch.randn(m, 130, generator=generator)):
        for share in (1 / 32, 1 / 16, 1 / 2):
            method = PolarExpress((5, 5, 5), lower=1.4e-2, cushion=0.06, norm="schatten4", deflation=share)
            U = matfn.orthogonalize(X.half(), method=method).float()
            assert torch.isfinite(U).all()
            assert (U * X).sum() >= 0.7 * torch.linalg.svdvals(X).sum()


@pytest.mark.parametrize("shape", [(40, 60), (40, 40), (45, 70)])
def test_memory_and_transposition_do_not_count(shape):
    """What is sketched are rows, not places in memory; a square matrix is sketched from one side."""
    X = falling(*shape, seed=5)[None]
    found = deflated(X, 1 / 8, X.dtype)
    assert torch.allclose(deflated(X.mT.contiguous().mT, 1 / 8, X.dtype), found, rtol=0, atol=1e-12)
    if shape[0] != shape[1]:
        assert torch.allclose(deflated(X.mT.contiguous(), 1 / 8, X.dtype).mT, found, rtol=0, atol=1e-12)


def test_it_has_no_derivative():
    X = falling(40, 60, seed=6).requires_grad_()
    with pytest.raises(ValueError, match="deflation has no derivative"):
        matfn.orthogonalize(X, method=DEFLATING)
    with torch.no_grad():
        assert torch.isfinite(matfn.orthogonalize(X, method=DEFLATING)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_stays_in_its_matrix(value):
    X = torch.stack([falling(32, 40, seed=i) for i in range(3)]).float()
    X[1, 3, 4] = value
    half = PolarExpress((5, 5, 5), lower=1.4e-2, norm="schatten4", deflation=1 / 2)  # 16 columns: eigh takes 2 of NaN
    U = matfn.orthogonalize(X, method=half, engine=Direct())
    assert torch.isnan(U[1]).all()
    assert torch.isfinite(U[[0, 2]]).all()


def test_the_argument_is_left_alone_and_scale_does_not_count():
    X = falling(40, 60, seed=2).float()
    kept = X.clone()
    U = matfn.orthogonalize(X, method=DEFLATING)
    assert torch.equal(X, kept)
    for scale in (2.0**-100, 2.0**100):
        assert torch.equal(matfn.orthogonalize(X * scale, method=DEFLATING), U)


def test_it_is_subtracted_before_it_is_rounded():
    X = falling(64, 80, seed=4).float()[None]
    wide = deflated(X, 1 / 8, torch.float32)
    assert torch.equal(deflated(X, 1 / 8, torch.bfloat16), wide.bfloat16())
    assert torch.equal(deflated(X, 1 / 100, torch.bfloat16), X.bfloat16())  # less than one column


@pytest.mark.parametrize("products", [EAGER, Blocked(128)], ids=["full", "mirrored"])
def test_three_steps_without_restart_blow_nothing_up_in_bfloat16(products):
    """M loses about 2 u / n^(1/2) of itself to rounding; singular values that it calls negative grow by that.

    With mirrored products M Z^2 in place of Z (M Z) would take them to 2.
    """
    from test_margins import matrices

    n = 384
    A = matrices(12, n, 600, seed=n)
    U = matfn.orthogonalize(A, method=DEFLATING, engine=Gram(()), precision=torch.bfloat16, products=products)
    x = torch.logspace(-9, 0, 2000).double()
    u = 2.0**-8
    m, s = x - 2 * u / n**0.5, x.sqrt()
    for step in DEFLATING.schedule(2).rows:
        z = step(m)
        m, s = m * z * z, s * z
    assert 1.2 < s.max() < 1.6
    assert torch.linalg.svdvals(U).max() <= s.max() * (1 + 2 * u)
    aligned = (U * A).sum((-2, -1)) / torch.linalg.svdvals(A).sum(-1)
    assert aligned.min() >= 0.7


@pytest.mark.parametrize(
    "verb", [matfn.polar, matfn.inv_sqrtm, matfn.sqrtm, matfn.signm, matfn.inv], ids=lambda f: f.__name__
)
def test_verbs_that_promise_digits_refuse_it(verb):
    with pytest.raises(ValueError, match="leave deflation out"):
        verb(torch.eye(20, dtype=torch.float64), method=DEFLATING)


@pytest.mark.parametrize("share", [-0.1, 0.6, True, "a twelfth", math.nan], ids=str)
def test_nonsense_is_refused(share):
    with pytest.raises(ValueError, match=r"deflation must be a number from 0 \(none\) to 0.5"):
        PolarExpress(deflation=share)


def test_a_share_may_be_written_as_a_fraction():
    assert matfn.method("polar-express:degree=(5,5,5),deflation=1/16") == PolarExpress((5, 5, 5), deflation=1 / 16)
    with pytest.raises(ValueError, match="got '1/0'"):
        matfn.method("polar-express:deflation=1/0")


def test_a_recorder_deflates_too():
    X = falling(64, 100, seed=9)
    recorder = matfn.Recorder(DEFLATING)
    U = matfn.orthogonalize(X, method=recorder)
    assert torch.equal(U, matfn.orthogonalize(X, method=DEFLATING))
    again = recorder.schedule_of()
    assert again.preparation.deflation == DEFLATING.deflation
    assert torch.allclose(matfn.orthogonalize(X, method=again), U, rtol=0, atol=1e-12)
