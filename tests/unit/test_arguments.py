"""Arguments of the verbs that are none: what was given, what was wanted, what to do; and what runs around the verbs."""

import pytest
import torch

import matfn
from matfn import Exact, Gram, NewtonSchulz, PolarExpress, Schedule, SpectrumError
from matrices import compiles


@pytest.fixture
def A():
    return torch.randn(24, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("degree", "dtype"), [(9, torch.bfloat16), (11, torch.bfloat16), (11, torch.float16)])
def test_coefficients_too_large_for_the_precision_are_refused(A, degree, dtype, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", "cuda-sm90")  # a machine that iterates in half precision
    method = PolarExpress(degree=degree)
    with pytest.raises(ValueError, match=r"amplifies rounding errors by .* wider dtype"):
        matfn.orthogonalize(A, method=method, precision=dtype)
    with pytest.raises(ValueError, match="amplifies rounding errors"):
        matfn.orthogonalize(A.to(dtype), method=method)
    assert torch.isfinite(matfn.orthogonalize(A, method=method)).all()


@pytest.mark.parametrize("degree", [5, 7, 9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_foretells_the_error_of_low_precision(A, degree, dtype):
    schedule = PolarExpress(degree=degree, steps=3).schedule()
    foretold = schedule.rounding * torch.finfo(dtype).eps / 2
    if foretold >= 1:
        pytest.skip("refused")
    W, sigma, Vh = torch.linalg.svd(A.double())
    expected = (W * schedule(sigma / torch.linalg.matrix_norm(A.double()))) @ Vh
    error = torch.linalg.matrix_norm(matfn.orthogonalize(A, method=schedule, precision=dtype) - expected)
    assert error <= 3 * foretold * torch.linalg.matrix_norm(expected)  # three steps, each with its own rounding


def test_autocast_does_not_reach_inside(A):
    S = A @ A.mT + torch.eye(24)

    def results():
        X = A.clone().requires_grad_()
        U, H = matfn.polar(X)
        [gradient] = torch.autograd.grad(H.sum(), X)
        roots = matfn.inv_sqrtm(S), matfn.inv_sqrtm(S, method=NewtonSchulz(steps=20))
        return U.detach(), H.detach(), gradient, matfn.orthogonalize(A), *roots

    plain = results()
    with torch.autocast("cpu", torch.bfloat16):
        inside = results()
    for one, other in zip(plain, inside, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@compiles
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("engine", [None, Gram(restarts=(2,))])
def test_a_schedule_compiles_without_a_break(A, backend, engine):
    schedule = PolarExpress().schedule()

    def fun(X):
        return matfn.orthogonalize(X, method=schedule, engine=engine)

    compiled = torch.compile(fun, fullgraph=True, backend=backend)
    assert torch.equal(compiled(A), fun(A))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A: matfn.orthogonalize(A, engine="gram"), TypeError, r"engine must be a value .*write Gram\(\)"),
        (lambda A: matfn.orthogonalize(A, engine=Gram), TypeError, r"engine must be a value .*write Gram\(\)"),
        (lambda A: matfn.orthogonalize(A, generator=5), TypeError, "generator must be a torch.Generator"),
        (lambda A: matfn.inv(A, ridge="a"), ValueError, "ridge must be a finite number"),
        (lambda A: matfn.inv(A, ridge=torch.ones(2)), ValueError, "ridge must be a finite number"),
        (lambda A: matfn.polar(A + 1j), TypeError, "complex matrices are not supported"),
        (lambda A: Schedule((), 2, 1e-3, "nothing"), ValueError, "at least one step, got none .nothing."),
        (lambda A: matfn.inv_sqrtm(torch.zeros(3, 3)), SpectrumError, "smallest eigenvalue is 0 of the largest"),
        (
            lambda A: matfn.sqrtm(torch.stack([torch.eye(2), -torch.eye(2)])),
            SpectrumError,
            "smallest eigenvalue of matrix 1 of 2 is -1 of the largest",
        ),
        (lambda A: matfn.signm(torch.tensor([[0.0, 1], [-1, 0]])), SpectrumError, "imaginary axis"),
        (
            lambda A: matfn.signm(torch.tensor([[1.0, 5], [-5, 1]]), method=PolarExpress(steps=12)),
            SpectrumError,
            r"diverged for the matrix: an iteration needs a real spectrum",
        ),
    ],
)
def test_mistakes_are_explained(A, call, error, message):
    with pytest.raises(error, match=message):
        call(A)


class ReturnsAList:
    def schedule(self, p=2):
        return [1.0, 2.0]


class ReturnsAnotherShape:
    def evaluate(self, target, A):
        return A[..., :1]


def test_own_methods_that_return_the_wrong_thing_are_named(A):
    with pytest.raises(TypeError, match=r"ReturnsAList.*schedule must return a Schedule"):
        matfn.orthogonalize(A, method=ReturnsAList())
    with pytest.raises(ValueError, match=r"ReturnsAnotherShape.*must return shape \(1, 24, 24\)"):
        matfn.orthogonalize(A, method=ReturnsAnotherShape())
    assert matfn.orthogonalize(A, method=Exact()).shape == A.shape
