"""What the accurate verbs say of steps that were too few, and of a sign that has none of its eigenvalues real."""

import math
import warnings

import pytest
import torch

import matfn
from matfn import QDWH, ConvergenceWarning, DBNewton, Exact, NewtonSchulz, PolarExpress, Prism, RitzMinimax, ZoloPD
from matfn.methods.resolvents import Resolvents
from matrices import orthogonal

N = 24
VERBS = {
    "polar": lambda A, method: matfn.polar(A, method=method).U,
    "signm": lambda A, method: matfn.signm(A, method=method),
    "sqrtm": lambda A, method: matfn.sqrtm(A, method=method),
    "inv_sqrtm": lambda A, method: matfn.inv_sqrtm(A, method=method),
    "rootm 4": lambda A, method: matfn.rootm(A, 4, method=method),
    "inv_rootm 4": lambda A, method: matfn.inv_rootm(A, 4, method=method),
    "inv": lambda A, method: matfn.inv(A, method=method),
}
every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def definite(condition, dtype=torch.float64):
    """Symmetric with a log-uniform spectrum; the argument of every verb."""
    Q, values = orthogonal(N, seed=1), torch.logspace(0, -math.log10(condition), N, dtype=torch.float64)
    A = (Q * values) @ Q.mT
    return ((A + A.mT) / 2).to(dtype)


def of_eigenvalues(*pairs, dtype=torch.float64):
    """Not normal, condition 3 of the eigenvectors: real numbers, and complex ones with their conjugates."""
    blocks = [
        torch.tensor([[z.real, z.imag], [-z.imag, z.real]]) if z.imag else torch.tensor([[z.real]]) for z in pairs
    ]
    D = torch.block_diag(*(block.double() for block in blocks))
    V = orthogonal(len(D), seed=2) * torch.linspace(1, 3, len(D), dtype=torch.float64) @ orthogonal(len(D), seed=3)
    return (V @ D @ torch.linalg.inv(V)).to(dtype)


@every_dtype
@every_verb
@pytest.mark.parametrize("method", [Prism(steps=2), PolarExpress(), NewtonSchulz(steps=3)], ids=repr)
def test_too_few_steps_are_said(verb, method, dtype):
    """The result is what the steps reached, a hundredth or more away from the function."""
    A = definite(1e3, dtype)
    want = verb(A, Exact())
    with pytest.warns(ConvergenceWarning, match="residual .* It has not converged: take more steps") as caught:
        got = verb(A, method)
    assert (got - want).norm() > 1e-2 * want.norm()
    assert caught[0].filename == __file__


@every_dtype
@every_verb
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize(
    "method", [Exact(), Prism(steps=40), NewtonSchulz(steps=60), DBNewton(steps=14), RitzMinimax(tol=1e-5)], ids=repr
)
def test_rounding_is_not_taken_for_it(verb, method, condition, dtype):
    """Steps far past convergence: at condition 1e4 in float32 the residual of an inverse root is 1e-4 and more."""
    if isinstance(method, DBNewton) and verb is VERBS["polar"] and condition**2 * torch.finfo(dtype).eps > 1:
        pytest.skip("it inverts M, whose condition number is the square: see below")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        verb(definite(condition, dtype), method)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "p", "method", "condition"),
    [
        ("rootm", 8, PolarExpress(degree=3, steps=50, lower=6e-3), 10),
        ("inv_rootm", 8, PolarExpress(degree=3, steps=50, lower=6e-3), 10),
        ("inv_rootm", 4, PolarExpress(degree=9, steps=12, lower=6e-4), 100),
        ("inv_rootm", 4, Prism(steps=8), 30),
        ("polar", None, DBNewton(), 1.5e3),
        ("signm", None, DBNewton(), 1.5e3),
    ],
)
def test_a_result_right_to_half_precision_has_converged(name, p, method, condition, dtype):
    """The iteration runs in float32, but the rounding to `dtype` is the larger error."""
    A = definite(condition, dtype)
    A = torch.triu(A) + torch.triu(A, 1).mT
    rest = () if p is None else (p,)
    value = (lambda r: r.U) if name == "polar" else (lambda r: r)
    want = value(getattr(matfn, name)(A.double(), *rest))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        got = value(getattr(matfn, name)(A, *rest, method=method))
    assert (got - want).norm() <= torch.finfo(dtype).eps * want.norm()


def _short(p, lower):
    """The fewest steps that promise 3e-3 on [lower, 1]."""
    methods = (PolarExpress(steps=steps, lower=lower, cushion=0.0) for steps in range(2, 40))
    return next(method for method in methods if method.schedule(p).error() < 3e-3)


@pytest.mark.parametrize("verb", [VERBS["polar"], VERBS["sqrtm"], VERBS["inv_rootm 4"]], ids=["polar", "sqrtm", "p=4"])
def test_what_a_schedule_promises_was_asked_for(verb):
    """An error of 3e-3 in float64, where the schedule says so; told a `lower` that does not hold, it warns."""
    A, p = definite(100.0), 4 if verb is VERBS["inv_rootm 4"] else 2
    least = (torch.linalg.eigvalsh(A)[0] / A.norm()).item() ** (1.0 if verb is VERBS["polar"] else 1 / p)
    good, bad = (_short(p, lower) for lower in (0.9 * least, 0.9))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        result = verb(A, good)
    assert (result - verb(A, Exact())).norm() > 1e-9  # or there is nothing that was let pass
    with pytest.warns(ConvergenceWarning):
        verb(A, bad)


def test_a_batch_names_the_matrix():
    A = torch.stack([torch.eye(N), torch.eye(N), definite(1e4).float()])
    with pytest.warns(ConvergenceWarning, match="of matrix 2 of 3"):
        matfn.inv(A, method=NewtonSchulz(steps=6))


def test_a_scaled_matrix_is_judged_alike():
    """The residual is that of A / ||A||: nothing overflows in float32, and nothing underflows to a residual of zero."""
    for scale in (1e-30, 1e30):
        with pytest.warns(ConvergenceWarning):
            matfn.inv(scale * definite(1e4, torch.float32), method=NewtonSchulz(steps=3))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            matfn.inv(scale * definite(10.0, torch.float32), method=NewtonSchulz(steps=20))


def test_the_inverse_of_a_singular_matrix_by_steps():
    A = definite(10.0).clone()
    A[0] = 0
    A[:, 0] = 0
    with pytest.warns(ConvergenceWarning):
        matfn.inv(A, method=NewtonSchulz(steps=40))


COMPLEX = {
    "complex": (0.3 + 0.9j, -0.2 + 0.8j, 0.5 + 0.1j, 1 + 0j, -0.7 + 0j),
    "nearly imaginary": (1e-9 + 0.5j, 0.5 + 0j, -1 + 0j, 0.2 + 0j),
    "imaginary": (0.5j, 0.5 + 0j, -1 + 0j, 0.2 + 0j),
    "all imaginary": (1j, 0.5j, 0.2j),
}


@every_dtype
@pytest.mark.parametrize("values", COMPLEX.values(), ids=COMPLEX)
@pytest.mark.parametrize("method", [QDWH(), ZoloPD(), PolarExpress(), Prism(), NewtonSchulz(steps=30)], ids=repr)
def test_signm_refuses_what_is_not_real(method, values, dtype):
    with pytest.raises(matfn.SpectrumError, match="real"):
        matfn.signm(of_eigenvalues(*values, dtype=dtype), method=method)


@every_dtype
@pytest.mark.parametrize("method", [QDWH(), ZoloPD(), NewtonSchulz(steps=30)], ids=repr)
@pytest.mark.parametrize("least", [0.5, 1e-2, 1e-4])
def test_signm_takes_what_is_real(method, least, dtype):
    """Not normal, both signs; the answer is that of `Exact` to what rounding does to the least eigenvalue."""
    A = of_eigenvalues(1 + 0j, -0.6 + 0j, 0.3 + 0j, -0.9 + 0j, least + 0j, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        S = matfn.signm(A, method=method)
    # The eigenvectors' condition 3 twice, sqrt(5) of the norm: 20 eps / least, and four times that for the steps.
    assert (S - matfn.signm(A)).norm() <= 80 * torch.finfo(dtype).eps / least


def test_a_lower_that_was_given_may_be_why():
    """Above the least eigenvalue 1e-3 the steps leave it short: no reason to call the spectrum complex."""
    A = of_eigenvalues(1 + 0j, -0.6 + 0j, 1e-3 + 0j)
    with pytest.warns(ConvergenceWarning):
        matfn.signm(A, method=QDWH(lower=0.4))


def test_the_warning_can_be_made_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises(ConvergenceWarning):
            matfn.inv(definite(1e4), method=PolarExpress())


def test_gradients_come_with_the_warning():
    """The check lies before the derivative, and neither is in the way of the other."""
    A = definite(1e3).requires_grad_()
    with pytest.warns(ConvergenceWarning):
        matfn.inv(A, method=NewtonSchulz(steps=3)).sum().backward()
    B = definite(1e3).requires_grad_()
    matfn.inv(B).sum().backward()
    assert A.grad is not None
    assert B.grad is not None
    assert torch.equal(A.grad, B.grad)


def test_a_sum_of_resolvents_is_judged_like_steps():
    """Its error of 1e-2 was asked for; a `lower` above the spectrum was not, and an indefinite matrix has no root."""
    A = definite(1e4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        matfn.inv_rootm(A, 4, method=Resolvents(4, 1e-6**0.25))
    with pytest.warns(ConvergenceWarning, match="left a residual"):
        matfn.inv_rootm(A, 4, method=Resolvents(4, 0.9))
    with pytest.raises(matfn.SpectrumError, match="needs a positive definite matrix"):
        matfn.inv_rootm(torch.diag(torch.tensor([1.0, 1.0, -1e-3])), 4, method=Resolvents(4, 0.1))


class Failing:
    """A decomposition that returns NaN."""

    def evaluate(self, target, A):
        return A * math.nan


def test_a_method_that_returns_nan_is_named():
    for verb in VERBS.values():
        with pytest.raises((ValueError, matfn.SpectrumError)):
            verb(definite(2.0), Failing())
    with pytest.raises(ValueError, match="inv: the method returned NaN for matrix 0 of 2"):
        matfn.inv(torch.eye(3).expand(2, 3, 3), method=Failing())
