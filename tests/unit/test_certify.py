"""certify against NumPy's own SVD; the sketched figures are as good as their docstring says."""

import math

import numpy as np
import pytest
import torch

import matfn
from matfn import NewtonSchulz, PolarExpress, Tuned, certify
from matrices import gaussian, generator, of_singular_values, orthogonal, spectrum

SPECTRA = {
    "flat": lambda n: torch.linspace(1, 0.8, n, dtype=torch.float64),
    "log 1e3": lambda n: spectrum(n, 1e3),
    "log 1e6": lambda n: spectrum(n, 1e6),
    "1/i": lambda n: 1 / torch.arange(1, n + 1, dtype=torch.float64),
    "1/i^2": lambda n: 1 / torch.arange(1, n + 1, dtype=torch.float64) ** 2,
    "outlier": lambda n: torch.cat([torch.tensor([100.0]), torch.ones(n - 1)]).double(),
}
SHAPES = [(24, 60), (60, 24), (40, 40), (5, 7)]
FACTORS = {
    "polar express": lambda X: matfn.orthogonalize(X),
    "three steps": lambda X: matfn.orthogonalize(X, method=PolarExpress(steps=3)),
    "newton-schulz": lambda X: matfn.orthogonalize(X, method=NewtonSchulz(steps=12)),
    "jordan": lambda X: matfn.orthogonalize(X, method=Tuned()),
    "exact": lambda X: matfn.polar(X).U,
    "bfloat16": lambda X: matfn.orthogonalize(X, precision=torch.bfloat16),
}
every_case = pytest.mark.parametrize(
    ("spectrum_of", "shape", "factor"),
    [
        pytest.param(s, shape, f, id=f"{name}-{shape}-{factor}")
        for name, s in SPECTRA.items()
        for shape in SHAPES
        for factor, f in FACTORS.items()
    ],
)


def truth(X, U):
    """The three figures from NumPy, by their definitions on the side where U has fewer dimensions."""
    X, U = (A.double().numpy() for A in (X, U))
    if X.shape[0] <= X.shape[1]:
        X, U = X.T, U.T
    n = X.shape[1]
    H = (U.T @ X + X.T @ U) / 2
    return (
        np.linalg.norm(U.T @ U - np.eye(n)) / n**0.5,
        float(np.clip((U * X).sum() / np.linalg.svd(X, compute_uv=False).sum(), -1, 1)),
        np.linalg.norm(U @ H - X) / np.linalg.norm(X),
    )


def figures(certificate):
    return [f.item() for f in (certificate.orthogonality, certificate.direction, certificate.residual)]


@every_case
def test_exact_is_numpys(spectrum_of, shape, factor):
    X = 7 * of_singular_values(spectrum_of(min(shape)), *shape, seed=1)[0]
    U = factor(X)
    assert figures(certify(X, U, exact=True)) == pytest.approx(truth(X, U), rel=1e-9, abs=1e-13)


@every_case
def test_a_small_problem_is_measured(spectrum_of, shape, factor):
    """Up to 512 rows the default is exact, with or without a generator."""
    X = 7 * of_singular_values(spectrum_of(min(shape)), *shape, seed=1)[0]
    U = factor(X)
    assert figures(certify(X, U, generator=generator(3))) == figures(certify(X, U, exact=True))


ROWS = 520
WRONG = {
    "exact": lambda W, V: W @ V.mT,
    "first flipped": lambda W, V: W @ V.mT - 2 * W[:, :1] @ V[:, :1].mT,
    "half flipped": lambda W, V: W @ V.mT - 2 * W[:, ::2] @ V[:, ::2].mT,
    "negative": lambda W, V: -W @ V.mT,
    "Gaussian": lambda W, V: gaussian(*W.shape, seed=8),
    "huge": lambda W, V: 1e300 * gaussian(*W.shape, seed=7),
    "rank 60": lambda W, V: W[:, :60] @ V[:, :60].mT,
}


@pytest.mark.parametrize(
    "values", [SPECTRA["flat"], SPECTRA["1/i"], lambda n: spectrum(n, 1e12)], ids=["flat", "1/i", "log"]
)
def test_the_sketch_is_within_what_it_claims(values):
    """Norms within a factor 1.5, the direction within 0.05 of a bad factor and 1e-9 of the exact one."""
    X, W, V = of_singular_values(values(ROWS), ROWS, ROWS, seed=1)
    for name, made in WRONG.items():
        U = made(W, V)
        exact, sketched = certify(X, U, exact=True), certify(7 * X, U)
        assert -1 <= sketched.direction <= 1, name
        assert abs(sketched.direction - exact.direction) <= (1e-9 if name == "exact" else 0.05), name
        for got, want in ((sketched.orthogonality, exact.orthogonality), (sketched.residual, exact.residual)):
            assert want / 1.5 - 1e-12 <= got <= 1.5 * want + 1e-12, name


def test_a_sketch_of_a_matrix_of_low_rank():
    """48 leading vectors are taken one by one; more of them are estimated, and a null space does no harm."""
    for rank in (1, 48, 100):
        X, W, V = of_singular_values(torch.ones(rank, dtype=torch.float64), ROWS, ROWS, seed=2)
        flipped = W @ V.mT - 2 * W[:, :1] @ V[:, :1].mT
        for U in (W @ V.mT, flipped):
            got, want = certify(X, U).direction, certify(X, U, exact=True).direction
            assert abs(got - want) <= (1e-9 if rank <= 48 else 0.05)


def test_directions_of_bad_factors_of_ill_conditioned_matrices():
    """One flipped vector, condition 1e8, few rows: the noise of 16 random signs was as large as ||X||_*."""
    for n in (1, 2, 3, 8, 17, 40):
        for condition in (1.0, 1e4, 1e8):
            X, W, V = of_singular_values(spectrum(n, condition), n, n, seed=n)
            for k in range(n):
                U = W @ V.mT - 2 * W[:, k : k + 1] @ V[:, k : k + 1].mT
                assert certify(X, U).direction.item() == pytest.approx(truth(X, U)[1], abs=1e-12)
            assert certify(X, 3 * W @ V.mT).direction == 1
            assert certify(X, -3 * W @ V.mT).direction == -1


@pytest.mark.parametrize("n", [6, ROWS])
def test_overflow_is_infinite_and_never_nan(n):
    X = gaussian(n, n, seed=4)
    for U in (1e308 * gaussian(n, n, seed=5).clamp(-1, 1), 1e200 * X):
        certificate = certify(X, U)
        assert certificate.orthogonality == certificate.residual == math.inf
        assert abs(certificate.direction) == 1
        root = certify(X @ X.mT, U, of="inv_root", p=4)
        assert root.residual == math.inf
        assert -1 <= root.direction <= 1


def test_a_wrong_direction_is_seen():
    """An orthogonal U that is not the polar factor has no orthogonality error: the other two tell."""
    X = of_singular_values(spectrum(24, 10.0), 24, 60, seed=1)[0]
    right = matfn.polar(X).U
    wrong = orthogonal(24, seed=9) @ right
    turned = right.clone()
    turned[:, [0, 1]] = right[:, [1, 0]]
    for exact in (True, False):
        good, bad, slight = (certify(X, U, exact=exact) for U in (right, wrong, -right))
        assert good.orthogonality <= 1e-10
        assert good.residual <= 1e-10
        assert abs(good.direction - 1) <= 1e-10
        assert bad.orthogonality <= 1e-10
        assert bad.residual >= 0.3
        assert bad.direction <= 0.5
        assert slight.direction <= -0.8
        assert certify(X, turned, exact=exact).residual >= 1e-3


def test_rank_deficient_and_zero():
    X = of_singular_values(spectrum(3, 5.0), 12, 20, seed=2)[0]
    certificate = certify(X, matfn.polar(X).U, exact=True)
    assert certificate.orthogonality.item() == pytest.approx((1 - 3 / 12) ** 0.5, abs=1e-12)
    assert certificate.direction.item() == pytest.approx(1, abs=1e-12)
    for exact in (True, False):
        zero = certify(torch.zeros(2, 4, 6), torch.zeros(2, 4, 6), exact=exact)
        assert torch.equal(zero.direction, torch.ones(2, dtype=zero.direction.dtype))
        assert not zero.residual.any()


def test_batch_is_loop_and_scale_does_not_matter():
    X = gaussian(2, 3, 10, 16, seed=3)
    U = matfn.orthogonalize(X)
    for exact in (True, False):
        batch = certify(X, U, exact=exact)
        assert batch.direction.shape == (2, 3)
        for i in range(2):
            for j in range(3):
                one = certify(X[i, j] * 1e-200, U[i, j], exact=exact)
                assert one.direction.shape == ()
                assert figures(one) == pytest.approx(
                    [f[i, j].item() for f in (batch.orthogonality, batch.direction, batch.residual)], rel=1e-9
                )


def test_deterministic_by_default_and_drawn_on_request():
    X = gaussian(ROWS, ROWS, seed=4).requires_grad_()
    U = matfn.orthogonalize(X)
    state = torch.get_rng_state()
    first, again = certify(X, U), certify(X, U)
    assert torch.equal(torch.get_rng_state(), state)
    assert figures(first) == figures(again)
    drawn = [certify(X, U, generator=generator(s)) for s in (1, 1, 2)]
    assert figures(drawn[0]) == figures(drawn[1])
    assert figures(drawn[0]) != figures(drawn[2])
    assert not first.direction.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_certified_in_float64(dtype):
    X = gaussian(10, 16, seed=5).to(dtype)
    U = matfn.orthogonalize(X)
    assert figures(certify(X, U, exact=True)) == pytest.approx(truth(X, U), rel=1e-9)


def test_refusals_name_the_argument():
    good = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(4, 3\)"):
        certify(good, good.mT)
    with pytest.raises(ValueError, match="nonempty"):
        certify(torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="NaN or"):
        certify(good, good * float("nan"))
    with pytest.raises(TypeError):
        certify(good, [1.0])


def test_the_line_it_prints():
    X = gaussian(2, 6, 8)
    line = str(certify(X, matfn.polar(X).U))
    assert "orthogonality" in line
    assert "direction 1.0000" in line or "direction 0.9999" in line
