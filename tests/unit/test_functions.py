"""The accurate verbs against independent oracles: mpmath in 40 digits, SciPy, and constructions with known answers."""

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch

import matfn
from loops import looped
from matfn import SpectrumError
from matrices import gaussian, of_eigenvalues, of_singular_values, orthogonal, spectrum

EPS = torch.finfo(torch.float64).eps
CONDITIONS = {torch.float64: (1.0, 1e3, 1e6, 1e9, 1e12), torch.float32: (1.0, 1e2, 1e4, 1e6)}
cases = looped(("dtype", "condition"), [(d, c) for d, cs in CONDITIONS.items() for c in cs])
POWERS = {
    "sqrtm": (matfn.sqrtm, 0.5),
    "inv_sqrtm": (matfn.inv_sqrtm, -0.5),
    **{f"rootm {p}": ((lambda A, p=p, **k: matfn.rootm(A, p, **k)), 1 / p) for p in (1, 2, 3, 4, 8)},
    **{f"inv_rootm {p}": ((lambda A, p=p, **k: matfn.inv_rootm(A, p, **k)), -1 / p) for p in (1, 2, 3, 4, 8)},
}
every_power = pytest.mark.parametrize(("verb", "h"), POWERS.values(), ids=POWERS)


def power(A, h):
    """A^h by the eigenvalues and vectors of exactly this matrix in 40 digits, rounded to float64."""
    with mpmath.workdps(40):
        values, V = mpmath.eigsy(mpmath.matrix(A.double().tolist()))
        n = len(values)
        F = V * mpmath.diag([v ** mpmath.mpf(h) for v in values]) * V.T
        return torch.tensor([[float(F[i, j]) for j in range(n)] for i in range(n)], dtype=torch.float64)


@cases
@every_power
def test_power(verb, h, dtype, condition):
    """Backward error eps of eigh, times the condition number of the power, n^1.5 = 15, and one rounding to the dtype.

    By the mean value theorem |dF| <= sup |h| x^(h-1) * eps * max(x) over the spectrum, attained at its least value.
    The decomposition works in float64 for float32 too: there the last rounding is all that is left.
    """
    A = of_eigenvalues(3 * spectrum(6, condition), seed=1)[0].to(dtype)
    A = (A + A.mT) / 2
    want, got = power(A, h), verb(A)
    assert got.dtype == dtype
    assert torch.equal(got, got.mT) or (got - got.mT).abs().max() <= 4 * torch.finfo(dtype).eps * got.abs().max()
    least = 3 / condition
    allowed = 15 * EPS * 3 * abs(h) * min(least ** (h - 1), 1e300) + torch.finfo(dtype).eps * want.norm()
    assert (got.double() - want).norm() <= 4 * allowed


@looped("dtype", [torch.float16, torch.bfloat16])
@every_power
def test_half_precision_is_accurate_to_its_last_bit(verb, h, dtype):
    A = of_eigenvalues(spectrum(6, 10.0), seed=1)[0].to(dtype)
    A = torch.tril(A) + torch.tril(A, -1).mT
    want = power(A, h)
    assert (verb(A).double() - want).abs().max() <= torch.finfo(dtype).eps * want.abs().max()


def test_entries_near_the_largest_number_do_not_overflow():
    for dtype, large in [(torch.float16, 6e4), (torch.float32, 3e38), (torch.float64, 1.7e308)]:
        A = torch.tensor([[large, large / 2], [large / 2, large]], dtype=dtype)
        R = matfn.sqrtm(A).double()
        assert ((R / large**0.5) @ (R / large**0.5) - A.double() / large).abs().max() <= 8 * torch.finfo(dtype).eps
        U, H = matfn.polar(A)
        assert torch.isfinite(U).all()
        assert (H.double() / large - A.double() / large).abs().max() <= 8 * torch.finfo(dtype).eps


@looped("side", ["right", "left"])
@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)], ids=str)
@cases
def test_polar_is_scipys(shape, side, dtype, condition):
    """The factor U moves by 2/(sigma_i + sigma_j) times a perturbation, H by no more than a constant (Higham)."""
    A = of_singular_values(3 * spectrum(min(shape), condition), *shape, seed=2)[0].to(dtype)
    U, H = matfn.polar(A, side)
    want_U, want_H = scipy.linalg.polar(A.double().numpy(), side)
    eps = torch.finfo(dtype).eps
    assert np.linalg.norm(U.double().numpy() - want_U) <= 100 * EPS * condition + 10 * eps
    assert np.linalg.norm(H.double().numpy() - want_H) <= 100 * eps
    assert torch.equal(H, H.mT)
    assert torch.linalg.eigvalsh(H.double()).min() >= -100 * eps
    product = U @ H if side == "right" else H @ U
    assert (product - A).norm() <= 100 * eps
    short = min(shape)
    gram = U @ U.mT if shape[0] <= shape[1] else U.mT @ U
    assert (gram.double() - torch.eye(short)).norm() <= 100 * eps


def test_polar_of_a_batch_unpacks():
    A = gaussian(2, 3, 4, 6)
    result = matfn.polar(A)
    U, H = result
    assert result.U is U
    assert (U.shape, H.shape) == ((2, 3, 4, 6), (2, 3, 6, 6))
    assert matfn.polar(A, "left").H.shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="sideways"):
        matfn.polar(A, "sideways")


@cases
def test_inverse(dtype, condition):
    A = of_singular_values(3 * spectrum(6, condition), 6, 6, seed=3)[0].to(dtype)
    with mpmath.workdps(40):
        want = torch.tensor((mpmath.matrix(A.double().tolist()) ** -1).tolist(), dtype=torch.float64).reshape(6, 6)
    error = (matfn.inv(A).double() - want).norm()
    assert error <= (100 * EPS * condition + 2 * torch.finfo(dtype).eps) * want.norm()


def test_inverse_of_a_singular_matrix_is_no_rounding_noise():
    """LU of this matrix ends in a pivot of 1e-16 and not in zero."""
    A = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.float64)
    with pytest.raises(SpectrumError, match="singular"):
        matfn.inv(A)
    assert torch.isfinite(matfn.inv(A, ridge=0.1)).all()
    for scale in (1e-300, 1e300):
        assert (matfn.inv(torch.eye(3, dtype=torch.float64) * scale) * scale - torch.eye(3)).abs().max() <= 1e-15


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_nonsymmetric_sign_is_scipys(scale):
    """A = V D V^-1 with condition(V) = 4 and eigenvalues of both signs down to 0.1."""
    P, Q = orthogonal(6, seed=4), orthogonal(6, seed=5)
    V = (P * torch.linspace(1, 4, 6, dtype=torch.float64)) @ Q
    values = torch.tensor([3.0, -2, 1, -0.5, 0.2, -0.1], dtype=torch.float64)
    A = V @ torch.diag(values) @ torch.linalg.inv(V)
    S = matfn.signm(A * scale)
    # The condition number of the sign: condition(V)^2 * 2/(gap between the signs).
    allowed = 100 * EPS * 16 * 2 / 0.3 * torch.linalg.matrix_norm(A).item()
    assert (S - torch.from_numpy(scipy.linalg.signm(A.numpy()))).norm() <= allowed
    assert (S - V @ torch.diag(values.sign()) @ torch.linalg.inv(V)).norm() <= allowed


def test_sign_of_a_defective_matrix():
    """Jordan blocks J_3(2) and J_2(-1): the sign of a block is that of its eigenvalue times I."""
    J = torch.diag(torch.tensor([2.0, 2, 2, -1, -1], dtype=torch.float64))
    J[0, 1] = J[1, 2] = J[3, 4] = 1.0
    P = orthogonal(5, seed=6) + 0.1 * gaussian(5, 5, seed=7)
    inverse = torch.linalg.inv(P)
    want = P @ torch.diag(torch.tensor([1.0, 1, 1, -1, -1], dtype=torch.float64)) @ inverse
    assert (matfn.signm(P @ J @ inverse) - want).norm() <= 1000 * EPS * torch.linalg.cond(P).item() ** 2


def test_sign_with_complex_eigenvalues_and_of_a_batch():
    rotation = torch.tensor([[1.0, -5.0], [5.0, 1.0]], dtype=torch.float64)  # 1 +- 5i: the sign is I
    I = torch.eye(2, dtype=torch.float64)  # noqa: E741
    batch = torch.stack([rotation, -rotation, torch.tensor([[2.0, 7.0], [0.0, -3.0]], dtype=torch.float64)])
    want = torch.stack([I, -I, torch.tensor([[1.0, 2.8], [0.0, -1.0]], dtype=torch.float64)])
    assert (matfn.signm(batch) - want).abs().max() <= 100 * EPS


@pytest.mark.parametrize("A", [[[0.0, -1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]], ids=str)
def test_sign_refuses_the_imaginary_axis(A):
    with pytest.raises(SpectrumError, match="sign"):
        matfn.signm(torch.tensor(A))


@every_power
def test_ridge_is_added_to_the_diagonal(verb, h):
    A = of_eigenvalues(spectrum(5, 100.0))[0]
    assert (verb(A, ridge=0.5) - verb(A + 0.5 * torch.eye(5, dtype=A.dtype))).abs().max() <= 10 * EPS
    assert verb(torch.zeros(2, 2, dtype=torch.float64), ridge=4.0)[0, 0].item() == pytest.approx(4.0**h, rel=4 * EPS)
    for ridge in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ridge must be"):
            verb(A, ridge=ridge)


@every_power
def test_an_indefinite_matrix_is_refused_with_its_eigenvalue(verb, h):
    A = of_eigenvalues(torch.tensor([4.0, 1.0, -0.5], dtype=torch.float64))[0]
    with pytest.raises(SpectrumError, match=r"-0\.125 of the largest.*ridge"):
        verb(torch.stack([torch.eye(3, dtype=torch.float64), A]))
    assert isinstance(SpectrumError("x"), ValueError)


@every_power
def test_a_singular_matrix_has_a_root_and_no_inverse_root(verb, h):
    A = torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    if h > 0:
        assert (verb(A) - torch.diag(torch.tensor([4.0**h, 1.0, 0.0], dtype=torch.float64))).abs().max() <= 10 * EPS
    else:
        with pytest.raises(SpectrumError, match=r"positive definite.*ridge"):
            verb(A)


@every_power
def test_asymmetry_is_refused_beyond_rounding(verb, h):
    A = of_eigenvalues(spectrum(5, 10.0))[0]
    A[0, 1] += 1e-6
    with pytest.raises(ValueError, match="symmetric"):
        verb(A)
    B = of_eigenvalues(spectrum(5, 10.0))[0]
    B[0, 1] += 4 * EPS
    assert torch.isfinite(verb(B)).all()


@pytest.mark.parametrize("p", [0, -2, 1.5, True, "2"])
def test_p_is_a_positive_integer(p):
    for verb in (matfn.rootm, matfn.inv_rootm):
        with pytest.raises(ValueError, match="p must be a positive integer"):
            verb(torch.eye(2), p)


@pytest.mark.parametrize("method", ["polar-express", matfn.PolarExpress, 3, None])
def test_a_method_is_an_object(method):
    if method is None:
        assert torch.equal(matfn.sqrtm(torch.eye(2)), matfn.sqrtm(torch.eye(2), method=matfn.Exact()))
        return
    with pytest.raises(TypeError, match=r"method"):
        matfn.sqrtm(torch.eye(2), method=method)
