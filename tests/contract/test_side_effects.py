"""A function of a matrix changes nothing but its result: no argument, no gradient, no global state."""

import pickle
from dataclasses import replace

import pytest
import torch

import matfn
from loops import named
from matfn.iteration.target import INV, POLAR
from matrices import compute, gaussian

from . import cases
from .problems import problem, verb

DTYPES = [torch.bfloat16, torch.float32, torch.float64]


def global_state():
    """Everything a numerical routine might be tempted to set."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cuda tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "bf16 reduction": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random state": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
    }


@cases.every_function
def test_the_argument_and_its_gradient_are_untouched(method, target):
    for dtype in DTYPES:
        A = problem(target, condition=3.0)[0].to(dtype)
        A = ((A + A.mT) / 2 if target != POLAR else A).requires_grad_()
        A.grad = torch.ones_like(A)
        bits, version, gradient = A.detach().clone(), A._version, A.grad
        with named(dtype):
            result = verb(target, A, method)
            assert torch.equal(A.detach(), bits)
            assert A._version == version
            assert A.grad is gradient
            assert torch.equal(gradient, torch.ones_like(gradient))
            assert A.requires_grad
            assert result.untyped_storage().data_ptr() != A.untyped_storage().data_ptr(), "the result is the argument"


@cases.every_function
def test_the_result_is_new_even_where_there_is_nothing_to_do(method, target):
    """One number, the identity, an empty matrix: writing into the result must not reach the argument."""
    for A in (torch.ones(1, 1), torch.eye(3), torch.eye(3).expand(2, 3, 3).contiguous()):
        before = A.clone()
        verb(target, A, method).fill_(7.0)
        assert torch.equal(A, before)


@cases.every_function
def test_global_state_is_neither_changed_nor_read(method, target):
    A = problem(target)[0].float()
    A = (A + A.mT) / 2 if target != POLAR else A
    before = global_state()
    want = verb(target, A, method)
    assert global_state() == before
    with torch.inference_mode():
        assert torch.equal(verb(target, A, method), want)
    assert not want.requires_grad
    torch.set_default_dtype(torch.float64)
    try:
        result = verb(target, A, method)
    finally:
        torch.set_default_dtype(before["default dtype"])
    assert result.dtype == torch.float32
    assert torch.equal(result, want)


@cases.every_orthogonalization
def test_autograd_runs_unless_switched_off(method, engine):
    """grad mode is the caller's: with it there is a gradient, of the right value; without it there is no graph."""
    A = gaussian(3, 4, seed=8).requires_grad_()
    with torch.no_grad():
        assert not matfn.orthogonalize(A, method=method, engine=engine).requires_grad
    assert torch.autograd.gradcheck(
        lambda X: matfn.orthogonalize(X, method=method, engine=engine),
        A,
        eps=1e-6,
        atol=1e-4,
        rtol=1e-4,
        fast_mode=True,
    )


@cases.every_iterated_function
def test_autograd_through_an_iteration(method, target):
    """The derivative of the approximation itself; the verbs give that of the function, see below."""
    A = problem(target, (4, 4), condition=3.0)[0].requires_grad_()

    def iterate(X):
        return compute(target, X if target in (POLAR, INV) else (X + X.mT) / 2, method)

    assert torch.autograd.gradcheck(iterate, A, eps=1e-6, atol=1e-3, rtol=1e-3, fast_mode=True)


@cases.every_function
def test_the_gradient_of_a_verb_is_that_of_the_function(method, target):
    """Every method has the gradient of `Exact`, to the last bit: it depends on the argument alone."""
    A, gradients = problem(target, condition=3.0)[0].requires_grad_(), []
    for how in (method, matfn.Exact()):
        result = matfn.polar(A, method=how).U if target == POLAR else verb(target, A, how)
        gradients += torch.autograd.grad(result, A, gaussian(*result.shape, seed=9))
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0.01


@cases.every_iterated_orthogonalization
def test_no_value_is_read_back(method, engine):
    """On the meta device there are no values: what runs there asks for none, so it cannot wait for a GPU.

    A decomposition looks at the spectrum.
    """
    if hasattr(method, "steps"):
        method = replace(method, steps=2)  # each does the same as the last, and takes long on this device
    for shape in [(5, 8), (2, 8, 5)]:
        U = matfn.orthogonalize(torch.empty(shape, device="meta"), method=method, engine=engine)
        assert U.shape == shape
        assert U.device.type == "meta"


@cases.every_method
def test_a_method_is_a_value(method):
    """Frozen, hashable, equal to its copy, printable, picklable."""
    copy = pickle.loads(pickle.dumps(method))
    assert copy == method
    assert hash(copy) == hash(method)
    assert type(method).__name__ in repr(method)
    name = next(iter(method.__dataclass_fields__), "steps")
    with pytest.raises(AttributeError):
        setattr(method, name, 1)
    A = gaussian(3, 5)
    assert torch.equal(matfn.orthogonalize(A, method=copy), matfn.orthogonalize(A, method=method))


@pytest.mark.parametrize("engine", cases.ENGINE.values(), ids=cases.ENGINE)
def test_an_engine_is_a_value(engine):
    assert pickle.loads(pickle.dumps(engine)) == engine
    assert hash(engine) == hash(pickle.loads(pickle.dumps(engine)))
    assert type(engine).__name__ in repr(engine)
    with pytest.raises(AttributeError):
        engine.restarts = ()
