"""RitzMinimax as a method: what it refuses, where it ends, and that each matrix of a batch is on its own."""

from functools import partial

import pytest
import torch

import matfn
from loops import looped
from matfn import Coupled, Direct, Gram, RitzMinimax
from matfn.iteration.residual import Residual
from matfn.iteration.target import INV, INV_ROOT, INV_SQRT, POLAR, ROOT, SIGN, SQRT
from matfn.kernels import EAGER, Eager
from matfn.kernels import products as kernels
from matrices import compute, gaussian, of_eigenvalues, of_singular_values, spectrum

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
DEGREES = (3, 5, 7, 9, (9, 5), (3, 7, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 4}, "odd integer"),
        ({"degree": 1}, "odd integer"),
        ({"degree": ()}, "lists no step"),
        ({"degree": (5, 6)}, "odd integer"),
        ({"degree": True}, "odd integer"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 2.0}, "steps must be"),
        ({"tol": 0}, "tol must be"),
        ({"tol": 1.0}, "tol must be"),
        ({"tol": "1e-6"}, "tol must be"),
        ({"tol": float("nan")}, "tol must be"),
        ({"sketch": 0}, "sketch must be"),
        ({"krylov": 1}, "krylov must be"),
        ({"krylov": 2.5}, "krylov must be"),
    ],
    ids=str,
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RitzMinimax(**arguments)


def test_settled_arguments():
    assert RitzMinimax().steps == 5
    assert RitzMinimax(degree=(5, 5, 3)).steps == 3
    assert RitzMinimax(tol=1e-6).steps == 100
    assert RitzMinimax(tol=1e-6, steps=7).steps == 7
    assert RitzMinimax(steps=5) == RitzMinimax()


@looped("degree", DEGREES)
@pytest.mark.parametrize("engine", [Direct(), Gram(), Gram(restarts=())], ids=str)
def test_the_polar_factor(engine, degree):
    """Both modes, to the accuracy asked for: ||I - M||_F <= tol sqrt(n) is rms(1 - sigma^2)."""
    A, U, V = of_singular_values(spectrum(20, 50.0), 20, 33, seed=1)
    got = matfn.orthogonalize(A, method=RitzMinimax(degree=degree, tol=1e-9), engine=engine)
    assert torch.linalg.matrix_norm(torch.eye(20) - got @ got.mT) <= 1e-9 * 20**0.5 + 1e-12
    assert torch.linalg.matrix_norm(got - U @ V.mT) <= 1e-9 * 20**0.5 + 1e-12
    budget = matfn.orthogonalize(A, method=RitzMinimax(degree=degree, steps=9), engine=engine)
    assert torch.linalg.matrix_norm(budget - U @ V.mT) <= 1e-7 if degree != 3 else 1e-2


@pytest.mark.parametrize(("p", "degree"), [(1, 5), (2, 3), (2, (7, 5)), (3, (7, 5)), (4, 5), (8, 5)], ids=str)
def test_roots(p, degree):
    """By the coupled engine; the residual is that of M, so of A^(1/p) Z at most tol times sqrt(n)."""
    values = spectrum(15, 40.0)
    A, V = of_eigenvalues(values, seed=2)
    method = RitzMinimax(degree=degree, tol=1e-9)
    for target, power in ((INV_ROOT, -1 / p), (ROOT, 1 / p)):
        got = compute(target.with_exponent(p), A, method, engine=Coupled())
        relative = (V.mT @ got @ V) / values**power
        assert torch.linalg.matrix_norm(torch.eye(15) - relative.diagonal().diag()) <= 1e-9 * 15**0.5 + 1e-11
        got = compute(target.with_exponent(p), A, RitzMinimax(degree=degree, steps=12), engine=Coupled())
        assert torch.linalg.matrix_norm(got - (V * values**power) @ V.mT) <= 1e-5 * values.min() ** min(power, 0)


@pytest.mark.parametrize("target", [SQRT, INV_SQRT, SIGN, INV], ids=str)
def test_the_other_functions(target):
    values = spectrum(12, 20.0)
    values = values * (torch.arange(12) % 3 - 0.5).sign() if target == SIGN else values
    A, V = of_eigenvalues(values, seed=3)
    want = {"sqrt": values.abs().sqrt(), "inv_sqrt": values.abs() ** -0.5, "sign": values.sign(), "inv": 1 / values}
    got = compute(target, A, RitzMinimax(tol=1e-10))
    assert (got - (V * want[target.name]) @ V.mT).abs().max() <= 1e-8 * want[target.name].abs().max()


class Counted:
    """A method that notes how often it was asked for a step."""

    def __init__(self, method):
        self.method, self.taken, self.steps = method, 0, method.steps

    def step(self, k, residual):
        self.taken += 1
        return self.method.step(k, residual)

    def done(self, k, residual):
        return self.method.done(k, residual)


def test_it_ends_when_it_is_there():
    """Few steps for a flat spectrum, none for an orthogonal matrix of norm 1, more for a steep one."""
    taken = {}
    for name, s in {"equal": torch.ones(16), "flat": spectrum(16, 2.0), "steep": spectrum(16, 1e5)}.items():
        method = Counted(RitzMinimax(tol=1e-8))
        A, _, _ = of_singular_values(s.double(), 16, 16)
        got = Direct().run(POLAR, A[None] / torch.linalg.matrix_norm(A, 2), method, EAGER)
        assert torch.linalg.matrix_norm(torch.eye(16) - got @ got.mT) <= 1e-8 * 4 + 1e-13
        taken[name] = method.taken
    assert taken["equal"] == 0
    assert 1 <= taken["flat"] <= 3 < taken["steep"] <= 13


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_singular_matrix_ends(dtype):
    """It never gets there: the steps end when all else has, and what is zero to rounding stays off the range."""
    u = torch.finfo(dtype).eps / 2
    for s in (torch.tensor([1.0, 0.5, 0.3, 0, 0, 0]), torch.zeros(6)):
        A, U, V = of_singular_values(s.double(), 6, 9, seed=4)
        method = Counted(RitzMinimax(tol=4 * u))
        got = Direct().run(POLAR, A[None].to(dtype), method, EAGER).double()[0]
        assert method.taken <= 30
        on_range = (U.mT @ got @ V).diagonal()[s > 0.1]
        assert ((on_range - 1).abs() <= 64 * u).all()


def test_a_tolerance_that_the_dtype_does_not_hold():
    A = gaussian(6, 6)
    for precision in (torch.float32, torch.bfloat16):
        with pytest.raises(ValueError, match=r"out of reach in torch\.(float32|bfloat16).*give a larger tol"):
            matfn.orthogonalize(A, method=RitzMinimax(tol=1e-9), precision=precision)
    assert torch.isfinite(matfn.orthogonalize(A, method=RitzMinimax(tol=1e-9))).all()
    assert torch.isfinite(matfn.orthogonalize(A, method=RitzMinimax(tol=1e-2), precision=torch.bfloat16)).all()


def different(dtype, shape=(9, 14)):
    return torch.stack([
        gaussian(*shape, seed=1),
        of_singular_values(spectrum(min(shape), 1e4), *shape)[0],
        of_singular_values(torch.ones(min(shape), dtype=torch.float64), *shape)[0],
        torch.zeros(shape, dtype=torch.float64),
    ]).to(dtype)  # fmt: skip


@every_dtype
def test_each_member_as_if_alone(dtype):
    """To a budget; the order in which a batched product adds up is all that may differ.

    The steps multiply that, as they do the smallest singular values, by up to the condition number, 1e4.
    """
    A = different(dtype)
    for method in (RitzMinimax(), RitzMinimax(degree=(7, 3), steps=4)):
        for engine in (Direct(), Gram()):
            together = matfn.orthogonalize(A, method=method, engine=engine)
            for one, got in zip(A, together, strict=True):
                alone = matfn.orthogonalize(one, method=method, engine=engine)
                assert (got.double() - alone.double()).norm() <= min(1e4 * torch.finfo(dtype).eps, 0.1)


def test_members_wait_for_each_other():
    """To an accuracy: as many steps as the slowest needs, and no member is worse for it."""
    A = different(torch.float64)[:3]
    got = matfn.orthogonalize(A, method=RitzMinimax(tol=1e-10))
    for one, U in zip(A, got, strict=True):
        alone = matfn.orthogonalize(one, method=RitzMinimax(tol=1e-10))
        assert (U - alone).norm() <= 2e-10 * 3 + 1e-12


@every_dtype
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_touches_no_other(dtype, value):
    A = different(dtype)
    spoilt = A.clone()
    spoilt[1, 2, 3] = value
    clean = [0, 2, 3]
    for method in (RitzMinimax(), RitzMinimax(tol=4 * torch.finfo(dtype).eps)):
        got = matfn.orthogonalize(spoilt, method=method)
        assert got[1].isnan().all()
        assert got[clean].isfinite().all()
        if method.tol is None:
            assert torch.equal(got[clean], matfn.orthogonalize(A, method=method)[clean])


def test_deterministic_from_a_generator():
    A = gaussian(24, 30, dtype=torch.float32)

    def run(seed):
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        return matfn.orthogonalize(A, method=RitzMinimax(steps=4), generator=draw)

    assert torch.equal(run(None), run(None))
    assert torch.equal(run(1), run(1))
    assert not all(torch.equal(run(1), run(seed)) for seed in range(2, 8))  # rows of a table: often the same ones
    before = torch.get_rng_state()
    run(None)
    assert torch.equal(torch.get_rng_state(), before)


@every_dtype
def test_scale(dtype):
    """Powers of two change no bit; a scale that rounds the entries changes no more than they do."""
    A = gaussian(10, 12, seed=6, dtype=dtype)
    U = matfn.orthogonalize(A, method=RitzMinimax())
    for exponent in (-6, 3, 8):
        assert torch.equal(matfn.orthogonalize(A * 2.0**exponent, method=RitzMinimax()), U)
    if dtype == torch.float64:
        for scale in (1e-300, 1e-30, 1e30, 1e300):
            assert (matfn.orthogonalize(A * scale, method=RitzMinimax()) - U).abs().max() <= 1e-11


@every_dtype
def test_one_row_and_none(dtype):
    for shape in ((1, 7), (7, 1), (1, 1), (2, 1, 5)):
        x = gaussian(*shape, seed=7, dtype=dtype)
        U = matfn.orthogonalize(x, method=RitzMinimax())
        want = x.double() / torch.linalg.matrix_norm(x.double(), keepdim=True)
        assert (U.double() - want).abs().max() <= 20 * torch.finfo(dtype).eps
    for shape in ((0, 3), (3, 0), (0, 3, 4)):
        for method in (RitzMinimax(), RitzMinimax(tol=1e-2)):
            assert matfn.orthogonalize(torch.empty(shape, dtype=dtype), method=method).shape == shape


def test_a_budget_reads_nothing_back():
    """On the meta device there are no values to read."""
    for engine in (Direct(), Gram()):
        U = matfn.orthogonalize(torch.empty(3, 6, 5, device="meta"), method=RitzMinimax(steps=3), engine=engine)
        assert U.shape == (3, 6, 5)


def test_it_compiles_to_one_graph():
    """The budget, with the numbers of the eager run but for the order of sums."""
    torch._dynamo.reset()
    A = gaussian(2, 6, 9, dtype=torch.float32)
    run = partial(matfn.orthogonalize, method=RitzMinimax(steps=2))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert (compiled(A) - run(A)).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_products_one_by_one_are_the_batched_ones(dtype, monkeypatch):
    """Large matrices go through addmm one at a time on a CPU: the same sum, rounded once less."""
    C, A, B = (gaussian(3, 130, 140, seed=i).to(dtype) for i in range(3))
    A = A[:, :, :130]
    numbers = [torch.tensor(x, dtype=torch.promote_types(dtype, torch.float32))[:, None, None] for x in
               ([0.7, -1.3, 2.0], [1.5, 0.1, -3.0])]  # fmt: skip
    for alpha, beta in ((numbers[0], numbers[1]), (1.0, numbers[1]), (numbers[0], -0.5)):
        one = kernels._one_by_one(C, A, B, alpha, beta)
        want = alpha * (A.double() @ B.double()) + beta * C.double()
        size = abs(alpha) * (A.double().abs() @ B.double().abs()) + abs(beta) * C.double().abs()
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "_better_one_by_one", lambda *_: False)
            general = Eager().addmm(C, A, B, alpha=alpha, beta=beta)
        for got in (one, general, Eager().addmm(C, A, B, alpha=alpha, beta=beta)):
            assert got.dtype == dtype
            assert ((got.double() - want).abs() <= 4 * torch.finfo(dtype).eps * size).all()


def test_the_square_that_the_bound_takes_is_the_one_of_q():
    """M^2 is formed once and shared, not in float16; the step with it is the step without."""
    M = of_eigenvalues(spectrum(9, 30.0))[0][None]
    step = RitzMinimax().step(0, Residual(M, 2))
    (square,) = step.powers
    assert torch.allclose(square, M @ M)
    c, B = step.split(M, EAGER)
    plain = matfn.Polynomial(step.coefficients)
    assert torch.allclose(B, plain.split(M, EAGER)[1], atol=1e-10)
    assert torch.equal(torch.as_tensor(c), torch.as_tensor(plain.coefficients[0]))
    assert RitzMinimax().step(1, Residual(M, 2)).powers == ()


def test_the_sign_of_a_matrix_that_is_not_symmetric_is_refused():
    """Its numerical range is no interval of its eigenvalues: the result would be wrong without a word."""
    V = gaussian(12, 12, seed=5)
    A = V @ torch.diag(torch.linspace(-1, 2, 12, dtype=torch.float64)) @ torch.linalg.inv(V)
    with pytest.raises(ValueError, match="needs symmetric matrices"):
        matfn.signm(A, method=RitzMinimax(steps=8))
    S = (V + V.mT) / 2
    assert torch.linalg.matrix_norm(matfn.signm(S, method=RitzMinimax(tol=1e-10)) - matfn.signm(S)) <= 1e-8
