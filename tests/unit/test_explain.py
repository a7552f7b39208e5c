"""explain: every verb and optimizer has a printable plan, which is the plan that runs; bad questions are refused."""

import pytest
import torch

import matfn
from matfn import QDWH, Exact, PolarExpress
from matfn.kernels.products import Eager
from matfn.run import explain as explaining
from matrices import gaussian, of_singular_values


@pytest.mark.parametrize("verb", explaining._VERBS)
@pytest.mark.parametrize("name", ["x86-avx2", "amd-avx512-bf16", "cuda-sm90"])
def test_every_verb_has_a_plan(verb, name, monkeypatch):
    monkeypatch.setenv("MATFN_MACHINE", name)
    p = 3 if verb in ("rootm", "inv_rootm") else None
    text = str(matfn.explain((160, 160), verb, p=p))
    assert name in text
    assert "160 x 160" in text
    assert all(len(line) <= 100 for line in text.splitlines())
    for label in ("machine", "method", "precision"):
        assert any(line.startswith(f"  {label} ") for line in text.splitlines()), label


def test_the_plan_is_the_one_that_runs():
    X = gaussian(40, 160, seed=1).float()
    plan = matfn.explain(X)
    given = {"method": plan.method, "engine": plan.engine, "precision": plan.precision, "products": plan.products}
    assert torch.equal(matfn.orthogonalize(X), matfn.orthogonalize(X, **given))


def test_the_products_are_counted():
    calls = []

    class Counting(Eager):
        def mm(self, A, B):
            calls.append(("mm", A.shape, B.shape))
            return super().mm(A, B)

        def addmm(self, C, A, B, *, alpha, beta):
            calls.append(("addmm", A.shape, B.shape))
            return super().addmm(C, A, B, alpha=alpha, beta=beta)

    products = Counting()
    X = gaussian(24, 60, seed=2).float()
    matfn.orthogonalize(X, products=products)
    made = list(calls)
    text = str(matfn.explain(X, products=products))
    flops = 2 * sum(a[-2] * a[-1] * b[-1] for _, a, b in made)
    assert f"{len(made)} products, {flops / 1e9:.3g} GFLOP" in text


def test_nothing_is_computed(monkeypatch):
    X = torch.full((8, 8), torch.nan)
    monkeypatch.setattr(Exact, "evaluate", lambda *args: pytest.fail("computed"))
    assert "Exact" in str(matfn.explain(X, "polar"))
    assert "1000000 x 1000000" in str(matfn.explain((10**6, 10**6), "polar"))


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        (((8, 8), "cholesky"), ValueError, "verb must be one of orthogonalize, .*got 'cholesky'"),
        (((8, 8), "inv_rootm"), ValueError, "inv_rootm needs its exponent"),
        (((8, 9), "sqrtm"), ValueError, "sqrtm takes square matrices"),
        (((8, 9), "shampoo"), ValueError, "shampoo takes the shape of a factor, .* got 8 x 9: .* 8 x 8 and 9 x 9"),
        (("768x3072",), ValueError, "takes a tensor or a shape such as"),
        (((8,),), ValueError, "takes a tensor or a shape such as"),
    ],
)
def test_bad_questions_are_refused(question, error, message):
    with pytest.raises(error, match=message):
        matfn.explain(*question)


def test_bad_options_are_refused():
    with pytest.raises(TypeError, match=r"takes method, engine, precision and products as options, got \['steps'\]"):
        matfn.explain((8, 8), steps=3)
    with pytest.raises(ValueError, match="polar has no exponent"):
        matfn.explain((8, 8), "polar", p=2)
    with pytest.raises(TypeError, match="dtype must be one of"):
        matfn.explain((8, 8), dtype=torch.int32)
    assert matfn.explain((8, 8), method=PolarExpress(steps=2)).iteration.steps == 2


@pytest.mark.parametrize("shape", [(512, 24), (24, 512)])
def test_the_singular_values_that_become_zero_are_told(shape):
    """Values on both sides of the printed one, by a factor that rounding (1e-7 of the largest) does not reach."""
    limit = float(str(matfn.explain(shape, method=QDWH())).split("singular values up to ")[1].split()[0])
    assert limit == pytest.approx(512 * torch.finfo(torch.float32).eps, rel=0.05)
    sigma = torch.ones(24, dtype=torch.float64)
    sigma[-2], sigma[-1] = 1.5 * limit, limit / 1.5
    A = of_singular_values(sigma, *shape, seed=3)[0].float()
    left = torch.linalg.svdvals(matfn.orthogonalize(A, method=QDWH()).double())
    assert (left[:-1] - 1).abs().max() <= 1e-4
    assert left[-1] <= 1e-4
    kept = QDWH(lower=1e-6)
    assert "become zero" not in str(matfn.explain(shape, method=kept))
    assert (torch.linalg.svdvals(matfn.orthogonalize(A, method=kept).double()) - 1).abs().max() <= 1e-4
    assert "become zero" not in str(matfn.explain(shape))


def test_the_default_of_polargrad_tells_the_singular_values_that_become_zero():
    assert "up to 0.006 of the largest" in str(matfn.explain((50304, 768), "polargrad"))


@pytest.mark.parametrize(("dtype", "working"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_the_singular_values_that_become_zero_follow_the_precision_of_the_factor(dtype, working):
    """The factor of a bfloat16 matrix is put on the range in float32."""
    told = str(matfn.explain((512, 24), method=QDWH(), dtype=dtype)).split("singular values up to ")[1]
    assert float(told.split()[0]) == pytest.approx(512 * torch.finfo(working).eps, rel=0.05)
