"""certify against NumPy's own SVD; the sketched figures are as good as their docstring says."""

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
        float((U * X).sum() / np.linalg.svd(X, compute_uv=False).sum()),
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
def test_the_sketch_is_within_what_it_claims(spectrum_of, shape, factor):
    """Norms within a factor 1.5; the direction within 0.07 of bias and noise of half its distance from 1.

    The noise of a trace of n diagonal entries is relative to their root mean square, so smaller where n is larger: with
    5 of them and a factor of three steps it is 0.25.
    """
    if min(shape) < 16:
        pytest.skip("few entries, much noise")
    X = 7 * of_singular_values(spectrum_of(min(shape)), *shape, seed=1)[0]
    U = factor(X)
    (orthogonality, direction, residual), sketched = truth(X, U), figures(certify(X, U))
    for name, got, want in [("orthogonality", sketched[0], orthogonality), ("residual", sketched[2], residual)]:
        assert got <= 1.5 * want + 1e-12, name
        assert got >= want / 1.5 - 1e-12, name
    assert abs(sketched[1] - direction) <= 0.07 + 0.5 * abs(1 - direction)


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
    X = gaussian(24, 30, seed=4).requires_grad_()
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
