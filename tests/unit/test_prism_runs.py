"""PRISM where it runs: sketches and generators, compiled graphs, half precision, degenerate matrices, arguments."""

import math

import pytest
import torch

import matfn
from matfn import Prism
from matfn.iteration.residual import Residual
from matfn.methods.prism.family import family
from matfn.methods.prism.fit import blocks, least, moments
from matrices import gaussian, generator, orthogonal


def test_a_sketch_is_normal_and_independent_from_draw_to_draw():
    """Moments and correlations of 16 draws of 256 x 8 entries, each within 4.5 standard errors."""
    M = torch.eye(256, dtype=torch.float64)[None]
    S = torch.stack([Residual(M, 2).sketch(8, k) for k in range(16)]) * 8**0.5
    count = S.numel()
    assert abs(S.mean()) <= 4.5 / count**0.5
    assert abs(S.square().mean() - 1) <= 4.5 * (2 / count) ** 0.5
    assert abs(S.pow(3).mean()) <= 4.5 * (15 / count) ** 0.5
    assert abs(S.pow(4).mean() - 3) <= 4.5 * (96 / count) ** 0.5
    assert abs((S[1:] * S[:-1]).mean()) <= 4.5 / count**0.5
    assert abs((S[:, 1:] * S[:, :-1]).mean()) <= 4.5 / count**0.5
    assert abs((S[:, :, 1:] * S[:, :, :-1]).mean()) <= 4.5 / count**0.5
    assert len(S.flatten().unique()) >= count - 3  # 2^32 values and 32768 entries: 0.1 coincidences


def test_keys_choose_the_sketch_wherever_they_come_from():
    M = torch.eye(5)[None]
    for key in (0, 7, 2**32 - 1):
        S = Residual(M, 2, key).sketch(3, 2)
        assert S.dtype == torch.float32
        assert torch.equal(S, Residual(M, 2, torch.tensor(key)).sketch(3, 2))
        assert not torch.equal(S, Residual(M, 2, key + 1 if key < 9 else 1).sketch(3, 2))
        assert not torch.equal(S, Residual(M, 2, key).sketch(3, 3))
    assert torch.equal(Residual(M.double(), 2).sketch(3, 0).float(), Residual(M, 2).sketch(3, 0))


def test_every_verb_takes_a_generator():
    A = orthogonal(6) + 0.2 * gaussian(6, 6)
    P = A @ A.mT
    method, verbs = Prism(steps=3), [
        lambda g: matfn.orthogonalize(A, method=method, generator=g),
        lambda g: matfn.polar(A, method=method, generator=g).U,
        lambda g: matfn.signm(P, method=method, generator=g),
        lambda g: matfn.sqrtm(P, method=method, generator=g),
        lambda g: matfn.inv_sqrtm(P, method=method, generator=g),
        lambda g: matfn.inv_rootm(P, 3, method=method, generator=g),
        lambda g: matfn.rootm(P, 3, method=method, generator=g),
        lambda g: matfn.inv(A, method=method, generator=g),
    ]  # fmt: skip
    for verb in verbs:
        one, same, other = (verb(generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_a_fixed_draw_is_one_sketch_and_a_fresh_one_is_not():
    residual = Residual(gaussian(1, 9, 9) @ gaussian(1, 9, 9).mT / 40, 2)
    fixed, fresh = Prism(draw="fixed"), Prism()
    assert torch.equal(fixed.step(1, residual).coefficients[0], fixed.step(4, residual).coefficients[0])
    assert not torch.equal(fresh.step(1, residual).coefficients[0], fresh.step(4, residual).coefficients[0])
    assert torch.equal(fresh.step(0, residual).coefficients[0], fixed.step(3, residual).coefficients[0])


def test_each_matrix_of_a_batch_has_its_own_coefficient():
    M = torch.stack([c * torch.eye(8, dtype=torch.float64) for c in (0.9, 0.4, 0.0)])
    c = Prism(sketch="exact").step(0, Residual(M, 2)).coefficients[2]
    assert c.shape == (3, 1, 1)
    assert c[0] != c[1]
    assert c[2].item() == pytest.approx(29 / 20)  # a flat loss takes the upper end


ONE_GRAPH = [Prism(steps=2), Prism(steps=2, sketch="exact"), Prism(3, steps=2)]


@pytest.mark.parametrize("method", ONE_GRAPH, ids=str)
def test_one_graph(method):
    """No break and no read from the device under `torch.compile`; the same result as without."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda X: matfn.orthogonalize(X, method=method), backend="aot_eager", fullgraph=True, dynamic=False
    )
    A = gaussian(2, 6, 9, dtype=torch.float32)
    with torch.no_grad():
        assert (compiled(A) - matfn.orthogonalize(A, method=method)).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_iterates_with_a_fit_in_float32(dtype):
    """6.7: rms 3e-3 after five steps on a Gaussian 256 x 128 in bfloat16, and it stays there; less in float16."""
    A = gaussian(256, 128, seed=3)
    for steps in (5, 8, 12):
        U = matfn.orthogonalize(A, method=Prism(steps=steps), precision=dtype)
        error = (torch.eye(128) - U.mT @ U).norm() / 128**0.5
        assert error <= (6e-3 if dtype == torch.bfloat16 else 1e-3), steps
    X = A.to(dtype) / A.norm()
    c = Prism().step(0, Residual((X.mT @ X)[None], 2)).coefficients
    assert c[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "method", [Prism(), Prism(sketch="exact"), Prism(degree=7), Prism(degree=3, sketch=1)], ids=str
)
def test_degenerate_matrices(method, dtype):
    """A zero matrix, one number, the identity, ones: finite and right; a NaN stays with its matrix."""
    zero, one = torch.zeros(1, 4, 4, dtype=dtype), torch.eye(4, dtype=dtype)[None]
    nan = torch.full((1, 4, 4), math.nan, dtype=dtype)
    U = matfn.orthogonalize(torch.cat([zero, one, nan]), method=method)
    assert torch.equal(U[0], zero[0])
    assert (U[1] - one[0]).abs().max() <= 0.02 if dtype in (torch.bfloat16, torch.float16) else 1e-3
    assert U[2].isnan().all()
    ones = matfn.orthogonalize(torch.ones(3, 5, dtype=dtype), method=method)
    assert torch.isfinite(ones).all()


@pytest.mark.parametrize("r", [0.0, 1e-20, 1e-7, 1e-3, 1.0])
@pytest.mark.parametrize("p", [1, 2, 4, 8])
def test_the_fit_is_never_nan(p, r):
    for dtype in (torch.float32, torch.float64):
        m = torch.full((1, 3, 1), 1.0, dtype=dtype) - r
        for d in (1, 2, 3):
            of = family(p, d)
            low, high = of.interval
            a = least(moments(blocks(lambda W, m=m: m * W, torch.ones(1, 3, 1, dtype=dtype), of)), low, high)
            assert low - 1e-6 <= a.item() <= high + 1e-6


@pytest.mark.parametrize(("p", "d"), [(1, 1), (1, 3), (2, 3), (3, 2), (4, 1), (4, 2), (8, 1), (8, 2)])
def test_intervals_beyond_the_paper_are_safe(p, d):
    """From 500 random spectra, any choice in the interval keeps residuals at most 1 and drives nothing out."""
    of = family(p, d)
    low, high = of.interval
    assert low == pytest.approx(math.prod((1 / p + i) / (i + 1) for i in range(d)))
    draw = generator(p + 10 * d)
    m = torch.rand(500, 10, generator=draw, dtype=torch.float64) ** 3
    step = lambda m, a: sum((c + a * x) * m**i for i, (c, x) in enumerate(zip(of.fixed, of.free, strict=True)))  # noqa: E731
    for _ in range(10):
        a = low + (high - low) * torch.rand(500, 1, generator=draw, dtype=torch.float64)
        m = m * step(m, a) ** p
        assert (1 - m).max() <= 1
        assert torch.isfinite(m).all()
    assert m.max() <= 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"degree": 4}, "degree must be an odd integer"),
        ({"steps": 0}, "steps must be an integer"),
        ({"sketch": 0}, "sketch must be a number of columns"),
        ({"sketch": True}, "sketch must be a number of columns"),
        ({"sketch": "all"}, "sketch must be a number of columns"),
        ({"draw": "once"}, "draw must be"),
        ({"warm": -1}, "warm must be"),
        ({"interval": (1.0, 0.5)}, "interval must be"),
        ({"interval": 1.0}, "interval must be"),
        ({"interval": (float("nan"), 1.0)}, "interval must be"),
    ],
    ids=str,
)
def test_arguments(keywords, message):
    with pytest.raises(ValueError, match=message):
        Prism(**keywords)


def test_as_text():
    method = matfn.method("prism:degree=3,sketch=exact,interval=(0.5,2.0),warm=2")
    assert method == Prism(degree=3, sketch="exact", interval=(0.5, 2.0), warm=2)
    assert matfn.method(matfn.spec(method)) == method
