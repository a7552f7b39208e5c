"""Zero, rank-deficient, thin, empty, NaN and infinite matrices, and every dtype."""

import re

import pytest
import torch

import matfn
from loops import named
from matfn import Gram
from matfn.engines import gram_error
from matfn.engines.restarts import margins, restarts_for
from matfn.iteration.protocols import Evaluation, Fitted, Scheduled
from matfn.iteration.target import POLAR, Domain
from matfn.run.plan import _cached
from matrices import gaussian, of_singular_values, orthogonal, spectrum

from . import cases
from .oracle import expected, schedule_on
from .problems import allowance, problem, verb

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BAD = [float("nan"), float("inf"), float("-inf")]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@cases.every_function
def test_zero(method, target):
    """Zero in, zero out, where the function is defined at zero; an evaluation refuses it elsewhere.

    An iteration cannot see that an inverse does not exist: what it returns there is finite, and documented nowhere. For
    a sign, one that measures the spectrum can tell that more steps would not help.
    """
    defined = target.name in ("polar", "sqrt", "root")
    refused = isinstance(method, Evaluation) or (isinstance(method, Fitted) and target.name == "sign")
    for dtype in DTYPES:
        zero = torch.zeros(2, 4, 4, dtype=dtype)
        with named(dtype):
            if refused and not defined:
                with pytest.raises(matfn.SpectrumError):
                    verb(target, zero, method)
            elif defined or target.name in ("sign", "inv"):
                assert torch.equal(verb(target, zero, method), zero)


def spoilt(method, engine, dtype):
    """Whether Gram with the restarts it was given may blow rounding up to 1 in that dtype, as its model has it."""
    if not isinstance(engine, Gram) or engine.restarts is None or not isinstance(method, Scheduled):
        return False
    return not gram_error(method.schedule(2), engine.restarts, dtype) < 1


@cases.every_orthogonalization
def test_zero_rows_and_columns_stay_zero(method, engine):
    for dtype in DTYPES:
        if spoilt(method, engine, dtype):
            continue  # the model asks for more restarts
        for shape in [(5, 8), (8, 5), (6, 6)]:
            A = gaussian(2, *shape, seed=3, dtype=dtype)
            A[:, 2, :] = 0
            A[:, :, 1] = 0
            A[:, :, 4] = 0
            with named(dtype, shape):
                U = matfn.orthogonalize(A, method=method, engine=engine)
                assert torch.isfinite(U).all()
                assert not U[:, 2, :].any()
                assert not U[:, :, [1, 4]].any()
                assert U[:, 0, 0].all()


@cases.every_orthogonalization_of_the_spectrum
def test_rank_deficient(method, engine):
    """The factor on the range: f(sigma) there, and nothing but rounding off it."""
    if isinstance(method, matfn.Prism):
        pytest.skip(
            "its fit weighs the rounding in place of the zeros, which no scalar map knows (tests/unit/test_prism.py)"
        )
    for shape in [(6, 9), (9, 6), (7, 7)]:
        sigma = 5 * spectrum(3, 10.0)
        c = torch.linalg.vector_norm(sigma).item()
        A, U, V = of_singular_values(sigma, *shape, seed=9)
        values = torch.cat([sigma, sigma.new_zeros(min(shape) - 3)])
        schedule = schedule_on(method, POLAR, values, c)
        values = sigma if schedule is None else values
        want = (U * expected(POLAR, schedule, sigma, c)) @ V.mT
        with named(shape):
            got = matfn.orthogonalize(A, method=method, engine=engine)
            assert torch.linalg.matrix_norm(got - want) <= allowance(POLAR, method, engine, A, values)


@every_dtype
def test_exact_gives_the_factor_on_the_range(dtype):
    """Singular values 1 (3 times) and 0: ||U||_F^2 is the rank."""
    A, U, V = of_singular_values(torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64), 6, 9)
    if dtype in (torch.float16, torch.bfloat16):
        A, U, V = (torch.eye(9)[:6, :], torch.eye(6)[:, :3], torch.eye(9)[:, :3])  # exact in any dtype
        A = A * torch.tensor([4.0, 2, 1, 0, 0, 0])[:, None]
    got = matfn.polar(A.to(dtype)).U
    assert got.dtype == dtype
    assert (got.double() - (U @ V.mT).double()).norm() <= 100 * torch.finfo(dtype).eps
    assert abs(got.double().square().sum().item() - 3) <= 100 * torch.finfo(dtype).eps


@cases.every_orthogonalization_of_the_spectrum
def test_vectors(method, engine):
    """A row or column has one singular value, its norm: the result is f(1) x / ||x||."""
    one = torch.ones(1, dtype=torch.float64)
    schedule = schedule_on(method, POLAR, one, 1.0)
    for dtype in DTYPES:
        # A tenth of what the suite allows, since n = 1 adds nothing up; in half precision it still is no small number.
        allowed = 0.1 * allowance(POLAR, method, engine, one[None].to(dtype), one)
        for shape in [(1, 7), (7, 1), (1, 1), (2, 1, 5), (2, 5, 1)]:
            x = gaussian(*shape, seed=2, dtype=dtype)
            norm = torch.linalg.matrix_norm(x.double(), keepdim=True)
            want = expected(POLAR, schedule, one, 1.0).item() * x.double() / norm
            with named(dtype, shape):
                U = matfn.orthogonalize(x, method=method, engine=engine)
                assert U.dtype == dtype
                assert (U.double() - want).abs().max() <= allowed


@cases.every_function
def test_empty(method, target):
    shapes = [(0, 3, 3), (0, 0), (2, 0, 0), (0, 2, 3, 3)]
    for shape in [*shapes, (3, 0), (0, 3), (2, 3, 0), (0, 2, 3)] if target == POLAR else shapes:
        result = verb(target, torch.empty(shape, dtype=torch.float32), method)
        assert result.shape == shape
        assert result.dtype == torch.float32


@pytest.mark.parametrize("side", ["right", "left"])
def test_empty_polar(side):
    for m, n in [(0, 3), (3, 0), (0, 0)]:
        U, H = matfn.polar(torch.empty(2, m, n), side)
        assert U.shape == (2, m, n)
        assert torch.equal(H, torch.zeros(2, *((n, n) if side == "right" else (m, m))))


@cases.every_orthogonalization
def test_nan_and_infinity_stay_in_their_matrix(method, engine):
    """An iteration passes them through as NaN, an evaluation refuses them; no companion notices."""
    for bad in BAD:
        A = gaussian(3, 5, 8, seed=6)
        A[1, 2, 3] = bad
        with named(bad):
            if isinstance(method, Evaluation):
                with pytest.raises(ValueError, match="NaN or infinite"):
                    matfn.orthogonalize(A, method=method)
                continue
            U = matfn.orthogonalize(A, method=method, engine=engine)
            assert U[1].isnan().any()
            assert not U[1].isinf().any()
            clean = matfn.orthogonalize(gaussian(3, 5, 8, seed=6), method=method, engine=engine)
            assert torch.equal(U[[0, 2]], clean[[0, 2]])


@cases.every_function
def test_accurate_verbs_name_the_bad_entry(method, target):
    for bad in BAD:
        if target == POLAR:
            A = gaussian(2, 3, 4)
            compute = matfn.polar
        else:
            A = torch.stack([problem(target)[0]] * 2)
            compute = lambda A, method: verb(target, A, method)  # noqa: E731
        A[1, 2, 0] = bad
        with named(bad), pytest.raises(ValueError, match=re.escape("the first at index (1, 2, 0)")):
            compute(A, method=method)


@cases.every_function
def test_dtype_shape_and_device(method, target):
    """Half precision: accurate verbs compute in float32 and round once, so bit for bit the float32 result rounded."""
    for dtype in DTYPES:
        A = problem(target, condition=4.0)[0].to(dtype)
        A = (A + A.mT) / 2 if target.domain is Domain.SPD else A
        with named(dtype):
            result = verb(target, A, method)
            assert (result.dtype, result.shape, result.device) == (dtype, A.shape, A.device)
            assert torch.isfinite(result).all()
            if target != POLAR and dtype in (torch.float16, torch.bfloat16):
                assert torch.equal(result, verb(target, A.float(), method).to(dtype))


@cases.every_method
def test_half_precision_orthogonalizes(method, monkeypatch):
    """Close to the float64 result: rounding to eps relative to entries, errors grown by the slope of the map.

    At a restart of Gram both are divided by the margin of half precision.

    On an orthogonal matrix all s are 1/sqrt(n), and the bound, without the factor 100, says more than nothing.
    """
    for dtype in (torch.float16, torch.bfloat16):
        A = orthogonal(8, seed=5).to(dtype)
        for name, engine in cases.all_engines_of_polar(method).items():
            own = engine == Gram() and isinstance(method, Scheduled)
            # Where products in half precision are emulated, the iteration runs in float32.
            iterated = matfn.explain(A, method=method, engine=engine).precision
            same = Gram(restarts_for(method.schedule(2), iterated)) if own else engine
            with named(dtype, name):
                got = matfn.orthogonalize(A, method=method, engine=engine).double()
                with monkeypatch.context() as patch:
                    patch.setattr(
                        "matfn.engines.gram.margins", lambda given, places, _, d=iterated: margins(given, places, d)
                    )
                    _cached.cache_clear()  # a plan holds the margins that it was made with
                    want = matfn.orthogonalize(A.double(), method=method, engine=same)
                _cached.cache_clear()
                assert (got - want).norm() <= 0.01 * allowance(POLAR, method, engine, A)


@cases.every_iteration
def test_precision_is_the_dtype_of_the_iteration(method):
    """float64 in, iterate in `precision`, float64 out; a coarse precision shows, a fine one does not."""
    A = orthogonal(8, seed=5)
    want = matfn.orthogonalize(A, method=method)
    for precision in DTYPES:
        with named(precision):
            got = matfn.orthogonalize(A, method=method, precision=precision)
            assert got.dtype == torch.float64
            difference = (got - want).norm().item()
            assert difference <= 0.01 * allowance(POLAR, method, None, A.to(precision))
            assert difference == 0 if precision == torch.float64 else difference >= torch.finfo(precision).eps / 10


@pytest.mark.parametrize("keyword", [{"engine": matfn.Direct()}, {"precision": torch.bfloat16}], ids=str)
def test_an_evaluation_takes_no_engine_and_no_precision(keyword):
    """It would have to drop them in silence."""
    with pytest.raises(ValueError, match="has no use for"):
        matfn.orthogonalize(torch.eye(3), method=matfn.Exact(), **keyword)


@pytest.mark.parametrize("method", [matfn.PolarExpress(), matfn.Prism()], ids=str)
def test_an_engine_refuses_what_it_does_not_compute(method):
    """With a schedule, and without one."""
    with pytest.raises(ValueError, match="not polar"):
        matfn.orthogonalize(torch.eye(3), method=method, engine=matfn.Coupled())


@pytest.mark.parametrize("precision", [torch.int32, torch.complex64, "bfloat16"])
def test_precision_is_a_supported_dtype(precision):
    with pytest.raises(TypeError, match="precision must be"):
        matfn.orthogonalize(torch.eye(3), precision=precision)


@cases.every_method
def test_refused_arguments(method):
    """By what was given and what was wanted, before any work."""
    with pytest.raises(TypeError, match=r"torch\.int64"):
        matfn.orthogonalize(torch.ones(3, 3, dtype=torch.int64), method=method)
    with pytest.raises(TypeError, match="complex64"):
        matfn.orthogonalize(torch.ones(3, 3, dtype=torch.complex64), method=method)
    with pytest.raises(TypeError, match="list"):
        matfn.orthogonalize([[1.0]], method=method)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="to_dense"):
        matfn.orthogonalize(torch.eye(3).to_sparse(), method=method)
    with pytest.raises(ValueError, match=re.escape("(3,)")):
        matfn.orthogonalize(torch.ones(3), method=method)
    with pytest.raises(ValueError, match=re.escape("(3, 4)")):
        matfn.inv(torch.ones(3, 4), method=method)
