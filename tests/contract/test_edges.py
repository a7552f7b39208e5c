"""Zero, rank-deficient, thin, empty, NaN and infinite matrices, and every dtype."""

import re

import pytest
import torch

import matfn
from matfn import Gram
from matfn.engines import amplification
from matfn.engines.restarts import margins, restarts_for
from matfn.iteration.protocols import Evaluation, Fitted, Scheduled
from matfn.iteration.target import POLAR, Domain
from matrices import gaussian, of_singular_values, orthogonal, spectrum

from . import cases
from .oracle import expected, schedule_on
from .problems import allowance, problem, verb

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_dtype
@cases.every_target
@cases.every_method
def test_zero(method, target, dtype):
    """Zero in, zero out, where the function is defined at zero; an evaluation refuses it elsewhere.

    An iteration cannot see that an inverse does not exist: what it returns there is finite, and documented nowhere. For
    a sign, one that measures the spectrum can tell that more steps would not help.
    """
    if cases.refusal(method, target):
        pytest.skip("refused")
    zero = torch.zeros(2, 4, 4, dtype=dtype)
    defined = target.name in ("polar", "sqrt", "root")
    if not defined and (isinstance(method, Evaluation) or (isinstance(method, Fitted) and target.name == "sign")):
        with pytest.raises(matfn.SpectrumError):
            verb(target, zero, method)
    elif defined or target.name in ("sign", "inv"):
        assert torch.equal(verb(target, zero, method), zero)


def spoilt(method, engine, dtype):
    """Whether Gram with the restarts it was given may blow rounding up to 1 in that dtype, as its model has it."""
    if not isinstance(engine, Gram) or engine.restarts is None or not isinstance(method, Scheduled):
        return False
    roundoff = torch.finfo(dtype).eps / 2
    return not amplification(method.schedule(2), engine.restarts, roundoff) * roundoff < 1


@every_dtype
@cases.every_orthogonalization
def test_zero_rows_and_columns_stay_zero(method, engine, dtype):
    if spoilt(method, engine, dtype):
        pytest.skip("the model asks for more restarts")
    for shape in [(5, 8), (8, 5), (6, 6)]:
        A = gaussian(2, *shape, seed=3, dtype=dtype)
        A[:, 2, :] = 0
        A[:, :, 1] = 0
        A[:, :, 4] = 0
        U = matfn.orthogonalize(A, method=method, engine=engine)
        assert torch.isfinite(U).all()
        assert not U[:, 2, :].any()
        assert not U[:, :, [1, 4]].any()
        assert U[:, 0, 0].all()


@cases.every_orthogonalization
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
        if schedule is None and not isinstance(method, Evaluation):
            pytest.skip("no scalar map")
        values = sigma if schedule is None else values
        want = (U * expected(POLAR, schedule, sigma, c)) @ V.mT
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


@every_dtype
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (2, 1, 5), (2, 5, 1)], ids=str)
@cases.every_orthogonalization
def test_vectors(method, engine, shape, dtype):
    """A row or column has one singular value, its norm: the result is f(1) x / ||x||."""
    x = gaussian(*shape, seed=2, dtype=dtype)
    U = matfn.orthogonalize(x, method=method, engine=engine)
    one = torch.ones(1, dtype=torch.float64)
    schedule = schedule_on(method, POLAR, one, 1.0)
    if schedule is None and not isinstance(method, Evaluation):
        pytest.skip("no scalar map")
    norm = torch.linalg.matrix_norm(x.double(), keepdim=True)
    want = expected(POLAR, schedule, one, 1.0).item() * x.double() / norm
    assert U.dtype == dtype
    # A tenth of what the suite allows, since n = 1 adds nothing up; in half precision it still is no small number.
    allowed = 0.1 * allowance(POLAR, method, engine, one[None].to(dtype), one)
    assert (U.double() - want).abs().max() <= allowed


@cases.every_target
@cases.every_method
def test_empty(method, target):
    if cases.refusal(method, target):
        pytest.skip("refused")
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@cases.every_orthogonalization
def test_nan_and_infinity_stay_in_their_matrix(method, engine, bad):
    """An iteration passes them through as NaN, an evaluation refuses them; no companion notices."""
    A = gaussian(3, 5, 8, seed=6)
    A[1, 2, 3] = bad
    if isinstance(method, Evaluation):
        with pytest.raises(ValueError, match="NaN or infinite"):
            matfn.orthogonalize(A, method=method)
        return
    U = matfn.orthogonalize(A, method=method, engine=engine)
    assert U[1].isnan().any()
    assert not U[1].isinf().any()
    clean = matfn.orthogonalize(gaussian(3, 5, 8, seed=6), method=method, engine=engine)
    assert torch.equal(U[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@cases.every_target
@cases.every_method
def test_accurate_verbs_name_the_bad_entry(method, target, bad):
    if target == POLAR:
        A = gaussian(2, 3, 4)
        compute = matfn.polar
    else:
        A = torch.stack([problem(target)[0]] * 2)
        compute = lambda A, method: verb(target, A, method)  # noqa: E731
    A[1, 2, 0] = bad
    with pytest.raises(ValueError, match=re.escape("the first at index (1, 2, 0)")):
        compute(A, method=method)


@every_dtype
@cases.every_target
@cases.every_method
def test_dtype_shape_and_device(method, target, dtype):
    """Half precision: accurate verbs compute in float32 and round once, so bit for bit the float32 result rounded."""
    if cases.refusal(method, target):
        pytest.skip("refused")
    A = problem(target, condition=4.0)[0].to(dtype)
    A = (A + A.mT) / 2 if target.domain is Domain.SPD else A
    result = verb(target, A, method)
    assert (result.dtype, result.shape, result.device) == (dtype, A.shape, A.device)
    assert torch.isfinite(result).all()
    if target != POLAR and dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(result, verb(target, A.float(), method).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@cases.every_orthogonalization
def test_half_precision_orthogonalizes(method, engine, dtype, monkeypatch):
    """Close to the float64 result: rounding to eps relative to entries, errors grown by the slope of the map.

    At a restart of Gram both are divided by the margin of half precision.

    On an orthogonal matrix all s are 1/sqrt(n), and the bound, without the factor 100, says more than nothing.
    """
    A = orthogonal(8, seed=5).to(dtype)
    got = matfn.orthogonalize(A, method=method, engine=engine).double()
    restarts = restarts_for(method.schedule(2), dtype) if engine == Gram() and isinstance(method, Scheduled) else None
    monkeypatch.setattr("matfn.engines.gram.margins", lambda given, places, _: margins(given, places, dtype))
    same = engine if restarts is None else Gram(restarts)
    want = matfn.orthogonalize(A.double(), method=method, engine=same)
    assert (got - want).norm() <= 0.01 * allowance(POLAR, method, engine, A)


@pytest.mark.parametrize("precision", DTYPES, ids=str)
@cases.every_iteration
def test_precision_is_the_dtype_of_the_iteration(method, precision):
    """float64 in, iterate in `precision`, float64 out; a coarse precision shows, a fine one does not."""
    A = orthogonal(8, seed=5)
    got = matfn.orthogonalize(A, method=method, precision=precision)
    want = matfn.orthogonalize(A, method=method)
    assert got.dtype == torch.float64
    difference = (got - want).norm().item()
    assert difference <= 0.01 * allowance(POLAR, method, None, A.to(precision))
    assert difference == 0 if precision == torch.float64 else difference >= torch.finfo(precision).eps / 10


@pytest.mark.parametrize("keyword", [{"engine": matfn.Direct()}, {"precision": torch.bfloat16}], ids=str)
def test_an_evaluation_takes_no_engine_and_no_precision(keyword):
    """It would have to drop them in silence."""
    with pytest.raises(ValueError, match="has no use for"):
        matfn.orthogonalize(torch.eye(3), method=matfn.Exact(), **keyword)


@cases.every_iteration
def test_an_engine_refuses_what_it_does_not_compute(method):
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
