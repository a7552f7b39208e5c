"""On matrices of known spectrum, float64: every method, engine and target does to it what the scalar map says."""

import math

import pytest
import torch

import matfn
from loops import named
from matfn import Gram, NewtonSchulz, PolarExpress
from matfn.iteration.protocols import Evaluation, Scheduled
from matfn.iteration.target import POLAR, SIGN, Domain
from matfn.kernels import EAGER
from matfn.linalg.norms import prescale
from matfn.run.arguments import check_method
from matrices import orthogonal, spectrum

from . import cases
from .oracle import expected, schedule_on
from .problems import NORM, problem, verb
from .rounding import amplification, of_direct

EPS = torch.finfo(torch.float64).eps
LONG = [PolarExpress(steps=24), PolarExpress(degree=3, steps=30), NewtonSchulz(steps=30), NewtonSchulz(3, steps=40)]
SHAPES = [(6, 9), (9, 6), (7, 7)]


def chosen(target):
    """The engine of the accurate verbs."""
    return matfn.Coupled() if target.domain is Domain.SPD else matfn.Direct()


def compare(got, target, method, engine, values, matrix):
    schedule = schedule_on(method, target, values, NORM)
    if schedule is None and not isinstance(method, Evaluation):
        # The method chooses its steps by a sketch, so there is no scalar map; its own tests say what it reaches.
        assert torch.isfinite(got).all()
        return
    error = torch.linalg.matrix_norm(got - matrix(expected(target, schedule, values, NORM))).item()
    allowed = 100 * EPS * amplification(target, schedule, engine, method, values / NORM)
    assert error <= allowed * NORM**target.homogeneity, f"{error:.2e} > {allowed:.2e}"
    # A bound that allows much would not see an error of the algorithm. For p = 8 it is loose: Y takes q(M)^7, and the
    # largest q (of the least m) and the largest Y (of the greatest) are bounded as if they met.
    assert allowed <= (1e-6 if target.p <= 4 else 0.1) * max(1.0, torch.linalg.matrix_norm(got).item())


@cases.every_method
def test_verb(method):
    """Every target, through the public function and the engine it chooses."""
    for target in cases.TARGET.values():
        for shape in SHAPES if target == POLAR else [(7, 7)]:
            A, values, matrix = problem(target, shape)
            with named(target, shape):
                if message := cases.refusal(method, target):
                    with pytest.raises(ValueError) as refused:  # noqa: PT011 -- the message is compared
                        verb(target, A, method)
                    assert str(refused.value) == f"{target}: {message}"
                    continue
                engine = None if isinstance(method, Evaluation) else chosen(target)
                compare(verb(target, A, method), target, method, engine, values, matrix)


@pytest.mark.parametrize("engine", cases.ENGINE.values(), ids=cases.ENGINE)
@cases.every_iteration
def test_engine(method, engine):
    """Each engine alone for all its targets, as the protocol says: a batch of matrices of norm 1."""
    for target in cases.TARGET.values():
        if target.name not in engine.targets or not cases.takes(method, target):
            continue
        iteration = method.schedule(target.p) if isinstance(method, Scheduled) else check_method(method, target.verb)
        if isinstance(engine, Gram) and max(engine.restarts or (), default=0) >= iteration.steps:
            continue  # fewer steps than restarts
        for shape in SHAPES if target == POLAR else [(7, 7)]:
            A, values, matrix = problem(target, shape)
            before = (A / NORM)[None].clone()
            given = before.clone()
            with named(target, shape):
                result = engine.run(target, given, iteration, EAGER)
                assert torch.equal(given, before)
                assert result.dtype == A.dtype
                compare(result[0] * NORM**target.homogeneity, target, method, engine, values, matrix)


@cases.every_iteration
def test_sign_of_a_nonsymmetric_matrix(method):
    """A = V D V^-1 with condition(V) = 2; each norm and each divided difference grows by that, seven in a product."""
    values = NORM * spectrum(6, 20.0) * torch.tensor([1, -1, 1, 1, -1, -1])
    P, Q = orthogonal(6, seed=7), orthogonal(6, seed=8)
    V = (P * torch.linspace(1, 2, 6, dtype=torch.float64)) @ Q
    A = V @ torch.diag(values) @ torch.linalg.inv(V)
    c = torch.linalg.matrix_norm(A).item()
    schedule = schedule_on(method, SIGN, values, c)
    if schedule is None or getattr(method, "invariant", False):
        pytest.skip("no scalar map; or invariants of a non-normal M, which are not those of its spectrum")
    want = V @ torch.diag(expected(SIGN, schedule, values, c)) @ torch.linalg.inv(V)
    error = torch.linalg.matrix_norm(matfn.signm(A, method=method) - want).item()
    assert error <= 100 * EPS * 2**7 * of_direct(schedule, values / c)


@pytest.mark.parametrize("name", matfn.METHODS)
def test_every_method_has_a_default_instance_and_a_documentation(name):
    method = matfn.METHODS[name]()
    assert matfn.method(name) == method
    assert type(method).__doc__
    assert len(type(method).__doc__) > 80


def test_an_adaptive_method_is_followed_on_its_spectrum():
    """The seam itself: the suite sees the steps of the toy, which differ, and engines give each matrix its own."""
    method = cases.METHOD["adaptive"]
    easy, hard = problem(POLAR, condition=2.0), problem(POLAR, condition=1e3)
    rows = [schedule_on(method, POLAR, values, NORM).coefficients for _, values, _ in (easy, hard)]
    assert rows[0] != rows[1]
    batch = torch.stack([easy[0], hard[0]])
    for engine in cases.engines(method, POLAR).values():
        both = engine.run(POLAR, prescale(batch)[0], method, EAGER)
        for one, U in zip(batch, both, strict=True):
            alone = engine.run(POLAR, prescale(one[None])[0], method, EAGER)[0]
            assert (alone - U).abs().max() <= 1e-10


@pytest.mark.parametrize("method", LONG, ids=str)
def test_a_long_schedule_reaches_the_function(method):
    """The scalar map itself goes to the true function: an oracle shared by library and suite could hide an error."""
    for target in cases.TARGET.values():
        A, values, matrix = problem(target)
        want = matrix(expected(target, None, values, NORM))
        schedule = method.schedule(target.p)
        engine = chosen(target)
        allowed = 100 * EPS * amplification(target, schedule, engine, method, values / NORM)
        # Newton-Schulz lifts s by q(0) a step, least for p = 8, where s >= (1/(30 sqrt 7))^(1/8) = 0.52, and most steps
        # are taken for p = 1, where s >= 1.6e-4 (inv: its square root) and q(0) = 3 or 2: 40 steps leave only rounding.
        with named(target):
            assert math.isfinite(allowed)
            error = torch.linalg.matrix_norm(verb(target, A, method) - want).item()
            assert error <= (allowed + 1e-12) * NORM**target.homogeneity
