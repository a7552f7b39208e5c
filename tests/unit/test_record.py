"""Recorder: nothing changes, everything is kept, and what is kept is what was done."""

import copy
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import matfn
from matfn import (
    QDWH,
    Coupled,
    DBNewton,
    Direct,
    Exact,
    Gram,
    PolarExpress,
    Prism,
    Recorder,
    RitzMinimax,
    orthogonalize,
    polar,
    sqrtm,
)
from matfn.iteration.protocols import Fitted, Scheduled
from matfn.iteration.target import INV_ROOT, POLAR
from matfn.kernels import EAGER
from matrices import compiles, of_singular_values, spectrum

METHODS = {
    "budget": RitzMinimax(steps=4),
    "tolerance": RitzMinimax(tol=1e-6),
    "prism": Prism(),
    "polar express": PolarExpress(),
    "schedule": PolarExpress(steps=3).schedule(2),
    "fitted": QDWH(),
    "inverses": DBNewton(),
}
ADAPTIVE = ("budget", "tolerance", "prism")
CONDITIONS = (3.0, 30.0, 300.0)


def methods(*names):
    return pytest.mark.parametrize("method", [METHODS[n] for n in names or METHODS], ids=names or METHODS)


def batch(m=30, n=20, dtype=torch.float64):
    """Matrices of different spectra, which methods that look treat differently."""
    return torch.stack([of_singular_values(spectrum(min(m, n), c), m, n)[0] for c in CONDITIONS]).to(dtype)


def scaled_values(index, n=20):
    """The singular values of matrix `index` of the batch over its Frobenius norm."""
    sigma = spectrum(n, CONDITIONS[index])
    return sigma / sigma.norm()


class Operations(TorchDispatchMode):
    """Which operations are dispatched; a value that is read back is `_local_scalar_dense`."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(method):
    A = batch()
    orthogonalize(A, method=method)  # what is computed once and cached is none of it
    with Operations() as seen:
        orthogonalize(A, method=method)
    return [name for name in seen.names if name not in ("detach", "promote_types")]  # neither computes


@methods()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_verbs_return_the_same_bits(method, dtype):
    A = batch(dtype=dtype)
    method = RitzMinimax(tol=1e-4) if method == METHODS["tolerance"] else method  # 1e-6 is below float32
    verbs = (lambda m: orthogonalize(A, method=m), lambda m: polar(A, method=m).H, lambda m: sqrtm(A.mT @ A, method=m))
    for verb in verbs:
        recorder = Recorder(method)
        assert torch.equal(verb(recorder), verb(method))
        assert recorder.steps_taken >= 2


@methods(*ADAPTIVE, "polar express")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_returns_the_same_bits(method, dtype):
    method = RitzMinimax(tol=0.05) if method == METHODS["tolerance"] else method
    A = batch(dtype=dtype)
    assert torch.equal(orthogonalize(A, method=Recorder(method)), orthogonalize(A, method=method))


@methods(*ADAPTIVE, "polar express")
def test_engines_return_the_same_bits(method):
    A = batch()
    A = A / torch.linalg.matrix_norm(A, keepdim=True)
    S = A.mT @ A + 1e-3 * torch.eye(20, dtype=A.dtype)
    for engine, target, X in ((Direct(), POLAR, A), (Gram(), POLAR, A), (Coupled(), INV_ROOT.with_exponent(4), S)):
        recorder = Recorder(method)
        plain = method.schedule(target.p) if isinstance(method, Scheduled) else method
        recorded = recorder.schedule(target.p) if isinstance(recorder, Scheduled) else recorder
        expected = engine.run(target, X, plain, EAGER)
        assert torch.equal(engine.run(target, X, recorded, EAGER), expected)
        assert recorder.steps_taken > 1
        if not isinstance(engine, Gram):  # which restarts by the schedule
            assert torch.equal(engine.run(target, X, recorder, EAGER), expected)


def test_the_gradient_is_the_same():
    A = batch()
    gradients = []
    for method in (Prism(), Recorder(Prism())):
        X = A.clone().requires_grad_()
        orthogonalize(X, method=method).sum().backward()
        gradients.append(X.grad)
    assert torch.equal(*gradients)


@methods()
def test_it_has_the_abilities_of_its_method(method):
    for protocol in (Scheduled, Fitted):
        assert isinstance(Recorder(method), protocol) == isinstance(method, protocol)
    assert Recorder(method).precision(torch.bfloat16) == getattr(method, "precision", lambda half: half)(torch.bfloat16)


@methods(*ADAPTIVE, "polar express", "fitted")
def test_the_schedule_is_what_was_done(method):
    """The scalar map of the schedule, at singular values that are known beforehand, gives those of the result."""
    recorder = Recorder(method)
    U = orthogonalize(batch(), method=recorder)
    for index in range(len(CONDITIONS)):
        schedule = recorder.schedule_of(index)
        assert (schedule.p, schedule.steps) == (2, recorder.steps_taken)
        expected = schedule(scaled_values(index)).sort().values
        torch.testing.assert_close(torch.linalg.svdvals(U[index]).flip(0), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(orthogonalize(batch()[1], method=recorder.schedule_of(1)), U[1], rtol=0, atol=1e-12)


@methods(*ADAPTIVE)
def test_each_matrix_has_its_own(method):
    recorder = Recorder(method)
    orthogonalize(batch(), method=recorder)
    assert recorder.schedule_of(0).coefficients != recorder.schedule_of(2).coefficients
    assert recorder.schedule_of(-1).coefficients == recorder.schedule_of(2).coefficients


def test_roots():
    A = batch(20, 20)
    recorder = Recorder(RitzMinimax(steps=5))
    matfn.inv_rootm(A.mT @ A, 4, method=recorder)
    schedule, m = recorder.schedule_of(1), spectrum(20, CONDITIONS[1]) ** 2
    assert schedule.p == 4
    B = matfn.inv_rootm((A.mT @ A)[1], 4, method=Recorder(schedule))
    values = torch.linalg.eigvalsh(B)
    s = (m / m.norm()) ** 0.25
    torch.testing.assert_close(values, (schedule(s) / s / m.norm() ** 0.25).sort().values, rtol=1e-10, atol=0)


def test_the_norms_that_done_saw():
    """Before each step and after the last: ||I - M||_F from the known singular values and the recorded steps."""
    recorder = Recorder(RitzMinimax(tol=1e-6))
    orthogonalize(batch(), method=recorder)
    assert len(recorder.norms) == recorder.steps_taken + 1
    for index in range(len(CONDITIONS)):
        s = scaled_values(index)
        for norm, s in zip(recorder.norms, (s, *recorder.schedule_of(index).trace(s)), strict=True):  # noqa: B020
            torch.testing.assert_close(norm[index], (1 - s**2).norm(), rtol=1e-6, atol=1e-12)
    assert bool((recorder.norms[-1] <= 1e-6 * 20**0.5).all())
    assert bool((recorder.norms[-2] > 1e-6 * 20**0.5).any())


@methods("budget", "prism", "polar express")
def test_to_a_budget_nothing_is_read_and_nothing_computed(method):
    assert operations(Recorder(method)) == operations(method)
    assert "_local_scalar_dense" not in operations(Recorder(method))
    recorder = Recorder(method)
    orthogonalize(batch(), method=recorder)
    assert not recorder.norms


def test_to_a_tolerance_nothing_is_computed_twice():
    method = METHODS["tolerance"]
    assert "_local_scalar_dense" in operations(method)  # else the test above could not fail
    assert operations(Recorder(method)) == operations(method)


def test_a_call_forgets_the_one_before():
    recorder = Recorder(RitzMinimax(tol=1e-6))
    orthogonalize(batch(), method=recorder)
    steps = recorder.steps_taken
    orthogonalize(batch()[:1], method=recorder)
    assert recorder.steps_taken < steps
    assert len(recorder.norms) == recorder.steps_taken + 1
    assert all(step.coefficients[0].shape == (1, 1, 1) for step in recorder.taken)


def test_products_of_the_matrix_are_not_kept():
    recorder = Recorder(RitzMinimax())
    X = batch().requires_grad_()
    orthogonalize(X, method=recorder)
    assert all(not step.powers for step in recorder.taken)
    assert not any(c.requires_grad for step in recorder.taken for c in step.coefficients)


def test_gram_takes_a_replay_without_needless_restarts():
    """A flat spectrum in float64 needs none; the steps were made for an upper end far below 1."""
    A = batch(200, 20)[:1]
    recorder = Recorder(RitzMinimax(steps=4))
    orthogonalize(A, method=recorder)
    schedule = recorder.schedule_of()
    assert 0.3 < schedule.upper < 1
    assert matfn.engines.restarts.restarts_for(schedule, torch.float64) == ()


def test_nothing_was_run():
    recorder = Recorder(RitzMinimax())
    assert (recorder.steps_taken, recorder.taken, recorder.norms) == (0, (), [])
    with pytest.raises(RuntimeError, match=r"Recorder\(RitzMinimax.*has recorded nothing yet: pass it to a function"):
        recorder.schedule_of(0)


def test_no_step_was_needed():
    recorder = Recorder(RitzMinimax(tol=1e-6))
    orthogonalize(torch.tensor([[2.0]], dtype=torch.float64), method=recorder)
    assert (recorder.steps_taken, len(recorder.norms)) == (0, 1)
    with pytest.raises(RuntimeError, match="took no step"):
        recorder.schedule_of(0)


@pytest.mark.parametrize("index", [3, -4])
def test_no_such_matrix(index):
    recorder = Recorder(RitzMinimax())
    orthogonalize(batch(), method=recorder)
    with pytest.raises(IndexError, match=f"the last call had 3 matrices, got index={index}"):
        recorder.schedule_of(index)


def test_steps_that_hold_matrices():
    recorder = Recorder(DBNewton())
    sqrtm(batch(20, 20).mT @ batch(20, 20), method=recorder)
    assert recorder.steps_taken == len(recorder.taken) == 8
    with pytest.raises(TypeError, match=r"Inverting step holds a tensor of shape \(3, 20, 20\)"):
        recorder.schedule_of(0)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Exact(), r"Exact\(.*evaluates the function outright and takes no steps"),
        (RitzMinimax, r"got the class RitzMinimax: write RitzMinimax\(\)"),
        ("prism", r"got the text 'prism': write matfn.method\('prism'\)"),
        (None, "got None"),
        (3, "got 3"),
    ],
)
def test_what_is_no_iteration(method, message):
    with pytest.raises(TypeError, match=message):
        Recorder(method)


@methods()
def test_copies(method):
    recorder = Recorder(method)
    orthogonalize(batch(), method=recorder)
    for twin in (copy.copy(recorder), copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert type(twin) is type(recorder)
        assert (repr(twin), twin.steps_taken) == (repr(recorder), recorder.steps_taken)


def test_a_recorder_of_a_recorder():
    inner = Recorder(RitzMinimax(tol=1e-6))
    outer = Recorder(inner)
    orthogonalize(batch(), method=outer)
    assert inner.steps_taken == outer.steps_taken > 0
    assert len(inner.norms) == len(outer.norms) == inner.steps_taken + 1


@compiles
def test_one_graph_is_refused():
    torch._dynamo.reset()
    recorder = Recorder(RitzMinimax())
    whole = torch.compile(lambda X: orthogonalize(X, method=recorder), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="cannot be compiled: compile its method alone"):
        whole(batch())


def test_a_broken_graph_runs_as_usual():
    torch._dynamo.reset()
    recorder = Recorder(RitzMinimax(steps=4))
    parts = torch.compile(lambda X: orthogonalize(X, method=recorder), backend="eager")
    assert torch.equal(parts(batch()), orthogonalize(batch(), method=RitzMinimax(steps=4)))
    assert recorder.steps_taken == 4
