"""Ridge: added in the precision of the method, a number or one for each matrix, relative or not, with its gradient."""

from functools import partial

import numpy as np
import pytest
import torch

import matfn
from loops import looped
from matfn import PolarExpress
from matrices import gaussian

VERBS = {
    "inv": matfn.inv,
    "sqrtm": matfn.sqrtm,
    "inv_sqrtm": matfn.inv_sqrtm,
    "rootm": partial(matfn.rootm, p=3),
    "inv_rootm": partial(matfn.inv_rootm, p=4),
}
POWERS = {"inv": -1.0, "sqrtm": 0.5, "inv_sqrtm": -0.5, "rootm": 1 / 3, "inv_rootm": -0.25}
every_verb = pytest.mark.parametrize("name", VERBS)


def definite(*shape, seed=1, dtype=torch.float64):
    X = gaussian(*shape, seed=seed).double()
    return (X @ X.mT / shape[-1]).to(dtype)


def numpys(A, shift, power):
    """(A + shift I)^power by NumPy's eigh in float64."""
    values, V = np.linalg.eigh(A.detach().double().numpy() + np.asarray(shift)[..., None, None] * np.eye(A.shape[-1]))
    return (V * values[..., None, :] ** power) @ np.swapaxes(V, -1, -2)


@every_verb
@looped("ridge", [1e-2, 1e-6, 5e-7, 1e-7, 1e-9, 1e-12])
@pytest.mark.parametrize("kind", [float, np.float64, torch.tensor], ids=["number", "numpy", "tensor"])
def test_a_small_ridge_is_not_rounded_to_float32(name, ridge, kind):
    """ones + ridge I in float32: the eigenvalues are ridge and 4 + ridge; the result is float32, 4 entries a row."""
    got = VERBS[name](torch.ones(4, 4), ridge=kind(ridge) if kind is not torch.tensor else kind(ridge).double())
    want = numpys(torch.ones(4, 4), ridge, POWERS[name])
    assert got.dtype == torch.float32
    # eigh moves the least eigenvalue by some eps of float64 times 4; the result is then rounded to float32.
    allowed = 4 * torch.finfo(torch.float32).eps + 16 * torch.finfo(torch.float64).eps / ridge
    assert np.abs(got.double().numpy() - want).max() <= allowed * np.abs(want).max()


@every_verb
def test_rounding_that_makes_an_eigenvalue_negative_is_judged_by_the_dtype_of_A(name):
    """A low-rank float32 Gram matrix has eigenvalues of about -eps: a root takes them, with a ridge as without."""
    X = gaussian(30, 4, seed=3, dtype=torch.float32)
    A = X @ X.mT
    least = torch.linalg.eigvalsh(A.double())[0].item()
    assert least < 0
    if POWERS[name] > 0:
        assert torch.isfinite(VERBS[name](A)).all()
        assert torch.isfinite(VERBS[name](A, ridge=-least / 10)).all()
    elif name != "inv":
        with pytest.raises(matfn.SpectrumError, match="positive definite"):
            VERBS[name](A, ridge=-least / 10)
    assert torch.isfinite(VERBS[name](A, ridge=-least * 10)).all()


@every_verb
@pytest.mark.parametrize("shape", [(), (2,), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("relative", [False, True])
def test_one_ridge_for_each_matrix(name, shape, relative):
    A = definite(3, 2, 5, 5)
    ridge = torch.linspace(0.1, 0.7, max(1, torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)
    got = VERBS[name](A, ridge=ridge, relative=relative)
    shift = ridge.expand(3, 2) * (torch.linalg.matrix_norm(A) if relative else 1.0)
    want = numpys(A, shift.numpy(), POWERS[name])
    assert np.abs(got.numpy() - want).max() <= 1e-13 * np.abs(want).max()


@every_verb
@pytest.mark.parametrize("relative", [False, True])
def test_gradients_of_both(name, relative):
    A, ridge = definite(2, 4, 4), torch.tensor([0.3, 0.5], dtype=torch.float64)

    def value(A, ridge):
        return VERBS[name](A / 2 + A.mT / 2, ridge=ridge, relative=relative)

    inputs = (A.requires_grad_(), ridge.requires_grad_())
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(value, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda r: value(A.detach(), r), (ridge[0].detach().requires_grad_(),))


@every_verb
def test_value_and_gradient_belong_to_the_same_matrix(name):
    """d/dr tr f(A + r I) at r = 1e-7, below the rounding of A in float32, is the sum of f'(lambda)."""
    A, ridge, h = torch.ones(4, 4), torch.tensor(1e-7, dtype=torch.float64, requires_grad=True), POWERS[name]
    VERBS[name](A, ridge=ridge).diagonal().sum().backward()
    want = 3 * h * 1e-7 ** (h - 1) + h * (4 + 1e-7) ** (h - 1)
    assert ridge.grad.item() == pytest.approx(want, rel=1e-5)


def test_scale_does_not_matter_to_a_relative_ridge():
    A = definite(4, 4)
    for scale in (2.0**-400, 2.0**400):
        got = matfn.inv_sqrtm(A * scale, ridge=1e-3, relative=True)
        torch.testing.assert_close(got * scale**0.5, matfn.inv_sqrtm(A, ridge=1e-3, relative=True), rtol=1e-13, atol=0)


def test_vmap_over_matrix_and_ridge():
    A, ridge = definite(3, 4, 4), torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    want = matfn.inv_sqrtm(A, ridge=ridge)
    torch.testing.assert_close(torch.func.vmap(lambda a, r: matfn.inv_sqrtm(a, ridge=r))(A, ridge), want)
    one = torch.func.vmap(lambda r: matfn.inv_sqrtm(A[0], ridge=r))(ridge)
    torch.testing.assert_close(one, torch.stack([matfn.inv_sqrtm(A[0], ridge=r.item()) for r in ridge]))


@every_verb
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_and_iterations(name, dtype):
    """An iteration adds the ridge in its own precision; the result is in the dtype of A."""
    A = definite(6, 6, dtype=dtype)
    A = (A + A.mT) / 2
    for relative in (False, True):
        exact = VERBS[name](A, ridge=0.25, relative=relative)
        steps = VERBS[name](A, ridge=0.25, relative=relative, method=PolarExpress(steps=12, lower=1e-2))
        assert exact.dtype == steps.dtype == dtype
        assert (exact - steps).abs().max() <= 200 * max(torch.finfo(dtype).eps, 1e-15) * exact.abs().max()


def test_an_argument_is_not_changed():
    A, ridge = definite(4, 4), torch.tensor(0.5)
    before = A.clone()
    matfn.inv(A, ridge=ridge, relative=True)
    assert torch.equal(A, before)
    assert ridge.item() == 0.5


@every_verb
@looped("ridge", [-1e-9, float("nan"), float("inf"), 1e39, 10**400, True, "a", None, 1j, [1.0]])
def test_a_bad_number_is_refused(name, ridge):
    with pytest.raises(ValueError, match=rf"{name}: ridge must be a finite number from 0 to 3\.4e\+38"):
        VERBS[name](torch.eye(2), ridge=ridge)


@every_verb
@looped("ridge", [-1.0, float("nan"), float("inf"), 1e39])
def test_a_bad_tensor_is_refused_and_the_matrix_named(name, ridge):
    given = torch.tensor([0.5, ridge], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"{name}: ridge must be .* got .* for matrix 1 of 2: it is added"):
        VERBS[name](torch.eye(2).expand(2, 2, 2), ridge=given)


@looped("ridge", [torch.ones(3), torch.ones(1, 2), torch.tensor(True), torch.tensor(1j), torch.ones(2).to_sparse()])
def test_a_tensor_that_does_not_fit_is_refused(ridge):
    with pytest.raises(ValueError, match=r"inv: ridge must be .* broadcasts to \(2,\), got torch"):
        matfn.inv(torch.eye(2).expand(2, 2, 2), ridge=ridge)


def test_a_sum_that_overflows_is_refused():
    A = 3e38 * torch.eye(2)
    for options in ({"ridge": 3e38}, {"ridge": 10.0, "relative": True}):
        for method in (None, PolarExpress()):
            with pytest.raises(
                ValueError, match=r"sqrtm: A \+ ridge I overflows torch.float32: entries up to .*float64"
            ):
                matfn.sqrtm(A, method=method, **options)
    with pytest.raises(ValueError, match=r"A \+ ridge I overflows torch.float64: entries up to inf.*scale A"):
        matfn.sqrtm(1e308 * torch.eye(2, dtype=torch.float64), ridge=1e308)
    with pytest.raises(TypeError, match="relative must be True"):
        matfn.sqrtm(A, ridge=1.0, relative="yes")
