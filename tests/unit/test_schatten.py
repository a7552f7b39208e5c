"""Division by the Schatten-4 norm: against the scalar map of the singular values, in every engine and dtype."""

import pytest
import torch

import matfn
from matfn import Direct, Gram, PolarExpress
from matfn.run.preparation import tightened
from matrices import gaussian, orthogonal

DEGREES = [(5, 5, 5), (3, 7), (9, 5)]


def with_values(values, wide):
    n = len(values)
    return (orthogonal(n, seed=1) * values) @ orthogonal(wide, seed=2)[:n]


@pytest.mark.parametrize("degree", DEGREES, ids=str)
@pytest.mark.parametrize("engine", [Direct(), Gram((1,))], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_it_is_the_schedule_of_values_divided_by_that_norm(degree, engine, scale):
    """The independent oracle: singular values, their Schatten-4 norm, and the schedule as a scalar map."""
    values = torch.logspace(0, -2, 12, dtype=torch.float64)
    method = PolarExpress(degree, lower=1e-2, norm="schatten4")
    U = matfn.orthogonalize(scale * with_values(values, 20), method=method, engine=engine)
    expected = method.schedule(2)(values / (values**4).sum() ** 0.25)
    reached = orthogonal(12, seed=1).mT @ U @ orthogonal(20, seed=2)[:12].mT
    # Every step and the product with X round, and the coefficients amplify it by `rounding`.
    tolerance = 40 * torch.finfo(torch.float64).eps * method.schedule(2).rounding
    assert torch.allclose(reached, torch.diag(expected), rtol=0, atol=tolerance)


def test_flat_spectra_are_lifted_most():
    """n equal values of n^(-1/2) become n^(-1/4) before the first step."""
    X = orthogonal(81, seed=3)
    for norm in ("frobenius", "schatten4"):
        method = PolarExpress(steps=3, lower=1e-2, norm=norm)
        U = matfn.orthogonalize(X, method=method)
        start = 81 ** (-0.5 if norm == "frobenius" else -0.25)
        expected = abs(1 - float(method.schedule(2)(start)))
        assert abs(torch.linalg.matrix_norm(U - X, 2).item() - expected) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_batch_and_zero(dtype):
    X = torch.stack([gaussian(24, 40, seed=i) for i in range(3)]).to(dtype)
    X[1] = 0
    method = PolarExpress((5, 5, 5, 5, 3), lower=2e-3, cushion=0.07, norm="schatten4")
    together = matfn.orthogonalize(X, method=method)
    assert not together[1].any()
    for one, U in zip(X, together, strict=True):
        alone = matfn.orthogonalize(one, method=method)
        assert (alone - U).abs().max() <= 4 * torch.finfo(dtype).eps
    least, greatest = method.schedule(2).images()[-1]
    for U in together[[0, 2]]:
        s = torch.linalg.svdvals(U.double())
        room = method.schedule(2).rounding * torch.finfo(dtype).eps
        assert s.min() >= least - room
        assert s.max() <= greatest + room


def test_roots_see_no_difference():
    A = with_values(torch.logspace(0, -2, 10, dtype=torch.float64), 10)
    A = A @ A.mT
    plain, tight = (PolarExpress(steps=12, lower=1e-4, norm=norm) for norm in ("frobenius", "schatten4"))
    assert torch.allclose(matfn.inv_sqrtm(A, method=plain), matfn.inv_sqrtm(A, method=tight), rtol=1e-9)


def test_flat_spectra_in_float16():
    """M = I / n: its powers would underflow in float16 if it were not scaled before."""
    U = matfn.orthogonalize(orthogonal(300, seed=4).half(), method=PolarExpress(steps=6, norm="schatten4"))
    s = torch.linalg.svdvals(U.double())
    assert (s - 1).abs().max() <= 0.03


def test_the_argument_is_left_alone():
    M = gaussian(2, 4, 4, seed=7)
    kept = M.clone()
    tight, factor = tightened(M, 2)
    t = torch.linalg.matrix_norm(M)[:, None, None]
    assert torch.allclose(tight, M / t, rtol=1e-14)
    assert torch.allclose(factor, t**-0.5, rtol=1e-14)
    assert torch.equal(M, kept)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"norm must be one of \('frobenius', 'schatten4'\), got 'nuclear'"):
        PolarExpress(norm="nuclear")


def test_a_recorder_knows_the_norm():
    recorder = matfn.Recorder(PolarExpress(steps=2, norm="schatten4"))
    X = gaussian(5, 9, seed=5)
    U = matfn.orthogonalize(X, method=recorder, engine=Direct())
    again = matfn.orthogonalize(X, method=recorder.schedule_of(0), engine=Direct())
    assert torch.allclose(U, again, rtol=0, atol=1e-13)
