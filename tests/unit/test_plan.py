"""The run plan: the method, engine, precision and products for each machine and purpose, and that it is run."""

import pytest
import torch

import matfn
from matfn import Coupled, Direct, Exact, Gram, PolarExpress
from matfn.engines import gram_error
from matfn.engines.cost import products_of
from matfn.iteration.target import INV_ROOT, ORTHOGONALIZE, POLAR, SIGN
from matfn.kernels import EAGER, ONEDNN, Blocked
from matfn.methods.resolvents import resolvents
from matfn.run.plan import DEFLATED, LIFTED, THINLY, Purpose, lower_bound, resolve
from matrices import gaussian

CPU = torch.device("cpu")
BUDGET = PolarExpress()
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


@pytest.fixture
def on(monkeypatch):
    """Force the profile of a machine."""
    return lambda name: monkeypatch.setenv("MATFN_MACHINE", name)


def reason(plan, what):
    return dict(plan.reasons)[what]


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (100, 200)], ids=str)
def test_gram_for_rectangles_in_float32(shape):
    plan = resolve(POLAR, None, shape, F32, CPU)
    assert isinstance(plan.engine, Gram)
    assert gram_error(BUDGET.schedule(2), plan.engine.restarts, F32) <= 0.01
    schedule = BUDGET.schedule(2)
    count = {e: sum(p.multiply_adds for p in products_of(schedule, e, shape)) for e in (plan.engine, Direct())}
    assert count[plan.engine] < count[Direct()]
    assert "fewer multiply-adds" in reason(plan, "engine")


@pytest.mark.parametrize(
    ("method", "shape", "dtype", "why"),
    [
        (BUDGET, (64, 64), F32, "square"),
        (BUDGET, (64, 256), F64, "digits"),
        (BUDGET, (64, 256), BF16, "rounding"),
        (PolarExpress(steps=12), (64, 256), F32, "rounding"),  # converges to the last digit
        (matfn.Prism(), (64, 256), F32, "looks at each M"),
        (matfn.QDWH(), (64, 256), F32, "rational"),
    ],
    ids=["square", "float64", "bfloat16", "accurate", "no schedule", "no polynomials"],
)
def test_direct_otherwise(on, method, shape, dtype, why):
    on("amd-avx512-bf16")
    plan = resolve(POLAR, method, shape, dtype, CPU)
    assert plan.engine == Direct()
    assert why in reason(plan, "engine")


def test_the_target_decides_where_there_is_no_choice():
    assert resolve(SIGN, BUDGET, (8, 8), F32, CPU).engine == Direct()
    assert resolve(INV_ROOT.with_exponent(4), BUDGET, (8, 8), F32, CPU).engine == Coupled()
    assert resolve(POLAR, BUDGET, (64, 256), F32, CPU, purpose=Purpose.DIGITS).engine == Direct()


def test_orthogonalize_does_as_planned():
    X = gaussian(40, 160, seed=1).float()
    plan = resolve(ORTHOGONALIZE, None, (40, 160), F32, CPU)
    U = matfn.orthogonalize(X)
    assert torch.equal(U, matfn.orthogonalize(X, engine=plan.engine))
    assert not torch.equal(U, matfn.orthogonalize(X, engine=Direct()))
    exact = matfn.orthogonalize(X.double(), engine=Direct())
    # The model of rounding is for singular values down to 1e-10: these are 1e-1 and more.
    assert torch.linalg.matrix_norm(U.double() - exact, 2) <= 1e-4


def test_verbs_that_promise_digits_stay_direct():
    X, method = gaussian(40, 160, seed=2).float(), PolarExpress(steps=5)
    assert torch.equal(matfn.polar(X, method=method).U, matfn.orthogonalize(X, method=method, engine=Direct()))


STEP = [
    ("amd-avx512-bf16", (768, 768), THINLY, Direct(), BF16),
    ("amd-avx512-bf16", (768, 1024), THINLY, Direct(), BF16),
    ("amd-avx512-bf16", (768, 1152), THINLY, Gram(()), BF16),
    ("amd-avx512-bf16", (3072, 511), DEFLATED, Gram(()), BF16),
    ("amd-avx512-bf16", (3072, 128), DEFLATED, Gram(()), BF16),
    ("amd-avx512-bf16", (3072, 127), LIFTED, Gram((2, 4)), BF16),
    ("amd-avx512-bf16", (64, 64), LIFTED, Direct(), BF16),
    ("amd-avx512-bf16", (512, 47), LIFTED, Gram((2, 4)), F32),  # small products are quicker in float32
    ("x86-avx2", (768, 3072), THINLY, Gram(()), F32),
    ("x86-avx2", (64, 64), LIFTED, Direct(), F32),
    ("cuda-sm80", (768, 3072), THINLY, Gram(()), F16),
    ("cuda-sm90", (768, 768), THINLY, Direct(), F16),
    ("cuda-sm100", (128, 768), DEFLATED, Gram(()), F16),
    ("cuda-sm90", (64, 256), LIFTED, Gram((2,)), F16),
    ("cuda-sm90", (64, 64), LIFTED, Direct(), F16),
]


@pytest.mark.parametrize(("name", "shape", "method", "engine", "precision"), STEP, ids=str)
def test_the_default_of_a_step(on, name, shape, method, engine, precision):
    on(name)
    plan = resolve(POLAR, None, shape, F32, CPU, purpose=Purpose.STEP)
    assert (plan.method, plan.engine, plan.precision) == (method, engine, precision)
    assert all(text for _, text in plan.reasons)


def test_a_step_iterates_in_bfloat16_only_where_the_method_and_the_momentum_allow(on):
    on("amd-avx512-bf16")
    for method, dtype, precision in ((BUDGET, F32, BF16), (BUDGET, F64, F64), (matfn.QDWH(), F32, F32)):
        assert resolve(POLAR, method, (64, 64), dtype, CPU, purpose=Purpose.STEP).precision == precision
    assert resolve(POLAR, BUDGET, (8, 8), F32, CPU, purpose=Purpose.STEP, precision=F32).precision == F32
    for rows, precision in ((47, F32), (48, BF16)):
        assert resolve(POLAR, None, (rows, 1000), F32, CPU, purpose=Purpose.STEP).precision == precision


@pytest.mark.parametrize(
    ("name", "dtype", "precision"),
    [
        ("x86-avx2", F16, F32),
        ("x86-avx2", BF16, F32),
        ("amd-avx512-bf16", BF16, BF16),
        ("amd-avx512-bf16", F16, F32),
        ("cuda-sm90", F16, F16),
        ("x86-avx2", F64, F64),
    ],
)
def test_half_precision_that_is_slow_is_computed_in_float32(on, name, dtype, precision):
    on(name)
    assert resolve(ORTHOGONALIZE, None, (8, 24), dtype, CPU).precision == precision
    X = gaussian(8, 24, seed=3).to(dtype)
    U = matfn.orthogonalize(X)
    assert U.dtype == dtype
    assert torch.equal(U, matfn.orthogonalize(X, precision=precision))


def test_products_by_machine_size_and_dtype(on):
    def of(rows, dtype=F32, method=BUDGET, target=POLAR, **more):
        return resolve(target, method, (rows, 1024), dtype, CPU, **more)

    on("amd-avx512-bf16")
    assert of(768).products == Blocked(192, ONEDNN)
    assert of(200).products is ONEDNN
    assert of(191).products is EAGER
    assert of(768, F64).products == Blocked(64)
    assert of(384).products == Blocked(192, ONEDNN)  # two block rows just fit
    assert of(383).products is ONEDNN
    assert of(768, BF16).products == Blocked(256)
    assert of(768, differentiated=True).products is EAGER
    assert of(768, products=EAGER).wide is EAGER  # given products are for the preparation too
    root = resolve(INV_ROOT.with_exponent(2), BUDGET, (768, 768), F32, CPU)
    assert root.products is ONEDNN
    assert "not stable with mirrored" in reason(root, "products")
    on("x86-avx2")
    assert of(768).products == Blocked(96)
    assert "96" in reason(of(768), "products")
    on("cuda-sm90")
    assert of(768, F16).products is EAGER


def test_roots_of_shampoo(on):
    def root(n, p=4, ridge=1e-6, dtype=F32):
        return resolve(INV_ROOT.with_exponent(p), None, (n, n), dtype, CPU, purpose=Purpose.STEP, ridge=ridge)

    on("amd-avx512-bf16")
    assert root(256).method == resolvents(4, lower_bound(4, 1e-6, 256))
    assert root(256).method.products is root(256).products
    assert "4 resolvents" in reason(root(256), "method")
    for plan, why in (
        (root(8), "8 rows are below"),
        (root(256, ridge=0.0), "ridge of 0"),
        (root(256, dtype=F64), "64"),
    ):
        assert plan.method == Exact()
        assert why in reason(plan, "method")
    on("cuda-sm90")
    for n, p, degrees in ((256, 4, (5, 5, 5, 5, 9)), (8, 4, (5, 5, 5, 5, 9)), (1024, 2, (5, 5, 5, 5, 5, 9))):
        plan = root(n, p)
        assert plan.method.degree == degrees
        assert plan.iteration.error() < 1e-4
        assert plan.precision == F32  # never the half precision of a polar factor's step
        assert "products alone" in reason(plan, "method")
    assert root(256, ridge=0.0).method == root(256, dtype=F64).method == Exact()


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match=r"inv_rootm \(p = 4\): deflation shrinks singular values"):
        resolve(INV_ROOT.with_exponent(4), DEFLATED, (8, 8), F32, CPU)
    with pytest.raises(ValueError, match="deflation turns the result"):
        matfn.polar(gaussian(40, 40), method=DEFLATED)
    with pytest.raises(ValueError, match="has no use for precision"):
        resolve(POLAR, Exact(), (8, 8), F32, CPU, precision=F32)
    with pytest.raises(ValueError, match=r"computes polar, not sign"):
        resolve(SIGN, BUDGET, (8, 8), F32, CPU, engine=Gram())


def test_a_plan_is_resolved_once():
    assert resolve(POLAR, None, (8, 8), F32, CPU) is resolve(POLAR, None, (8, 8), F32, CPU)
    assert resolve(ORTHOGONALIZE, None, (8, 8), F32, CPU).target.verb == "orthogonalize"  # equal targets, two names
    recorder = matfn.Recorder(BUDGET)
    assert resolve(POLAR, recorder, (8, 8), F32, CPU) is not resolve(POLAR, recorder, (8, 8), F32, CPU)


class Unhashable(list):
    """A caller's own method that is no frozen value."""

    def schedule(self, p=2):
        return BUDGET.schedule(p)


def test_methods_that_cannot_be_hashed_are_planned_too():
    X = gaussian(8, 24).float()
    assert torch.equal(matfn.orthogonalize(X, method=Unhashable()), matfn.orthogonalize(X, method=BUDGET.schedule(2)))
