"""Device roots: Shampoo's roots as on a GPU: no host read, no decomposition, a verdict that is read one step later."""

import copy
import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from plain import gradient, parameter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from matfn import Exact, PolarExpress, certify
from matfn.optim import Cutting, Shampoo, minimax
from matfn.optim.matrices.layout import linear
from matfn.optim.rules import device_roots as device
from matfn.optim.rules import roots as rule
from matfn.optim.rules.device_roots import device_plan, device_roots, probes
from matfn.optim.rules.inverse_roots import inverse_roots, ridged
from matfn.run.plan import lower_bound
from matfn.run.root_method import ERROR, few_products

UNIT = 2.0**-24
RIDGE = 1e-6
DECOMPOSITIONS = ("eigh", "eigvals", "svd", "qr", "cholesky", "lu_factor", "inv_ex", "solve", "geqrf", "pinv")
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "item")


def short(p, lower):
    """A method that is refused: its steps do not reach small eigenvalues."""
    return PolarExpress(degree=3, steps=1, lower=0.9)


@pytest.fixture
def gpu(monkeypatch):
    """The way of a GPU, on CPU tensors."""
    for module in (device, rule):
        monkeypatch.setattr(module, "reads_free", lambda device: False)


class Waits(TorchDispatchMode):
    """Names of the operations that wait for a device, except reads of `allowed` tensors; and the count of all."""

    def __init__(self, allowed=lambda x: False):
        super().__init__()
        self.allowed, self.found, self.count = allowed, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        words = name.strip("_").split("_")
        read = name in READS and not self.allowed(args[0])
        masked = name in ("index", "index_put_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if read or masked or any(word in words or name.endswith(word) for word in DECOMPOSITIONS):
            self.found.append(name)
        self.count += not (func.is_view or name in ("_unsafe_view", "promote_types"))
        return func(*args, **(kwargs or {}))


def counter(x):
    """The optimizer counts steps in tensors on the host."""
    return x.ndim == 0 and x.dtype == torch.float32 and float(x.item()) == int(x.item())


def spectra(n, condition):
    """Factors in float64 ``(b, n, n)`` of norm 1: a decay, a gap, one large, one small, a power law and a low rank."""
    i = torch.arange(n, dtype=torch.float64)
    low = torch.tensor(1 / condition, dtype=torch.float64)
    half, large, small = torch.ones(n).double(), low.expand(n).clone(), torch.ones(n).double()
    half[n // 2 :], large[0], small[-1] = low, 1, low
    values = [low ** (i / (n - 1)), half, large, small, (i + 1) ** -1.5, (i < n // 3).double()]
    Q = torch.linalg.qr(torch.randn(len(values), n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64))
    A = (Q.Q * torch.stack(values)[:, None]) @ Q.Q.mT
    A = A / torch.linalg.matrix_norm(A, keepdim=True)
    return A / 2 + A.mT / 2


def on_device(A, p, ridge=RIDGE, method=few_products, tolerance=0.2, of_zero=1.0):
    last = torch.full_like(A, 7.0)
    plan = device_plan(A, p, ridge, method)
    assert plan is not None
    return device_roots(A, last, ridge, plan, tolerance, of_zero)


def exact(A, p, ridge):
    """The oracle on the very float32 factors, with X in float64."""
    X = A.double() + ridge * torch.linalg.matrix_norm(A.double(), keepdim=True) * torch.eye(A.shape[-1])
    values, V = torch.linalg.eigh(X)
    return (V * values.pow(-1 / p).unsqueeze(-2)) @ V.mT


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("p", [2, 4, 6])
@pytest.mark.parametrize("n", [24, 96])
def test_roots_are_within_the_schedule_and_one_rounding_of_the_factor(gpu, n, p, condition):
    """A rounding of the factor by one unit moves its least eigenvalue, the ridge, by unit / ridge, the root by 1/p."""
    A = spectra(n, condition).float()
    values, (residual, finite, zero) = on_device(A, p)
    want = exact(A, p, RIDGE)
    error = torch.linalg.matrix_norm(values.double() - want) / torch.linalg.matrix_norm(want)
    assert (error <= ERROR + UNIT / RIDGE / p).all()
    assert finite.all()
    assert not zero.any()
    assert (torch.linalg.eigvalsh(values.double() / 2 + values.mT.double() / 2) > 0).all()
    assert (residual <= 0.2).all()


@pytest.mark.parametrize("p", [2, 4, 6])
def test_the_figure_is_the_certified_residual_for_good_and_bad_roots(gpu, p):
    """Within the factor 2.2 that 16 random columns promise."""
    A = spectra(64, 1e5).float()
    for method in (few_products, lambda p, lower: PolarExpress(steps=3, lower=lower), short):
        values, (residual, *_) = on_device(A, p, method=method, tolerance=1e9)
        X, _ = ridged(A, RIDGE)
        scaled = values.double() * torch.linalg.matrix_norm(A.double(), keepdim=True) ** (1 / p)
        truth = certify(X, scaled, of="inv_root", p=p, only="balanced").residual
        seen = truth > 1e-5  # below, rounding in `scale.undo` counts
        assert ((residual / truth)[seen].log2().abs() <= 1.2).all()


@pytest.mark.parametrize("n", [6, 96, 1024])
def test_the_probes_estimate_norms_as_random_columns_do(n):
    """Of matrices of rank 1, the worst case: within a factor of 1.5 in 95 cases of 100, of 2.2 in 999 of 1000."""
    v = torch.randn(4000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = probes(n, torch.device("cpu"))
    ratio = (torch.linalg.vector_norm(v @ W, dim=-1) / 4 / torch.linalg.vector_norm(v, dim=-1)).log().abs()
    assert (ratio <= math.log(1.5)).double().mean() >= 0.95
    assert (ratio <= math.log(2.2)).double().mean() >= 0.999


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_every_scale_gives_the_same_root(gpu, scale):
    A = spectra(24, 1e6).float()
    one, other = on_device(A, 4)[0], on_device(A * scale, 4)[0]
    factor = torch.linalg.matrix_norm((A * scale).double()) / torch.linalg.matrix_norm(A.double())
    difference = torch.linalg.matrix_norm(other.double() * factor[:, None, None] ** 0.25 - one.double())
    # A * scale rounds every entry once, as above.
    assert (difference <= 2 * UNIT / RIDGE / 4 * torch.linalg.matrix_norm(one.double())).all()


@pytest.mark.parametrize("of_zero", [0.0, 1.0])
def test_zero_and_what_is_not_finite_leave_the_others_alone(gpu, of_zero):
    A = spectra(24, 1e4).float()
    alone = on_device(A, 4)[0]
    A[0], A[1, 3, 2], A[2, 0, 0] = 0, torch.nan, torch.inf
    values, figures = on_device(A, 4, of_zero=of_zero)
    assert torch.allclose(values[0], of_zero * torch.eye(24), rtol=0, atol=ERROR)
    assert of_zero or not values[0].any()
    assert torch.equal(values[1:3], torch.full((2, 24, 24), 7.0))
    assert torch.allclose(values[3:], alone[3:], rtol=1e-5)
    assert figures[1].tolist() == [1, 0, 0, 1, 1, 1]
    assert figures[2].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("p", [2, 4])
def test_nobody_waits_in_the_roots(gpu, p):
    """The launches for 64 x 256 and 16 x 1024 are those for any batch and size; see docs/gpu.md."""
    A = spectra(24, 1e4).float()
    plan = device_plan(A, p, RIDGE, few_products)
    last = torch.zeros_like(A)
    with Waits() as waits:
        device_roots(A, last, RIDGE, plan, 0.2, 1.0)
    assert waits.found == []
    assert waits.count <= {2: 111, 4: 116}[p]


@pytest.mark.parametrize(("b", "n"), [(64, 256), (16, 1024)])
@pytest.mark.parametrize(("p", "most"), [(2, 115), (4, 120)])
def test_the_default_on_cuda_reads_nothing(monkeypatch, b, n, p, most):
    """On fake CUDA tensors, which have no values: a host read raises."""
    launches = pytest.importorskip("launches")
    monkeypatch.setenv("MATFN_MACHINE", "cuda-sm90")
    with FakeTensorMode(), launches.Indexing():
        A = torch.empty(b, n, n, device="cuda")
        plan = device_plan(A, p, RIDGE, None)
        with launches.Launches() as found:
            values, figures = device_roots(A, A, RIDGE, plan, 0.2, 1.0)
    assert (values.shape, values.device.type, figures.shape) == ((b, n, n), "cuda", (3, b))
    assert found.total <= most


@pytest.mark.parametrize("root_every", [1, 100])
def test_a_step_on_cuda_reads_nothing(monkeypatch, root_every):
    """The third step, with two sizes of roots and without. The counters are on the host, and given here."""
    launches = pytest.importorskip("launches")
    monkeypatch.setenv("MATFN_MACHINE", "cuda-sm90")
    steps = 0
    monkeypatch.setattr(Shampoo, "age", lambda self, param: steps)
    monkeypatch.setattr(rule, "sent", lambda figures: (figures, None))
    monkeypatch.setattr(device.Verdict, "settle", lambda self: ([], [], []))
    with FakeTensorMode(), launches.Indexing():
        params = [torch.nn.Parameter(torch.empty(n, 768, device="cuda")) for n in (768,) * 8 + (3072,) * 2]
        optimizer = Shampoo(params, root_every=root_every, cutting=Cutting(block=1024))
        for param in params:
            param.grad = torch.empty_like(param)
        for _ in range(3):
            steps += 1
            optimizer.step()
    assert len(optimizer.chain[1]._open) == (2 if root_every == 1 else 0)


@pytest.mark.parametrize("graft", ["none", "sgd", "adam"])
def test_nobody_waits_in_a_step_with_roots(gpu, graft):
    params = [parameter(linear(shape), torch.float32) for shape in ((6, 4), (4, 6), (8, 3))]
    optimizer = Shampoo(params, root_every=3, graft=graft, method=few_products)
    for t in range(1, 9):
        before = [value.clone() for p in params for key, value in optimizer.state[p].items() if key.startswith("roots")]
        for p in params:
            p.grad = gradient(p.detach(), t).float()
        with Waits(counter) as waits:
            optimizer.step()
        after = [value for p in params for key, value in optimizer.state[p].items() if key.startswith("roots")]
        if t > 1:
            assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == (
                t in (2, 3, 4, 7)[2 * (graft != "none") :]
            )
            assert waits.found == []


def test_the_verdict_of_a_host_read_would_be_seen():
    """The mode finds what the way of a CPU does."""
    A = spectra(8, 1e4).float()
    with Waits() as waits:
        inverse_roots(A, 4, RIDGE, minimax, 0.2)
    assert {"_local_scalar_dense", "linalg_cholesky_ex"} <= set(waits.found)


def trained(optimizer, param, steps, first=1):
    for t in range(first, first + steps):
        param.grad = gradient(param.detach(), t).float()
        optimizer.step()
    return param.detach().clone()


def test_sound_roots_are_those_of_a_cpu(monkeypatch):
    """The same products on the same numbers: the weights are equal bit for bit."""
    ends = []
    for forced in (False, True):
        param = parameter(linear((9, 7)), torch.float32)
        optimizer = Shampoo([param], root_every=3, method=minimax, cutting=Cutting(block=5))
        for module in (device, rule) if forced else ():
            monkeypatch.setattr(module, "reads_free", lambda device: False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ends.append(trained(optimizer, param, 12))
    assert torch.equal(*ends)


@pytest.mark.filterwarnings("ignore:Shampoo")  # of the other side
def test_a_refused_root_stays_for_one_step_and_is_computed_again_in_the_next(gpu):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([("w", param)], root_every=4, method=few_products)
    trained(optimizer, param, 4)
    state = optimizer.state[param]
    held = state["roots_2x6"].clone()
    optimizer.chain[1].method = short
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(optimizer, param, 1, first=5)
    assert torch.equal(state["roots_2x6"], held)
    factors = state["factors_2x6"].clone()
    with pytest.warns(RuntimeWarning, match=r"'w', block .*, side 0 was computed again in float64: its res"):
        trained(optimizer, param, 1, first=6)
    want = inverse_roots(factors / (1 - 0.99**5), 4, RIDGE, Exact(), 0.2).values
    torch.testing.assert_close(state["roots_2x6"], want, rtol=1e-5, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(optimizer, param, 2, first=7)


def test_a_root_that_does_not_exist_keeps_its_last_value(gpu):
    """Without a ridge a factor of low rank has no root: products diverge or stay short, and `Exact` refuses."""
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([("w", param)], root_every=3, beta2=0.5, method=few_products)
    trained(optimizer, param, 3)
    held = optimizer.state[param]["roots_2x6"].clone()
    optimizer.param_groups[0]["ridge"] = 0.0
    optimizer.chain[1].method = lambda p, lower: PolarExpress(steps=20, lower=1e-3)
    optimizer.state[param]["factors_2x6"].copy_(torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, -0.1])))
    param.grad = torch.zeros_like(param)
    optimizer.step()
    with pytest.warns(RuntimeWarning, match="side 0 keeps its last value: .*the smallest eigenvalue"):
        optimizer.state_dict()
    assert torch.equal(optimizer.state[param]["roots_2x6"], held)


def test_the_first_roots_are_looked_at_at_once(gpu):
    """They have no last value, and without a graft the identity would move the weights by the gradient itself."""
    results = []
    for method in (short, lambda p, lower: Exact()):
        param = parameter(linear((6, 5)), torch.float32)
        optimizer = Shampoo([param], graft="none", root_every=5, method=method)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(trained(optimizer, param, 1))
        assert bool(caught) == (method is short)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("saved", [4, 5, 6])
@pytest.mark.parametrize("way", ["state dict", "copy"])
@pytest.mark.filterwarnings("ignore:Shampoo")
def test_a_resumed_run_equals_an_uninterrupted_one(gpu, saved, way):
    """Every root is refused. Roots are due at the steps 1 and 5; to save settles them, to go on settles them too."""

    def make():
        param = parameter(linear((6, 5)), torch.float32)
        return param, Shampoo([param], root_every=4, method=short)

    whole, optimizer = make()
    trained(optimizer, whole, 10)
    first, optimizer = make()
    trained(optimizer, first, saved)
    if way == "copy":
        (second, resumed), later = copy.deepcopy((first, optimizer)), None
    else:
        later = copy.deepcopy(optimizer.state_dict())
        second, resumed = make()
        second.data.copy_(first)
        resumed.load_state_dict(later)
    for param, other in ((first, optimizer), (second, resumed)):
        assert torch.equal(trained(other, param, 10 - saved, first=saved + 1), whole)


def test_loading_a_state_ends_what_was_under_way(gpu):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], root_every=4, method=few_products)
    trained(optimizer, param, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.chain[1].method = short
    trained(optimizer, param, 1, first=5)
    with pytest.warns(RuntimeWarning, match="computed again"):
        optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[param]["roots_2x6"], saved["state"][0]["roots_2x6"])
    assert optimizer.chain[1]._open == ()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("graft", ["none", "sgd", "adam"])
def test_a_gradient_that_is_not_finite_shows_in_the_weights_and_not_in_the_roots(gpu, graft, bad):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], graft=graft, root_every=1, method=few_products)
    for t in range(1, 4):
        param.grad = gradient(torch.zeros(6, 5), t).float()
        if t == 2:
            param.grad[0, 0] = bad
        optimizer.step()
        assert bool(torch.isfinite(param).all()) == (t < 2)
    roots = [value for key, value in optimizer.state[param].items() if key.startswith("roots")]
    assert all(torch.isfinite(value).all() for value in roots)


@pytest.mark.parametrize("graft", ["none", "adam"])
def test_lost_squares_are_named_and_true_zeros_are_not(gpu, graft):
    param = parameter(linear((6, 5)), torch.float32)
    optimizer = Shampoo([param], graft=graft, cutting=Cutting(block=2), root_every=2, method=few_products)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(1, 4):
            param.grad = (gradient(torch.zeros(6, 5), t) * 1e-30).float()
            param.grad[:2] = 0
            optimizer.step()
        optimizer.state_dict()
    said = [str(warning.message) for warning in caught]
    assert said
    assert all(f"is {'zero' if graft == 'none' else 'the identity'}: the gradients are not" in text for text in said)
    assert any("block [2:4, 0:" in text for text in said)
    assert not any("block [0:2" in text for text in said)


@pytest.mark.parametrize("method", [None, Exact(), lambda p, lower: Exact()])
def test_decompositions_are_read_at_once(gpu, method):
    """On a CPU the default for small factors is `Exact`, which waits for a device anyway."""
    assert device_plan(torch.eye(8)[None], 4, RIDGE, method) is None


def test_high_degrees_stand_at_the_end_because_float32_does_not_bear_them_at_the_start(gpu):
    """What the docstring of `few_products` says, so that nobody takes (9, 9, 9, 9), which has fewer products."""
    A = spectra(24, 1e8).float()
    residuals = [
        on_device(A, 4, method=method)[1][0].max().item()
        for method in (
            few_products,
            lambda p, lower: PolarExpress((9, 9, 9, 9), lower=lower, cushion=0.0, safety=1.0001),
        )
    ]
    assert residuals[0] <= 0.05
    assert residuals[1] >= 0.2


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("ridge", [1e-6, 1e-3])
def test_the_composition_with_the_fewest_products(p, ridge):
    lower = lower_bound(p, ridge, 300)
    method = few_products(p, lower)
    schedule = method.schedule(p)
    assert schedule.error() < ERROR
    assert 0.9 * lower <= schedule.lower <= lower

    def products(degrees):
        own = {3: 0, 5: 1, 9: 2}
        powers = {1: 0, 2: 1, 3: 2, 4: 3, 6: 4}[p]  # Y q^(p-1)
        later = sum(2 + own[d] for d in degrees[1:])
        return own[degrees[0]] + later + powers * (len(degrees) - 1)

    quintics = next(
        steps
        for steps in range(2, 20)
        if PolarExpress(steps=steps, lower=lower, cushion=0.0).schedule(p).error() < ERROR
    )
    assert products(method.degree) <= products((5,) * quintics)
    if ridge == 1e-6 and p in (2, 4):
        assert products(method.degree) == {2: 22, 4: 26}[p]
    with pytest.raises(ValueError, match="lower must be in"):
        few_products(p, 0.0)


def test_no_verdict_is_read_in_a_capture(monkeypatch):
    optimizer = Shampoo([parameter(linear((4, 4)))], lr=0.1)
    roots = optimizer.chain[1]
    waiting = (SimpleNamespace(arrived=object()),)
    roots._open = waiting
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="before the capture"):
        roots.settle()
    assert roots._open is waiting
